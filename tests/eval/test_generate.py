"""How pictures are held against English captions and English pictures: numbers that must come out
exactly, on tiny random models.
"""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import PAIRS
from PIL import Image
from transformers import (
    BitImageProcessor,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    Dinov2Config,
    Dinov2Model,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
    SiglipProcessor,
)

from configs.errors import DataError
from configs.schema.load import load_recipe
from configs.schema.recipe import Eval
from eval.generate import __main__ as generate_entry
from eval.pictures import agreement, stock_models
from eval.rows import OTHER_CAPTION

SIDE = 48
SIZES = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
VISION = SIZES | {"image_size": 32, "patch_size": 8}
TEXT = SIZES | {
    "vocab_size": 514,
    "max_position_embeddings": 24,
    "bos_token_id": 512,
    "eos_token_id": 513,
    "pad_token_id": 1,
}
CAPTIONS = [
    "a big red circle",
    "a ring",
    "two small squares on a white background, one of them blue",
]  # the last is too long for the models


def write_clip(folder: Path, tokenizer: Path, kind: str) -> str:
    """A tiny CLIP or SigLIP with conftest's byte tokenizer."""
    from transformers import CLIPTokenizer

    torch.manual_seed(0)
    text, size = CLIPTokenizer.from_pretrained(tokenizer), {"height": 32, "width": 32}
    if kind == "clip":
        CLIPModel(
            CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=12)
        ).save_pretrained(folder)
        CLIPProcessor(
            CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=size), text
        ).save_pretrained(folder)
    else:
        SiglipModel(SiglipConfig(text_config=TEXT, vision_config=VISION)).save_pretrained(folder)
        text.model_input_names = ["input_ids"]  # as SigLIP's own, which was trained without a mask
        SiglipProcessor(SiglipImageProcessor(size=size), text).save_pretrained(folder)
    return str(folder)


def write_dino(folder: Path) -> str:
    torch.manual_seed(1)
    Dinov2Model(Dinov2Config(**VISION)).save_pretrained(folder)
    BitImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    ).save_pretrained(folder)
    return str(folder)


def write_alexnet(path: Path) -> str:
    """Torchvision's layout, without the classifier, which LPIPS does not read."""
    import torchvision

    torch.manual_seed(2)
    features = torchvision.models.alexnet().features
    torch.save({f"features.{name}": tensor for name, tensor in features.state_dict().items()}, path)
    return str(path)


@pytest.fixture
def painted(tmp_path: Path) -> dict[str, list[Path]]:
    """Three rows of three pictures: the English one, the same again, and noise."""
    rng = np.random.default_rng(0)
    rows = {
        row: [tmp_path / row / f"{i}.png" for i in range(3)] for row in ("english", "same", "noise")
    }
    pictures = [rng.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8) for _ in range(6)]
    for number, paths in enumerate(rows.values()):
        paths[0].parent.mkdir()
        for i, path in enumerate(paths):
            Image.fromarray(pictures[i + 3 * (number == 2)]).save(path)
    return rows


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_agreement_is_what_the_models_say(
    tiny_sdxl: Path, painted: dict[str, list[Path]], tmp_path: Path, kind: str
) -> None:
    """Equal pictures agree wholly; every other number is the model's own, worked out here for one
    picture at a time.
    """
    clip, dino = (
        write_clip(tmp_path / "clip", tiny_sdxl / "base" / "tokenizer", kind),
        write_dino(tmp_path / "dino"),
    )
    alexnet = write_alexnet(tmp_path / "alexnet.pth")
    found = agreement.compare(
        painted,
        "english",
        CAPTIONS,
        Eval(batch_size=2, clip_model=clip, dino_model=dino, lpips_model=alexnet),
    )
    assert set(found["english"]) == {"clip_text"}
    assert (
        set(found["noise"])
        == set(found[OTHER_CAPTION])
        == {"clip_text", "clip_image", "dino", "lpips", "rms_difference"}
    )
    assert found["same"]["clip_text"] == pytest.approx(found["english"]["clip_text"])
    assert found["same"]["clip_image"] == pytest.approx([1.0] * 3) and found["same"][
        "dino"
    ] == pytest.approx([1.0] * 3)
    assert found["same"]["lpips"] == [0.0] * 3 and found["same"]["rms_difference"] == [0.0] * 3

    from transformers import AutoImageProcessor, AutoModel, AutoProcessor

    model, processor = AutoModel.from_pretrained(clip).eval(), AutoProcessor.from_pretrained(clip)
    dino_model, dino_processor = (
        AutoModel.from_pretrained(dino).eval(),
        AutoImageProcessor.from_pretrained(dino),
    )
    for i, caption in enumerate(CAPTIONS):
        english, noise = (Image.open(painted[row][i]) for row in ("english", "noise"))
        pad = {"padding": "max_length", "truncation": True, "max_length": 24}
        with torch.no_grad():
            inputs = processor(text=[caption], images=[english, noise], return_tensors="pt", **pad)
            if kind == "siglip":
                del inputs[
                    "attention_mask"
                ]  # its pads are read: it was trained so, and its own tokenizer gives none
            output = model(**inputs)
            states = dino_model(
                **dino_processor([english, noise], return_tensors="pt")
            ).last_hidden_state[:, 0]
        assert found["noise"]["clip_text"][i] == pytest.approx(
            (output.image_embeds[1] @ output.text_embeds[0]).item(), abs=1e-5
        )
        assert found["noise"]["clip_image"][i] == pytest.approx(
            (output.image_embeds[0] @ output.image_embeds[1]).item(), abs=1e-5
        )
        assert found["noise"]["dino"][i] == pytest.approx(
            torch.cosine_similarity(*states, dim=0).item(), abs=1e-5
        )
        a, b = (np.asarray(picture, dtype=np.float64) for picture in (english, noise))
        assert found["noise"]["rms_difference"][i] == pytest.approx(
            ((a - b) ** 2).mean() ** 0.5 / 255
        )
    # the next caption's picture in this one's place
    swapped = agreement.compare(
        {"english": painted["english"], "next": painted["english"][1:] + painted["english"][:1]},
        "english",
        CAPTIONS,
        Eval(),
    )
    assert swapped["next"]["rms_difference"] == found[OTHER_CAPTION]["rms_difference"]


