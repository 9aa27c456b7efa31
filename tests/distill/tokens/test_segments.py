"""Spaces around words: the ids that other programs' segments give, drawn by row and seed alone."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import write_pairs
from hypothesis import given, settings
from hypothesis import strategies as st

from configs import artefact
from configs.references import TOYWORLD_MODELS
from configs.schema.load import load_recipe
from corpora.toyworld import captions
from distill.encoders.family import SDXL
from distill.tokenizer import portable
from distill.tokens import segments, store

PAIRS = [(caption.ja, caption.en) for caption in captions.pairs(60, "train", 0)]
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
    found = segments.spaced(JAPANESE, 0, 1.0, 0, tokenizer)
    for text, spaced in zip(JAPANESE, found, strict=True):
        parts = spaced.split(" ")
        assert "".join(parts) == text and all(parts) and len(parts) > 1
        assert ids(tokenizer, spaced) == [i for part in parts for i in ids(tokenizer, part)]
    assert {len(spaced.split(" ")) for spaced in found} >= {2, 3, 4, 5, 6}


def test_a_rows_draw_depends_on_the_row_and_the_seed_alone(tokenizer: Any) -> None:
    whole = segments.spaced(JAPANESE, 100, 0.5, 0, tokenizer)
    pieces = [
        one
        for start in range(0, 60, 7)
        for one in segments.spaced(JAPANESE[start : start + 7], 100 + start, 0.5, 0, tokenizer)
    ]
    assert pieces == whole != segments.spaced(JAPANESE, 100, 0.5, 1, tokenizer)
    changed = sum(one != other for one, other in zip(whole, JAPANESE, strict=True))
    assert 15 < changed < 45
    assert segments.spaced(JAPANESE, 100, 0.0, 0, tokenizer) == JAPANESE


@settings(max_examples=200, deadline=None)
@given(text=st.text("赤い丸を、aB1 é😀", max_size=20), seed=st.integers(0, 20))
def test_no_word_of_a_script_with_spaces_is_cut(tokenizer: Any, text: str, seed: int) -> None:
    (found,) = segments.spaced([text], 0, 1.0, seed, tokenizer)
    rest = iter(found)
    for place, sign in enumerate(text):  # only spaces are added, none at an end or beside another
        while (other := next(rest)) != sign:
            assert other == " " and place > 0 and " " not in text[place - 1 : place + 1]
            assert not (text[place - 1 : place + 1].isascii() and text[place].isalnum())
    assert not list(rest)


def test_the_stored_tokens(tmp_path: Path) -> None:
    """Only what the student reads in its language changes, and other shares are other tokens."""
    write_pairs(tmp_path / "pairs", PAIRS, "train")
    portable.build(TOYWORLD_MODELS / "spiece.model", tmp_path / "initial_student" / "tokenizer")
    artefact.seal(tmp_path / "initial_student", {})
    plain, half = (
        load_recipe(
            "configs/toyworld.yaml", [f"run={tmp_path}", f"distill.segmented_share={share}"]
        )
        for share in (0, 0.5)
    )
    before = {side: np.array(ids) for side, ids in store.prepare(plain, SDXL).ids.items()}
    assert store.stored(half, SDXL) is None and store.stored(plain, SDXL) is not None
    after = store.prepare(half, SDXL)
    assert [side for side in before if not np.array_equal(before[side], after.ids[side])] == [
        "text"
    ]
    tokenizer = portable.load(tmp_path / "initial_student" / "tokenizer")
    expected = segments.spaced([ja for ja, _ in PAIRS], 0, 0.5, 0, tokenizer)
    row = next(i for i, (ja, _) in enumerate(PAIRS) if expected[i] != ja)
    assert after.row("text", row).tolist() == tokenizer(expected[row]).input_ids
    assert store.stored(half, SDXL) is not None and store.stored(plain, SDXL) is None
