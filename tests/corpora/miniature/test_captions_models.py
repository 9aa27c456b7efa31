"""The small ranker and the small translator do in miniature what the real ones do, loaded by the
same code; made again they are the same.
"""

import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open

from configs.references import TOYWORLD_MODELS
from configs.schema.captions import Ranker
from corpora.captions import dual_encoder
from corpora.miniature import make_ranker, make_translator
from corpora.miniature.fit import TrainingStage
from corpora.toyworld import caption_reader, captions, renderer

HELD_OUT = list({one.key: one for one in captions.pairs(260, "held_out", 11)}.values())[:200]


def test_ranker_and_translator_stay_small() -> None:
    sizes = {
        name: sum(file.stat().st_size for file in (TOYWORLD_MODELS / name).rglob("*"))
        for name in ("ranker", "translator")
    }
    assert max(sizes.values()) < 1_000_000


def test_of_twenty_captions_the_matching_one_comes_first() -> None:
    encoder = dual_encoder.load(Ranker(model="toyworld:ranker"))
    images = [
        Image.fromarray(image)
        for image in renderer.render([one.scene for one in HELD_OUT], np.random.default_rng(0))
    ]
    rng, first = random.Random(0), 0
    for row, image in enumerate(images):
        others = rng.sample([other for other in range(len(HELD_OUT)) if other != row], 19)
        scores = dual_encoder.similarities(
            encoder, [HELD_OUT[other].text for other in (row, *others)], [image] * 20, 64
        )
        first += int(scores.argmax() == 0)
    assert first / len(HELD_OUT) > 0.97


def test_the_ranker_lies_as_the_published_one_does() -> None:
    with safe_open(TOYWORLD_MODELS / "ranker" / "model.safetensors", "np") as file:
        names = set(file.keys())
    assert {
        "text_projection.weight",
        "visual_projection.weight",
        "vision_model.embeddings.cls_token",
    } <= names
    assert "vision_model.encoder.layer.0.attention.attention.query.weight" in names
    assert "text_model.encoder.layer.0.attention.self.query.weight" in names


@pytest.mark.parametrize("module", [make_ranker, make_translator])
def test_the_same_seed_gives_the_same_model(
    module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STAGE", TrainingStage("short", 3, 1e-3))
    monkeypatch.setattr(module, "HELD_OUT", 25)
    for name in ("one", "other"):
        module.train(tmp_path / name, tmp_path / f"{name}_work")
    one, other = (
        {file.name: file.read_bytes() for file in (tmp_path / name).iterdir()}
        for name in ("one", "other")
    )
    assert one == other and set(one) == {
        file.name for file in (TOYWORLD_MODELS / module.__name__.rpartition("make_")[2]).iterdir()
    }


def test_english_captions_are_read_back_as_they_were_meant() -> None:
    for one in captions.pairs(2000, "train", 5):
        assert caption_reader.read(one.en) == one.scene
    for text in (
        "",
        "a red circle on a white background",
        "a small red ball on a white background",
        "a small red circle on a white background, too",
    ):
        assert caption_reader.read(text) is None
