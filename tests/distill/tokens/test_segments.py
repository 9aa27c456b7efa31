"""Spaces around words: the ids that other programs' segments give, drawn by row and seed alone."""

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.references import TOYWORLD_MODELS
from corpora.toyworld import captions
from distill.tokenizer import portable
from distill.tokens import segments

PAIRS = [(caption.text, caption.en) for caption in captions.pairs(60, "train", 0)]
JAPANESE = [ja.replace(" ", "") for ja, _ in PAIRS]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("tokenizer") / "student"
    portable.build(TOYWORLD_MODELS / "spiece.model", folder)
    return portable.load(folder)


def ids(tokenizer: Any, text: str) -> list[int]:
    found: list[int] = tokenizer(text, add_special_tokens=False).input_ids
    return found


def test_a_spaced_text_has_the_ids_of_its_segments(tokenizer: Any) -> None:
    """Those of each segment tokenised by itself, one after another; and nothing else changes."""
    draw = random.Random(0)
    found = [segments.spaced(text, draw, tokenizer) for text in JAPANESE]
    for text, spaced in zip(JAPANESE, found, strict=True):
        parts = spaced.split(" ")
        assert "".join(parts) == text and all(parts) and len(parts) > 1
        assert ids(tokenizer, spaced) == [i for part in parts for i in ids(tokenizer, part)]
    assert {len(spaced.split(" ")) for spaced in found} >= {2, 3, 4, 5, 6}


@settings(max_examples=200, deadline=None)
@given(text=st.text("赤い丸を、aB1 é😀", max_size=20), seed=st.integers(0, 20))
def test_no_word_of_a_script_with_spaces_is_cut(tokenizer: Any, text: str, seed: int) -> None:
    found = segments.spaced(text, random.Random(seed), tokenizer)
    rest = iter(found)
    for place, sign in enumerate(text):  # only spaces are added, none at an end or beside another
        while (other := next(rest)) != sign:
            assert other == " " and place > 0 and " " not in text[place - 1 : place + 1]
            assert not (text[place - 1 : place + 1].isascii() and text[place].isalnum())
    assert not list(rest)
