"""Which English word translates which word or piece, counted from parallel pairs: IBM model 1.

In:  the pairs as token ids of both sides (`Ragged`).
Out: an `AlignmentTable`, and its `Lexicon`; nothing on disk.

IBM model 1 (Brown et al. 1993, "The Mathematics of Statistical Machine Translation") says that each
target token is the translation of one source token of its pair, or of none (NULL), all equally
likely beforehand, and finds p(target | source) by expectation maximisation. It is run in both
directions, and a translation's score is the product of the two: a word that is probable both ways
is no function word, which translates everything a little.

The prior: a source token's counts are divided by their sum plus `prior`. Otherwise a token seen
once or twice gathers what the others leave over (Moore 2004, "Improving IBM Word-Alignment
Model 1").

Shape letters: C cells, the (source, target) couples that share a pair; S, T the vocabularies.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

ROUNDS = 6
PRIOR = 10.0
# Pairs of positions in memory at once, 12 bytes each while the rounds last; beyond that every
# second, third, ... pair is read. 40 million are about 350,000 captions.
MOST_POSITIONS = 40_000_000
BLOCK_POSITIONS = 2**21


class Ragged(NamedTuple):
    """Rows of different lengths: row i is `ids[offsets[i]:offsets[i + 1]]`."""

    ids: np.ndarray
    offsets: np.ndarray

    @classmethod
    def of(cls, rows: list[list[int]]) -> "Ragged":
        offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows], dtype=np.int64)])
        flat = [one for row in rows for one in row]
        return cls(np.array(flat, dtype=np.int32), offsets)

    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)

    def every(self, step: int) -> "Ragged":
        """Row 0 and each `step`-th after it."""
        if step == 1:
            return self
        starts, lengths = self.offsets[:-1][::step], self.lengths()[::step]
        return Ragged(self.ids[_ranges(starts, lengths)], np.append(0, np.cumsum(lengths)))


class Lexicon(NamedTuple):
    """The translations found, sorted by source, best first. All arrays are (C,).

    `score`: p(target | source) p(source | target). `seen`: how often the couple was aligned, the
    smaller of both directions' expected counts. `log_likelihood` of the targets in each round, for
    (source to target, target to source). `pairs`: how many were read.
    """

    source: np.ndarray
    target: np.ndarray
    score: np.ndarray
    seen: np.ndarray
    log_likelihood: list[tuple[float, float]]
    pairs: int

    def best(self, sources: int) -> np.ndarray:
        """(sources + 1,): where each source's translations begin."""
        return np.searchsorted(self.source, np.arange(sources + 1))


class AlignmentTable(NamedTuple):
    """What the pairs say of every couple of tokens that shares one: IBM model 1 both ways.

    `keys`: (C,) int64, sorted, source * `width` + target. `forward`: (C,) p(target | source),
    `backward`: (C,) p(source | target), `seen`: (C,) as in `Lexicon`. `null_targets`: (`width`,)
    p(target | NULL), `null_sources` likewise; all float64.
    """

    keys: np.ndarray
    width: int
    forward: np.ndarray
    backward: np.ndarray
    seen: np.ndarray
    null_targets: np.ndarray
    null_sources: np.ndarray
    log_likelihood: list[tuple[float, float]]
    pairs: int

    def lexicon(self) -> Lexicon:
        """The couples with their scores, best first for every source."""
        sources, targets = _couples(self.keys, self.width)
        score = self.forward * self.backward
        order = np.lexsort((targets, -score, sources))
        return Lexicon(
            sources[order],
            targets[order],
            score[order].astype(np.float32),
            self.seen[order].astype(np.float32),
            self.log_likelihood,
            self.pairs,
        )


class Block(NamedTuple):
    """Some pairs: for each pair of positions its cell, and the two positions, counted over the
    block; `source_ids`, `target_ids`: the ids of all positions; `source_sizes`, `target_sizes`: of
    each pair, how many it has.
    """

    cell: np.ndarray
    source: np.ndarray
    target: np.ndarray
    source_ids: np.ndarray
    target_ids: np.ndarray
    source_sizes: np.ndarray
    target_sizes: np.ndarray


class _Direction:
    """p(to | from) over the cells, and p(to | NULL)."""

    def __init__(self, given: np.ndarray, vocabulary: int, prior: float) -> None:
        self.given, self.prior = given, prior
        self.probability = np.full(len(given), 1 / vocabulary)
        self.null = np.full(vocabulary, 1 / vocabulary)
        self.forget()

    def forget(self) -> None:
        self.count, self.null_count = np.zeros(len(self.given)), np.zeros(len(self.null))
        self.log_likelihood = 0.0

    def expect(self, cell: np.ndarray, position: np.ndarray, ids: np.ndarray) -> None:
        """Adds a block's expected counts; `ids`: the generated tokens, `position`: which of them
        each cell generates.
        """
        share = self.probability[cell]
        total = np.bincount(position, share, len(ids)) + self.null[ids]
        share /= total[position]
        self.count += np.bincount(cell, share, len(self.count))
        self.null_count += np.bincount(ids, self.null[ids] / total, len(self.null))
        self.log_likelihood += float(np.log(total).sum())

    def maximise(self) -> None:
        given = np.bincount(self.given, self.count)
        self.probability = self.count / (given[self.given] + self.prior)
        self.null = self.null_count / max(self.null_count.sum(), np.finfo(float).tiny)


