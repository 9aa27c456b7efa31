"""Trains toyworld's ranker, a miniature of rinna/japanese-cloob-vit-b-16: which Japanese caption
fits which picture.

    python -m corpora.miniature.make_ranker

In:  toyworld's training captions and their pictures, and toyworld's tokenizer.
Out: `ranker` among toyworld's models: a CLOOB in the published layout, with its tokenizer, weights
     in fp16. Takes ten minutes on one core; an interrupted run continues from `--work`; the same
     seed gives the same weights on the same machine.

It recognises which things there are, but not who stands where: role-swapped captions fit a picture
as well (0.45 of them worse), also in training. It is trained as CLIP was, by cross entropy over the
batch: what CLOOB adds matters for large models, and inference is the same.

Shape letters: B batch, P width of the shared space.
"""

import math
import random
import tempfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from sentencepiece.sentencepiece_model_pb2 import ModelProto
from torch import nn
from transformers.utils import logging

from configs.files import whole_folder, write_json
from configs.references import TOYWORLD_MODELS
from corpora.captions import cloob
from corpora.miniature.fit import TrainingStage, fit, maker_parser
from corpora.toyworld import captions, renderer

STAGE = TrainingStage("ranker", 1_500, 1.5e-3, ema=0.99, save_every=250)
SEED = 5_000
BATCH = 96
WIDTH, COMMON, PATCH = 64, 64, 8
SCALE = 20.0  # initial scale of the cosines
HELD_OUT, CANDIDATES = 400, 20


class Trained(nn.Module):
    """The ranker and the scale of its cosines, which a CLOOB does not save."""

    def __init__(self, model: cloob.Cloob) -> None:
        super().__init__()
        self.model = model
        self.log_scale = nn.Parameter(torch.tensor(math.log(SCALE)))


def train(folder: Path, work: Path) -> None:
    """Writes the model whole or not at all."""
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    logging.disable_progress_bar()
    work.mkdir(parents=True, exist_ok=True)
    with whole_folder(folder, replace=True) as partial:
        write_pieces(TOYWORLD_MODELS / "spiece.model", partial / "spiece.model")
        pieces = cloob.load_pieces(str(partial / "spiece.model"))
        settings = config(len(pieces))
        write_json(partial / "config.json", settings)
        trained = Trained(cloob.Cloob(settings, pieces))

        def loss(step: int) -> torch.Tensor:
            texts, images_BHW3 = batch_of(step)
            pixels_B3SS = torch.stack(
                [cloob.pixels(Image.fromarray(image), renderer.SIDE) for image in images_BHW3]
            )
            text_BP = F.normalize(
                trained.model.project_text(*trained.model.tokenize(texts)), dim=-1
            )
            image_BP = F.normalize(trained.model.project_images(pixels_B3SS), dim=-1)
            logits_BB = trained.log_scale.clamp(max=math.log(100)).exp() * text_BP @ image_BP.T
            target_B = torch.arange(len(texts))
            return (
                F.cross_entropy(logits_BB, target_B) + F.cross_entropy(logits_BB.T, target_B)
            ) / 2

        fit(STAGE, trained, loss, work)
        save_weights(trained.model, partial)
        print(
            f"{folder}: of {CANDIDATES} captions the matching one comes first for "
            f"{accuracy(partial):.3f} of {HELD_OUT} held-out pictures"
        )


def write_pieces(source: Path, target: Path) -> None:
    """Toyworld's tokenizer with the two pieces that CLOOB needs, in place of BOS and padding."""
    proto = ModelProto.FromString(source.read_bytes())
    for piece in proto.pieces:
        piece.piece = {"<s>": cloob.CLS, "<pad>": cloob.PAD}.get(piece.piece, piece.piece)
    # nine tenths of the file, for characters that no caption has
    proto.normalizer_spec.precompiled_charsmap = b""
    proto.normalizer_spec.name = "identity"
    target.write_bytes(proto.SerializeToString(deterministic=True))


def config(vocabulary: int) -> dict[str, Any]:
    tower: dict[str, Any] = {
        "hidden_size": WIDTH,
        "num_attention_heads": 4,
        "num_hidden_layers": 4,
        "intermediate_size": 2 * WIDTH,
    }
    tower |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    # the usual 0.02 is for wide models: here attention would start, and stay, nearly uniform
    tower["initializer_range"] = WIDTH**-0.5
    text = {
        **tower,
        "model_type": "bert",
        "vocab_size": vocabulary,
        "max_position_embeddings": cloob.POSITIONS,
        "pad_token_id": 3,
    }
    vision = {**tower, "model_type": "vit", "image_size": renderer.SIDE, "patch_size": PATCH}
    return {
        "model_type": "cloob",
        "projection_dim": COMMON,
        "text_config": text,
        "vision_config": vision,
    }


def batch_of(step: int) -> tuple[list[str], np.ndarray]:
    """Japanese captions and (B, H, W, 3) pictures of distinct training scenes: a pure function of
    the step.

    Captions of two things come with their role-swapped twins, so that words alone do not tell the
    pictures of a batch apart.
    """
    seed = zlib.crc32(f"ranker {step}".encode())
    scenes: dict[str, captions.Caption] = {}
    for one in captions.pairs(BATCH, "train", seed):
        twins = [one, captions.role_swapped(one)] if one.scene.relation else [one]
        scenes |= {twin.key: twin for twin in twins if twin.scene.split == "train"}
    chosen = list(scenes.values())[:BATCH]
    return [one.text for one in chosen], renderer.render(
        [one.scene for one in chosen], np.random.default_rng(seed)
    )


def save_weights(model: cloob.Cloob, folder: Path) -> None:
    """fp16, under a CLOOB's published names: `save_pretrained` names the towers' weights."""
    weights = {name: model.get_parameter(name).detach() for name in cloob.PROJECTIONS}
    for name in cloob.TOWERS:
        with tempfile.TemporaryDirectory() as temporary:
            getattr(model, name).save_pretrained(temporary)
            weights |= {
                f"{name}.{key}": tensor
                for key, tensor in load_file(Path(temporary) / "model.safetensors").items()
            }
    save_file(
        {name: tensor.half().contiguous() for name, tensor in weights.items()},
        folder / "model.safetensors",
    )


def accuracy(folder: Path) -> float:
    """The share of held-out pictures whose own caption ranks first among CANDIDATES held-out
    ones.
    """
    model = cloob.load(str(folder))
    pairs = list(
        {one.key: one for one in captions.pairs(HELD_OUT + 100, "held_out", SEED)}.values()
    )[:HELD_OUT]
    images = [
        Image.fromarray(image)
        for image in renderer.render([one.scene for one in pairs], np.random.default_rng(SEED))
    ]
    text_BP, image_BP = (
        F.normalize(model.text_features([one.text for one in pairs])),
        F.normalize(model.image_features(images)),
    )
    rng = random.Random(SEED)
    first = 0
    for row, image_P in enumerate(image_BP):
        others = rng.sample([other for other in range(len(pairs)) if other != row], CANDIDATES - 1)
        first += int((text_BP[[row, *others]] @ image_P).argmax() == 0)
    return first / len(pairs)


def main(argv: list[str] | None = None) -> int:
    arguments = maker_parser("ranker").parse_args(argv)
    train(arguments.out, arguments.work)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
