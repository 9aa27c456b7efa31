"""IBM model 1 against a plain implementation of the same formulas, and what its users rely on."""

from collections import defaultdict
from itertools import pairwise

import numpy as np
import pytest

from corpora import alignment
from corpora.alignment import Lexicon, Ragged

Rows = list[list[int]]
# 0 the / red / cat ... as numbers; each target word is a translation of one source word but 9
SOURCE: Rows = [[0, 1, 2], [0, 3], [1, 3], [2, 2], [4, 0, 1], [5]]
TARGET: Rows = [[1, 2, 9], [3, 9], [1, 3], [2, 2], [9, 1, 4], [5, 9]]


def plain(source: Rows, target: Rows, rounds: int, prior: float) -> dict[tuple[int, int], float]:
    """p(target | source) as in Brown et al. 1993, section 4.1, word by word; -1 is NULL."""
    words = max(word for row in target for word in row) + 1
    t: dict[tuple[int, int], float] = defaultdict(lambda: 1 / words)
    for _ in range(rounds):
        counts: dict[tuple[int, int], float] = defaultdict(float)
        for own, other in zip(source, target, strict=True):
            for word in other:
                given = [-1, *own]
                total = sum(t[one, word] for one in given)
                for one in given:
                    counts[one, word] += t[one, word] / total
        sums: dict[int, float] = defaultdict(float)
        for (one, _), count in counts.items():
            sums[one] += count
        t = defaultdict(float)
        for (one, word), count in counts.items():
            t[one, word] = count / (sums[one] + (prior if one >= 0 else 0))
    return t


def align(source: Ragged, target: Ragged, *settings: float, **named: float) -> Lexicon:
    return alignment.align(source, target, *settings, **named).lexicon()


def random_rows(seed: int, count: int) -> tuple[Rows, Rows]:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 6, (count, 2))
    source, target = (
        [rng.integers(0, 12, int(length)).tolist() for length in lengths[:, side]]
        for side in (0, 1)
    )
    return source, target


@pytest.mark.parametrize("prior", [0.0, 1.5])
@pytest.mark.parametrize("rounds", [1, 4])
def test_it_is_ibm_model_1_in_both_directions(prior: float, rounds: int) -> None:
    for source, target in [(SOURCE, TARGET), random_rows(0, 60)]:
        forward = plain(source, target, rounds, prior)
        backward = plain(target, source, rounds, prior)
        found = align(Ragged.of(source), Ragged.of(target), rounds, prior)
        cells = {(s, t) for a, b in zip(source, target, strict=True) for s in a for t in b}
        scores = {
            (int(s), int(t)): float(score)
            for s, t, score in zip(found.source, found.target, found.score, strict=True)
        }
        assert set(scores) == cells
        for s, t in cells:
            assert scores[s, t] == pytest.approx(forward[s, t] * backward[t, s], rel=1e-6)


def same(one: Lexicon, other: Lexicon, exactly: bool) -> bool:
    close = np.array_equal if exactly else np.allclose
    return all(close(a, b) for a, b in zip(one[:4], other[:4], strict=True))


def test_neither_blocks_nor_repetition_change_the_result() -> None:
    source, target = map(Ragged.of, random_rows(1, 200))
    whole = align(source, target)
    assert same(whole, align(source, target), exactly=True)
    by_key = np.lexsort((whole.target, whole.source))
    for block in (1, 7, 50):
        cut = align(source, target, block_positions=block)
        order = np.lexsort((cut.target, cut.source))
        for a, b in zip(whole[:4], cut[:4], strict=True):
            assert np.allclose(a[by_key], b[order], rtol=1e-5, atol=1e-9)


def test_the_likelihood_never_falls_and_the_translations_are_found() -> None:
    found = align(Ragged.of(SOURCE), Ragged.of(TARGET), rounds=12, prior=0)
    likelihood = np.array(found.log_likelihood)
    assert likelihood.shape == (12, 2) and (np.diff(likelihood, axis=0) >= -1e-9).all()
    begins = found.best(6)
    best = [int(found.target[begins[source]]) for source in range(6)]
    assert best == [9, 1, 2, 3, 4, 5]
    assert all((np.diff(found.score[first:last]) <= 0).all() for first, last in pairwise(begins))


def test_no_more_pairs_are_read_than_memory_is_meant_to_hold() -> None:
    source, target = map(Ragged.of, random_rows(2, 300))
    positions = int((source.lengths() * target.lengths()).sum())
    few = align(source, target, most_positions=-(-positions // 3))
    rows = range(0, 300, 3)
    chosen = [
        Ragged.of([side.ids[side.offsets[i] : side.offsets[i + 1]].tolist() for i in rows])
        for side in (source, target)
    ]
    assert few.pairs == 100 and same(few, align(*chosen), exactly=True)


def test_nothing_to_align_is_an_empty_lexicon() -> None:
    empty = align(Ragged.of([]), Ragged.of([]))
    assert len(empty.source) == 0 and empty.pairs == 0 and empty.best(3).tolist() == [0, 0, 0, 0]
    assert len(align(Ragged.of([[], [1]]), Ragged.of([[1], []])).source) == 0