def align(
    source: Ragged,
    target: Ragged,
    rounds: int = ROUNDS,
    prior: float = PRIOR,
    most_positions: int = MOST_POSITIONS,
    block_positions: int = BLOCK_POSITIONS,
) -> AlignmentTable:
    """Aligns the pairs (row i of both sides). The same input gives the same result.

    Where the pairs hold more than `most_positions` couples of positions, only every n-th is read.
    """
    assert len(source.offsets) == len(target.offsets)
    positions = int((source.lengths() * target.lengths()).sum())
    step = max(1, -(-positions // most_positions))
    source, target = source.every(step), target.every(step)
    keys, blocks = _blocks(source, target, block_positions)
    width = _width(target)
    sources, targets = _couples(keys, width)
    forward = _Direction(sources, width, prior)
    backward = _Direction(targets, _width(source), prior)
    likelihood = []
    with tqdm(total=rounds * len(blocks), desc="aligning words", unit="block") as progress:
        for _ in range(rounds):
            for direction in (forward, backward):
                direction.forget()
            for block in blocks:
                forward.expect(block.cell, block.target, block.target_ids)
                backward.expect(block.cell, block.source, block.source_ids)
                progress.update()
            for direction in (forward, backward):
                direction.maximise()
            likelihood.append((forward.log_likelihood, backward.log_likelihood))
    return AlignmentTable(
        keys,
        width,
        forward.probability,
        backward.probability,
        np.minimum(forward.count, backward.count),
        forward.null,
        backward.null,
        likelihood,
        len(source.offsets) - 1,
    )


def _couples(keys: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """(C,) int32 each: the sources and the targets of the keys."""
    return (keys // width).astype(np.int32), (keys % width).astype(np.int32)


def _width(side: Ragged) -> int:
    return int(side.ids.max(initial=0)) + 1


def _blocks(source: Ragged, target: Ragged, most: int) -> tuple[np.ndarray, list[Block]]:
    """The cells' sorted keys (source * width + target), and the pairs in blocks of about `most`
    pairs of positions.
    """
    found, blocks = [], []
    for block, keys in each_block(source, target, _width(target), most):
        found.append(keys)
        blocks.append(block)
    keys = np.unique(np.concatenate([*found, np.zeros(0, np.int64)]))
    for i, own in enumerate(found):
        places = np.searchsorted(keys, own).astype(np.int32)
        blocks[i] = blocks[i]._replace(cell=places[blocks[i].cell])
    return keys, blocks


def each_block(
    source: Ragged, target: Ragged, width: int, most: int = BLOCK_POSITIONS
) -> Iterator[tuple[Block, np.ndarray]]:
    """The pairs in blocks of about `most` pairs of positions, in order; of each block the sorted
    keys (source * `width` + target) that its cells index.
    """
    ends = np.cumsum(source.lengths() * target.lengths())
    total = int(ends[-1]) if len(ends) else 0
    cuts = np.searchsorted(ends, np.arange(most, total, most))
    edges = np.unique([0, *(cuts + 1).tolist(), len(ends)]).tolist()
    for first, last in pairwise(edges):
        yield _block(source, target, first, last, width)


def _block(
    source: Ragged, target: Ragged, first: int, last: int, width: int
) -> tuple[Block, np.ndarray]:
    """Pairs `first` to `last`, and the sorted keys that its cells index."""
    (own, own_starts), (other, other_starts) = (
        (
            side.ids[side.offsets[first] : side.offsets[last]],
            side.offsets[first : last + 1] - side.offsets[first],
        )
        for side in (source, target)
    )
    lengths, other_lengths = np.diff(own_starts), np.diff(other_starts)
    per_target = np.repeat(lengths, other_lengths)  # each target position meets so many sources
    target_at = np.repeat(np.arange(len(other), dtype=np.int32), per_target)
    source_at = _ranges(np.repeat(own_starts[:-1], other_lengths), per_target).astype(np.int32)
    keys, cell = np.unique(
        own[source_at].astype(np.int64) * width + other[target_at], return_inverse=True
    )
    found = cell.astype(np.int32), source_at, target_at, own, other, lengths, other_lengths
    return Block(*found), keys


def _ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """`starts[0], starts[0] + 1, ...` for `lengths[0]` numbers, then the same of the next."""
    before = np.cumsum(lengths) - lengths
    return np.arange(int(lengths.sum())) + np.repeat(starts - before, lengths)
