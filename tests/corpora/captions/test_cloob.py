"""CLOOB, its weights under their published names, computes what plain torch functions compute from
the same weights.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from sentencepiece.sentencepiece_model_pb2 import ModelProto
from torchvision import transforms

from configs.errors import DataError
from configs.references import TOYWORLD_MODELS
from corpora.captions import cloob

WIDTH, LAYERS, HEADS, SIDE, PATCH, COMMON = 12, 2, 3, 16, 4, 7
TEXTS = ["白い背景に、大きい青い四角の左に小さい赤い丸がある", "丸", "", "赤い丸 " * 60]


def published_names() -> dict[str, tuple[int, ...]]:
    """The names and shapes of a CLOOB's weights as the repository of 2022 has them."""
    blocks = {
        "text_model.encoder.layer.{}.": {
            "attention.self.query": (WIDTH, WIDTH),
            "attention.self.key": (WIDTH, WIDTH),
            "attention.self.value": (WIDTH, WIDTH),
            "attention.output.dense": (WIDTH, WIDTH),
            "attention.output.LayerNorm": (WIDTH,),
            "intermediate.dense": (2 * WIDTH, WIDTH),
            "output.dense": (WIDTH, 2 * WIDTH),
            "output.LayerNorm": (WIDTH,),
        },
        "vision_model.encoder.layer.{}.": {
            "attention.attention.query": (WIDTH, WIDTH),
            "attention.attention.key": (WIDTH, WIDTH),
            "attention.attention.value": (WIDTH, WIDTH),
            "attention.output.dense": (WIDTH, WIDTH),
            "intermediate.dense": (2 * WIDTH, WIDTH),
            "output.dense": (WIDTH, 2 * WIDTH),
            "layernorm_before": (WIDTH,),
            "layernorm_after": (WIDTH,),
        },
    }
    with_bias = {"text_model.embeddings.LayerNorm": (WIDTH,), "vision_model.layernorm": (WIDTH,)}
    with_bias |= {"vision_model.embeddings.patch_embeddings.projection": (WIDTH, 3, PATCH, PATCH)}
    for prefix, names in blocks.items():
        with_bias |= {
            prefix.format(layer) + name: shape
            for layer in range(LAYERS)
            for name, shape in names.items()
        }
    shapes = {f"{name}.weight": shape for name, shape in with_bias.items()} | {
        f"{name}.bias": shape[:1] for name, shape in with_bias.items()
    }
    return shapes | {
        "text_model.embeddings.word_embeddings.weight": (vocabulary(), WIDTH),
        "text_model.embeddings.position_embeddings.weight": (80, WIDTH),
        "text_model.embeddings.token_type_embeddings.weight": (2, WIDTH),
        "vision_model.embeddings.cls_token": (1, 1, WIDTH),
        "vision_model.embeddings.position_embeddings": (1, (SIDE // PATCH) ** 2 + 1, WIDTH),
        "text_projection.weight": (COMMON, WIDTH),
        "visual_projection.weight": (COMMON, WIDTH),
    }


def vocabulary() -> int:
    return len(
        sentencepiece.SentencePieceProcessor(model_file=str(TOYWORLD_MODELS / "spiece.model"))
    )


def save(folder: Path, kind: str = "roberta", pickled: bool = False) -> dict[str, torch.Tensor]:
    proto = ModelProto.FromString((TOYWORLD_MODELS / "spiece.model").read_bytes())
    proto.pieces[1].piece, proto.pieces[3].piece = "[CLS]", "[PAD]"
    (folder / "spiece.model").write_bytes(proto.SerializeToString())
    tower = {
        "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "intermediate_size": 2 * WIDTH,
    }
    text = {
        **tower,
        "model_type": kind,
        "vocab_size": vocabulary(),
        "max_position_embeddings": 80,
        "type_vocab_size": 2,
        "pad_token_id": 3,
    }
    vision = {**tower, "model_type": "vit", "image_size": SIDE, "patch_size": PATCH}
    config = {
        "model_type": "cloob",
        "text_config": text,
        "vision_config": vision,
        "projection_dim": COMMON,
        "init_inv_tau": 30.0,
    }
    (folder / "config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    weights = {
        name: torch.randn(shape) * (1.0 if len(shape) == 1 else shape[-1] ** -0.5)
        for name, shape in published_names().items()
    }
    counted = {"text_model.embeddings.position_ids": torch.arange(80)[None]}
    if pickled:
        torch.save(weights | counted, folder / "pytorch_model.bin")
    else:
        save_file(weights, folder / "model.safetensors")
    return weights


def linear(x: torch.Tensor, weights: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def norm(x: torch.Tensor, weights: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    return F.layer_norm(x, (WIDTH,), weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-12)


def attention(x_LD: torch.Tensor, weights: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    q, k, v = (
        linear(x_LD, weights, f"{name}.{part}").unflatten(-1, (HEADS, -1)).transpose(0, 1)
        for part in ("query", "key", "value")
    )
    scores = (q @ k.transpose(1, 2) / (WIDTH // HEADS) ** 0.5).softmax(dim=-1)
    return (scores @ v).transpose(0, 1).flatten(1)


def plain_text(ids: list[int], weights: dict[str, torch.Tensor]) -> torch.Tensor:
    """One text without pads: BERT normalises behind every residual sum."""
    own = {name.removeprefix("text_model."): tensor for name, tensor in weights.items()}
    x = (
        own["embeddings.word_embeddings.weight"][ids]
        + own["embeddings.position_embeddings.weight"][: len(ids)]
    )
    x = norm(x + own["embeddings.token_type_embeddings.weight"][0], own, "embeddings.LayerNorm")
    for layer in (f"encoder.layer.{number}." for number in range(LAYERS)):
        attended = linear(
            attention(x, own, f"{layer}attention.self"), own, f"{layer}attention.output.dense"
        )
        x = norm(x + attended, own, f"{layer}attention.output.LayerNorm")
        inner = linear(
            F.gelu(linear(x, own, f"{layer}intermediate.dense")), own, f"{layer}output.dense"
        )
        x = norm(x + inner, own, f"{layer}output.LayerNorm")
    return own["text_projection.weight"] @ x[0]


def plain_image(pixels_3SS: torch.Tensor, weights: dict[str, torch.Tensor]) -> torch.Tensor:
    """One picture: ViT normalises before every part, and once at the end."""
    own = {name.removeprefix("vision_model."): tensor for name, tensor in weights.items()}
    patches = (
        pixels_3SS.unfold(1, PATCH, PATCH)
        .unfold(2, PATCH, PATCH)
        .permute(1, 2, 0, 3, 4)
        .flatten(0, 1)
        .flatten(1)
    )
    embedding = "embeddings.patch_embeddings.projection"
    x = patches @ own[f"{embedding}.weight"].flatten(1).T + own[f"{embedding}.bias"]
    x = torch.cat([own["embeddings.cls_token"][0], x]) + own["embeddings.position_embeddings"][0]
    for layer in (f"encoder.layer.{number}." for number in range(LAYERS)):
        x = x + linear(
            attention(norm(x, own, f"{layer}layernorm_before"), own, f"{layer}attention.attention"),
            own,
            f"{layer}attention.output.dense",
        )
        inner = F.gelu(
            linear(norm(x, own, f"{layer}layernorm_after"), own, f"{layer}intermediate.dense")
        )
        x = x + linear(inner, own, f"{layer}output.dense")
    return own["visual_projection.weight"] @ norm(x, own, "layernorm")[0]


@pytest.mark.parametrize(("kind", "pickled"), [("roberta", True), ("bert", False)])
def test_features_are_those_of_plain_functions(tmp_path: Path, kind: str, pickled: bool) -> None:
    weights = save(tmp_path, kind, pickled)
    model = cloob.load(str(tmp_path))
    pieces = model.pieces
    wanted = torch.stack([plain_text([1, *pieces.encode(text)[:76]], weights) for text in TEXTS])
    found = model.text_features(TEXTS)  # padded to 77, the longest
    assert found.shape == (len(TEXTS), COMMON) and torch.allclose(found, wanted, atol=1e-5)
    assert torch.allclose(model.text_features(TEXTS[1:2]), wanted[1:2], atol=1e-5)
    pictures = [
        Image.fromarray(np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8))
        for size in ((40, 23, 3), (16, 16, 3), (9, 30, 3))
    ]
    steps = [
        transforms.Resize(SIDE),
        transforms.CenterCrop(SIDE),
        transforms.ToTensor(),
        transforms.Normalize(cloob.MEAN, cloob.STD),
    ]
    transform = transforms.Compose(steps)
    wanted = torch.stack([plain_image(transform(picture), weights) for picture in pictures])
    assert torch.allclose(model.image_features(pictures), wanted, atol=1e-5)


def test_texts_are_lower_cased_and_begin_with_the_class_piece(tmp_path: Path) -> None:
    save(tmp_path)
    model = cloob.load(str(tmp_path), str(tmp_path / "spiece.model"))
    ids, mask = model.tokenize(["RED circle", "a"])
    assert torch.equal(ids, model.tokenize(["red circle", "a"])[0]) and ids[:, 0].tolist() == [1, 1]
    assert mask[1].tolist() == [1] * int(mask[1].sum()) + [0] * int((ids[1] == 3).sum())


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            lambda w: w.pop("text_model.encoder.layer.1.output.dense.bias"),
            r"1 weights .*text_model.encoder.layer.1.output.dense.bias \(missing\)",
        ),
        (lambda w: w.pop("visual_projection.weight"), r"visual_projection.weight \(missing\)"),
        (
            lambda w: w.update({"text_model.pooler.dense.bias": torch.zeros(3)}),
            r"text_model.pooler.dense.bias \(left over\)",
        ),
        (lambda w: w.update(logit_scale=torch.zeros(1)), r"logit_scale \(left over\)"),
        (
            lambda w: w.update({"text_projection.weight": torch.zeros(3, 3)}),
            r"text_projection.weight \(of another shape\)",
        ),
        (
            lambda w: w.update({"vision_model.layernorm.bias": torch.zeros(3)}),
            r"vision_model.layernorm.bias \(of another shape\)",
        ),
    ],
)
def test_every_weight_is_accounted_for(tmp_path: Path, change, line: str) -> None:
    weights = save(tmp_path)
    change(weights)
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(DataError, match=line) as caught:
        cloob.load(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_what_is_no_cloob_is_one_line(tmp_path: Path) -> None:
    save(tmp_path)
    with pytest.raises(DataError, match="knows no \\[CLS\\]"):
        cloob.load(str(tmp_path), str(TOYWORLD_MODELS / "spiece.model"))
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"model\.safetensors: cannot be read"):
        cloob.load(str(tmp_path))
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(DataError, match=r"pytorch_model\.bin: there is no such file"):
        cloob.load(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(DataError, match="describes a 'clip'"):
        cloob.load(str(tmp_path))