def test_lpips_reads_the_given_weights(painted: dict[str, list[Path]], tmp_path: Path) -> None:
    """The package's own LPIPS with a random AlexNet; the same AlexNet from a file must measure the
    same.
    """
    import warnings

    import lpips

    torch.manual_seed(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        own = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    path = tmp_path / "alexnet.pth"
    torch.save(
        {
            f"features.{name.partition('.')[2]}": tensor
            for name, tensor in own.net.state_dict().items()
        },
        path,
    )
    found = agreement.compare(painted, "english", CAPTIONS, Eval(lpips_model=str(path)))["noise"][
        "lpips"
    ]
    for i, value in enumerate(found):
        a, b = (
            torch.tensor(np.asarray(Image.open(painted[row][i]))).permute(2, 0, 1)[None] / 127.5 - 1
            for row in ("english", "noise")
        )
        assert value == pytest.approx(own(a, b).item(), rel=1e-4) and value > 0.001


def test_the_interval_of_a_mean_covers_as_often_as_it_says() -> None:
    """Of 300 samples of 40 skewed numbers, about 95 % of the intervals hold the true mean."""
    rng = np.random.default_rng(0)
    intervals = [agreement.mean(rng.exponential(1.0, 40).tolist(), seed=i) for i in range(300)]
    assert 0.88 <= np.mean([one["low"] <= 1.0 <= one["high"] for one in intervals]) <= 0.98
    assert all(
        one["low"] <= one["value"] <= one["high"] and one["total"] == 40 for one in intervals
    )
    assert agreement.mean([0.5], seed=0) == {"value": 0.5, "low": 0.5, "high": 0.5, "total": 1}


def test_a_model_that_cannot_judge_is_named(
    tiny_sdxl: Path, painted: dict[str, list[Path]], tmp_path: Path
) -> None:
    clip, dino = (
        write_clip(tmp_path / "clip", tiny_sdxl / "base" / "tokenizer", "clip"),
        write_dino(tmp_path / "dino"),
    )
    (tmp_path / "broken.pth").write_bytes(b"no weights")
    torch.save({"x": torch.zeros(1)}, tmp_path / "other.pth")
    wrong = {
        "eval.clip_model: .*missing cannot be loaded": Eval(clip_model=str(tmp_path / "missing")),
        "is a Dinov2Model, which compares no texts with pictures": Eval(clip_model=dino),
        "is a CLIPModel .*; give a DINOv2": Eval(dino_model=clip),
        "broken.pth cannot be loaded .*; give torchvision's AlexNet weights": Eval(
            lpips_model=str(tmp_path / "broken.pth")
        ),
        "other.pth cannot be loaded .*features": Eval(lpips_model=str(tmp_path / "other.pth")),
    }
    for message, settings in wrong.items():
        with pytest.raises(DataError, match=message) as error:
            agreement.compare(painted, "english", CAPTIONS, settings)
        assert "\n" not in str(error.value)
    with pytest.raises(
        DataError, match=r"lacks weights of a CLIPModel \(logit_scale and \d+ more\)"
    ):  # transformers would make them up
        stock_models.load("eval.clip_model", dino, CLIPModel, BitImageProcessor)


def test_generate_writes_agreement_by_row_and_source(
    tiny_sdxl: Path, finished_run: Callable[..., str], tmp_path: Path
) -> None:
    """A recipe of files has no scenes; what it has is agreement, and another judge is another
    result of the same pictures.
    """
    recipe = finished_run(
        source={"kind": "tsv", "name": "x", "path": "x", "licence": "x"}, prompts=PAIRS
    )
    folder = load_recipe(recipe).run_dir / "eval"
    assert generate_entry.main([recipe]) == 0
    first = json.loads((folder / "pictures.json").read_text())
    assert first["rows"] == {"teacher": {}, "student": {}} and first["agreement"]["teacher"] == {}
    assert set(first["agreement"]["student"]) == {"rms_difference"}
    made = (folder / "pictures" / "student" / "0000.png").stat().st_mtime_ns
    clip = write_clip(tmp_path / "clip", tiny_sdxl / "base" / "tokenizer", "clip")
    assert generate_entry.main([recipe, f"eval.clip_model={clip}"]) == 0
    second = json.loads((folder / "pictures.json").read_text())
    assert set(second["agreement"]["student"]) == {
        "clip_text",
        "clip_image",
        "rms_difference",
    }
    assert set(second["agreement"]["teacher"]) == {"clip_text"}
    assert (
        second["agreement"]["student"]["rms_difference"]
        == first["agreement"]["student"]["rms_difference"]
    )
    assert (folder / "pictures" / "student" / "0000.png").stat().st_mtime_ns == made
    picture = folder / "pictures" / "student" / "0000.png"
    whole = picture.read_bytes()
    picture.write_bytes(whole[:-30])  # damaged: neither measured nor shown, but painted again
    assert generate_entry.main([recipe, f"eval.clip_model={clip}"]) == 0
    assert (
        picture.read_bytes() == whole
        and json.loads((folder / "pictures.json").read_text()) == second
    )
    by_source = second["agreement_by_source"]
    assert sum(part["clip_image"]["total"] for part in by_source.values()) == PAIRS
