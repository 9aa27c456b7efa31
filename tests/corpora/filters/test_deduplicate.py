"""Duplicates against brute force, and a split that no text crosses."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.schema.corpora import NearDuplicates
from corpora.assemble import DROPPED, HELD_OUT, TRAIN, split
from corpora.filters.deduplicate import digest, first_of_each, near_digest
from corpora.filters.normalise import comparison_key
from corpora.toyworld import captions


def test_the_digest_is_the_same_everywhere_and_knows_its_parts() -> None:
    assert digest("赤い丸", "red circle") == 0xF3B0FE34C08A53A1
    assert digest("a", "b") != digest("b", "a") and digest("a", "b") != digest("ab")


@given(st.lists(st.integers(0, 8), max_size=30))
def test_the_first_of_equal_rows_is_kept(values: list[int]) -> None:
    expected = [values.index(value) for value in values]
    assert first_of_each(np.array(values, dtype=np.uint64)).tolist() == expected


@pytest.mark.parametrize(
    ("one", "other", "is_near"),
    [
        (("ベンチの男性。", "A man on a bench."), ("ベンチの男性", "a man on the bench"), True),
        (
            ("赤い丸、青い丸", "Red circle, blue circle"),
            ("赤い丸 青い丸！", "red circle; blue circle"),
            True,
        ),
        (("ベンチの男性", "a man on a bench"), ("ベンチの女性", "a woman on a bench"), False),
        (("犬が走る", "a dog runs"), ("猫が走る", "a cat runs"), False),
        (("2匹の犬", "two dogs"), ("3匹の犬", "three dogs"), False),
        (("犬がいる", "there is a dog"), ("犬はいない", "there is no dog"), False),
        (("犬", "a dog"), ("犬", "dogs"), False),
        (("その", "the"), ("その", "a"), False),  # articles alone are what the text says
        (("！", "!"), ("？", "?"), False),
    ],
)
def test_near_duplicates_have_the_same_words(
    one: tuple[str, str], other: tuple[str, str], is_near: bool
) -> None:
    digests = [near_digest(*map(comparison_key, texts), NearDuplicates()) for texts in (one, other)]
    assert (digests[0] == digests[1]) == is_near


def test_no_word_need_be_ignored() -> None:
    one, other = (
        near_digest("丸", en, NearDuplicates(ignored_words=[])) for en in ("a dog", "the dog")
    )
    assert one != other


ROWS = st.lists(
    st.tuples(
        st.integers(0, 6), st.integers(0, 6), st.sampled_from(["train", "held_out", "by_text"])
    ),
    min_size=1,
    max_size=40,
)


@settings(max_examples=200)
@given(ROWS, st.integers(0, 10), st.randoms(use_true_random=False))
def test_no_text_is_in_both_splits(
    rows: list[tuple[int, int, str]], count: int, rng: random.Random
) -> None:
    rows = list(
        {(ja, en): (ja, en, kind) for ja, en, kind in rows}.values()
    )  # exact duplicates are gone by then

    def places(rows: list[tuple[int, int, str]]) -> dict[tuple[int, int], int]:
        ja, en = (
            np.array([digest(str(row[side])) for row in rows], dtype=np.uint64) for side in (0, 1)
        )
        pair = np.array([digest(str(row[0]), str(row[1])) for row in rows], dtype=np.uint64)
        held_out, by_text = (
            np.array([row[2] == kind for row in rows]) for kind in ("held_out", "by_text")
        )
        return {
            row[:2]: int(place)
            for row, place in zip(rows, split(pair, ja, en, held_out, by_text, count), strict=True)
        }

    result = places(rows)
    train, held_out = (
        [row for row in rows if result[row[:2]] == place] for place in (TRAIN, HELD_OUT)
    )
    assert not {row[0] for row in train} & {row[0] for row in held_out}
    assert not {row[1] for row in train} & {row[1] for row in held_out}
    # exactly as many as asked for, none that was marked for training, and what is marked held out
    # stays so
    assert sum(row[2] == "by_text" for row in held_out) == min(
        count, sum(row[2] == "by_text" for row in rows)
    )
    assert all(row[2] != "train" for row in held_out) and all(
        result[row[:2]] == HELD_OUT for row in rows if row[2] == "held_out"
    )
    for row in rows:  # nothing is dropped without need
        if result[row[:2]] == DROPPED:
            assert any(row[0] == other[0] or row[1] == other[1] for other in held_out)
    rng.shuffle(rows)
    assert places(rows) == result, "the order of the rows decided"


def test_toyworld_captions_never_cross() -> None:
    """Held-out scenes share no caption with training scenes, so the rule above costs toyworld
    nothing.
    """
    train, held_out = ([*captions.pairs(3000, kind, seed=0)] for kind in ("train", "held_out"))
    for side in ("text", "en", "key"):
        assert not {getattr(one, side) for one in train} & {getattr(one, side) for one in held_out}
