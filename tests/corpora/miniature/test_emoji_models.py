"""What emojiworld's makers made: the tokenizer splits rare names, as one does in life; the
autoencoder's design; articles and plurals of the names.
"""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import torch

from configs.errors import DataError
from configs.references import EMOJIWORLD_MODELS, ModelName
from corpora.emojiworld import captions
from corpora.emojiworld.concepts import everything
from corpora.miniature import english_forms, measure_reader, miniature_accuracy, train_miniature
from corpora.miniature.design import of_emojiworld
from corpora.miniature.make_emoji_tokenizer import PIECES
from corpora.worlds import emojiworld

MODEL = EMOJIWORLD_MODELS / "spiece.model"


def test_frequent_words_are_pieces_and_rare_names_fall_into_several() -> None:
    assert ModelName("emojiworld:spiece.model").path == str(MODEL)
    assert MODEL.stat().st_size < 300_000
    model = sentencepiece.SentencePieceProcessor(model_file=str(MODEL))
    assert model.vocab_size() == 8_000
    special = (model.unk_id(), model.bos_id(), model.eos_id(), model.pad_id())
    assert special == (0, 1, 2, 3)
    pieces = {one: len(model.encode(one.ja[0], out_type=str)) - 1 for one in everything()}
    # "▁" before a text is a piece of its own or a part of the first
    assert np.mean([count >= 2 for count in pieces.values()]) > 0.5
    assert max(pieces.values()) <= 16
    for text in ("猫が好きです。", "🍙𠮷野家 café", "a red picture"):
        assert model.decode(model.encode(text)) == text


def test_korean_captions_fit_their_tokenizer() -> None:
    """No character is lost, and the longest caption is far from the 77 positions."""
    model = sentencepiece.SentencePieceProcessor(
        model_file=str(EMOJIWORLD_MODELS / "spiece_ko.model")
    )
    assert model.vocab_size() == PIECES["ko"]
    texts = [one.text for one in captions.pairs(500, "train", 1, 300, language="ko")]
    assert all(model.decode(model.encode(text)) == text for text in texts)
    assert max(len(model.encode(text)) for text in texts) <= 60


def test_two_steps_of_each_model_make_a_teacher(tmp_path: Path) -> None:
    """The whole road of training, of a few concepts and small models: base and refiner that stock
    pipelines paint with, and a second start that trains nothing.
    """
    whole = of_emojiworld(100)
    design = replace(
        whole,
        models=tmp_path / "models",
        stages={
            name: replace(stage, steps=2, save_every=1) for name, stage in whole.stages.items()
        },
        vae_widths=(8, 8, 16),
        vae_batch=2,
        text_widths=(16, 32),
        unet_widths={"base": (8, 16), "refiner": (8, 16)},
    )
    for _ in range(2):
        train_miniature.train(tmp_path / "work", design)
    found = miniature_accuracy.measure(design, count=4, batch=4)
    assert set(found) == {"base", "base_then_refiner"}
    assert all(0 <= share <= 1 for shares in found.values() for share in shares.values())
    saved = torch.load(tmp_path / "work" / "base.pt", weights_only=True)
    assert saved["step"] == 2
    config = json.loads((design.models / "base" / "vae" / "config.json").read_text())
    assert len(config["latents_mean"]) == 4 and config["sample_size"] == 64
    with pytest.raises(DataError, match="captions with other words; move it away"):
        train_miniature.train(tmp_path / "other", replace(design, world=emojiworld(20, alike=True)))


def test_scenes_are_read_right_from_pictures_and_after_the_autoencoder() -> None:
    found = measure_reader.measure(64, (300,))["300"]
    assert found["rendered"] == {"scenes": 1.0, "things": 1.0}
    assert found["autoencoder"]["scenes"] >= 0.97  # 0.99 of 480: one picture is 0.016 here
    assert set(found) == {*measure_reader.WORSE, "autoencoder"}


@pytest.mark.parametrize(
    ("name", "with_article", "plural"),
    [
        ("umbrella", "an umbrella", "umbrellas"),
        ("unicorn", "a unicorn", "unicorns"),
        ("hourglass", "an hourglass", "hourglasses"),
        ("glass of milk", "a glass of milk", "glasses of milk"),
        ("standing person", "a standing person", "standing people"),
        ("octopus", "an octopus", "octopuses"),
        ("wolf", "a wolf", "wolves"),
        ("fairy", "a fairy", "fairies"),
        ("grapes", "grapes", ""),
        ("popcorn", "popcorn", ""),
        ("sun", "the sun", ""),
        ("Mount Fuji", "Mount Fuji", ""),
        ("face in clouds", "a face in clouds", ""),
    ],
)
def test_articles_and_plurals(name: str, with_article: str, plural: str) -> None:
    assert english_forms.with_article(name) == with_article
    assert english_forms.plural(name) == plural


def test_the_names_in_the_repository_have_the_articles_of_today() -> None:
    for one in everything():
        bare = [re.sub("^(?:an?|the) ", "", name) for name in one.en]
        assert tuple(map(english_forms.with_article, bare)) == one.en
        assert english_forms.plural(bare[0]) == one.plural
