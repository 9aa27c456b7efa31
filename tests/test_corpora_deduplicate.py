"""Duplicates against brute force, and a split that no text crosses."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.errors import RecipeError
from configs.schema import NearDuplicates
from corpora import deduplicate
from corpora.assemble import DROPPED, HELD_OUT, TRAIN, split
from corpora.deduplicate import NearDuplicateIndex, digest, first_of_each, jaccard, shingles, signatures
from corpora.toyworld import captions


def test_the_digest_is_the_same_everywhere_and_knows_its_parts() -> None:
    assert digest("赤い丸", "red circle") == 0xF3B0FE34C08A53A1
    assert digest("a", "b") != digest("b", "a") and digest("a", "b") != digest("ab")


@given(st.lists(st.integers(0, 8), max_size=30))
def test_the_first_of_equal_rows_is_kept(values: list[int]) -> None:
    expected = [values.index(value) for value in values]
    assert first_of_each(np.array(values, dtype=np.uint64)).tolist() == expected


@given(st.text(max_size=12), st.integers(1, 5))
def test_a_shingle_has_one_hash_wherever_it_stands(text: str, ngram: int) -> None:
    hashes = deduplicate._shingle_hashes(text, ngram)
    windows = [text[start : start + ngram] for start in range(max(1, len(text) - ngram + 1))]
    assert set(windows) == shingles(text, ngram) and len(hashes) == len(windows)
    by_window: dict[str, set[int]] = {}
    for window, value in zip(windows, hashes, strict=True):
        by_window.setdefault(window, set()).add(value)
        assert deduplicate._shingle_hashes(window, ngram) == [value]
    assert all(len(values) == 1 for values in by_window.values())


def variations(count: int) -> list[str]:
    """Captions, and copies of some of them with a few characters changed."""
    rng = random.Random(7)
    texts = []
    for caption in captions.pairs(count, "train", seed=3):
        texts.append(f"{caption.ja}\n{caption.en}")
        if rng.random() < 0.5:
            changed = list(rng.choice(texts))
            for _ in range(rng.randint(0, 3)):
                changed[rng.randrange(len(changed))] = rng.choice("abc赤青緑")
            texts.append("".join(changed))
    return texts


@pytest.mark.parametrize("threshold", [0.8, 0.9])
def test_near_duplicates_against_brute_force(threshold: float) -> None:
    chosen = NearDuplicates(threshold=threshold)
    texts = variations(250)
    index, kept, missed, dropped = NearDuplicateIndex(chosen), [], 0, 0
    for text, signature in zip(texts, signatures(texts, chosen), strict=True):
        own = shingles(text, chosen.ngram)
        is_near = any(jaccard(own, other) >= threshold for other in kept)
        is_new = index.earlier(text, signature) is None
        assert is_near or is_new, "dropped a pair that is no near duplicate of a kept one"
        missed += is_near and is_new
        dropped += not is_new
        if is_new:
            kept.append(own)
    assert dropped > 40 and missed <= 0.1 * dropped, (dropped, missed)


def test_threshold_one_drops_equal_shingles_only() -> None:
    chosen = NearDuplicates(threshold=1.0)
    index = NearDuplicateIndex(chosen)
    texts = ["赤い丸\na red circle", "赤い丸\na red circle", "赤い丸\na red circles"]
    assert [index.earlier(*one) for one in zip(texts, signatures(texts, chosen), strict=True)] == [None, 0, None]


def test_settings_lsh_cannot_work_with() -> None:
    with pytest.raises(RecipeError, match=r"corpora\.near_duplicates: .*1 permutations"):
        NearDuplicateIndex(NearDuplicates(permutations=1))


ROWS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6), st.sampled_from(["train", "held_out", "by_text"])), min_size=1, max_size=40)


@settings(max_examples=200)
@given(ROWS, st.integers(0, 10), st.randoms(use_true_random=False))
def test_no_text_is_in_both_splits(rows: list[tuple[int, int, str]], count: int, rng: random.Random) -> None:
    rows = list({(ja, en): (ja, en, kind) for ja, en, kind in rows}.values())  # exact duplicates are gone by then

    def places(rows: list[tuple[int, int, str]]) -> dict[tuple[int, int], int]:
        ja, en = (np.array([digest(str(row[side])) for row in rows], dtype=np.uint64) for side in (0, 1))
        pair = np.array([digest(str(row[0]), str(row[1])) for row in rows], dtype=np.uint64)
        held_out, by_text = (np.array([row[2] == kind for row in rows]) for kind in ("held_out", "by_text"))
        return {row[:2]: int(place) for row, place in zip(rows, split(pair, ja, en, held_out, by_text, count), strict=True)}

    result = places(rows)
    train, held_out = ([row for row in rows if result[row[:2]] == place] for place in (TRAIN, HELD_OUT))
    assert not {row[0] for row in train} & {row[0] for row in held_out}
    assert not {row[1] for row in train} & {row[1] for row in held_out}
    # exactly as many as asked for, none that was marked for training, and what is marked held out stays so
    assert sum(row[2] == "by_text" for row in held_out) == min(count, sum(row[2] == "by_text" for row in rows))
    assert all(row[2] != "train" for row in held_out) and all(result[row[:2]] == HELD_OUT for row in rows if row[2] == "held_out")
    for row in rows:  # nothing is dropped without need
        if result[row[:2]] == DROPPED:
            assert any(row[0] == other[0] or row[1] == other[1] for other in held_out)
    rng.shuffle(rows)
    assert places(rows) == result, "the order of the rows decided"


def test_toyworld_captions_never_cross() -> None:
    """Held-out scenes share no caption with training scenes, so the rule above costs toyworld nothing."""
    train, held_out = ([*captions.pairs(3000, kind, seed=0)] for kind in ("train", "held_out"))
    for side in ("ja", "en", "key"):
        assert not {getattr(one, side) for one in train} & {getattr(one, side) for one in held_out}
