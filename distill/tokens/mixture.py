"""Which training pairs a step draws: all pairs in epochs, or every source by its weight, in epochs
of its own.

In:  `TokenPairs`, the weights of the recipe. Out: row numbers, a pure function of (seed, step): any
     step can be reached at once.

Shape letters: N training pairs, M places of the pattern in which sources follow each other, over
and over.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from configs.errors import RecipeError
from distill.tokens.store import TokenPairs

PLACES = 1 << 20  # a source of ten pairs among ten million still gets one


@dataclass(frozen=True)
class Mixture:
    """`rows` by part: the numbers of its pairs, or how many there are where the part is all of
    them.
    """

    rows: list[np.ndarray | int]
    part_M: np.ndarray  # whose turn it is
    turn_M: np.ndarray  # which of that part's turns in the pattern
    turns: np.ndarray  # how many each part has

    def draw(self, seed: int, step: int, pairs: int) -> np.ndarray:
        """(pairs,) row numbers of a step (counted from 0).

        Of every part each pair comes once an epoch of that part.
        """
        if len(self.rows) == 1:
            return _in_epochs(self.rows[0], np.arange(step * pairs, (step + 1) * pairs), (seed,))
        rounds, places = np.divmod(np.arange(step * pairs, (step + 1) * pairs), len(self.part_M))
        part_B, turn_B = (
            self.part_M[places],
            rounds * self.turns[self.part_M[places]] + self.turn_M[places],
        )
        drawn_B = np.empty(pairs, np.int64)
        for part, rows in enumerate(self.rows):
            here_B = part_B == part
            drawn_B[here_B] = _in_epochs(rows, turn_B[here_B], (seed, part))
        # in the pattern's order the places of English, mixed or full-length prompts could fall to
        # one source
        return np.random.default_rng([seed, step]).permutation(drawn_B)


def mixture(tokens: TokenPairs, weights: Mapping[str, float]) -> Mixture:
    """A pair of a source of weight 2 is drawn twice as often as one of weight 1, which all sources
    have that are not named.

    Raises RecipeError for the weight of a source that no pair comes from, or when nothing is left
    to draw.
    """
    if not weights:
        return Mixture(
            [len(tokens)], np.zeros(1, np.int64), np.zeros(1, np.int64), np.ones(1, np.int64)
        )
    assert tokens.source_N is not None
    for name in weights:
        if name not in tokens.source_names:
            raise RecipeError(
                f"distill.source_weights: no training pair comes from {name!r}; the sources are "
                f"{', '.join(tokens.source_names)}"
            )
    rows = [np.flatnonzero(tokens.source_N == index) for index in range(len(tokens.source_names))]
    mass = np.array(
        [
            weights.get(name, 1.0) * len(own)
            for name, own in zip(tokens.source_names, rows, strict=True)
        ]
    )
    if not mass.any():
        raise RecipeError(
            "distill.source_weights: every weight is 0, so there is nothing to draw; give one "
            "above 0"
        )
    turns = np.ceil(mass / mass.sum() * PLACES).astype(np.int64)
    # the turns of each part evenly spread over the pattern
    part_M = np.repeat(np.arange(len(rows)), turns)
    turn_M = np.concatenate([np.arange(count) for count in turns])
    order_M = np.argsort((turn_M + 0.5) / turns[part_M], kind="stable")
    return Mixture(list(rows), part_M[order_M], turn_M[order_M], turns)


def _in_epochs(rows: np.ndarray | int, turns: np.ndarray, key: tuple[int, ...]) -> np.ndarray:
    """The row of each turn (in rising order): every epoch is another permutation."""
    size = rows if isinstance(rows, int) else len(rows)
    epochs, positions = np.divmod(turns, size)
    found = [
        _permutation(key, int(epoch), size)[positions[epochs == epoch]]
        for epoch in np.unique(epochs)
    ]
    numbers = np.concatenate([np.zeros(0, np.int64), *found])
    return numbers if isinstance(rows, int) else rows[numbers]


@functools.lru_cache(maxsize=16)
def _permutation(key: tuple[int, ...], epoch: int, rows: int) -> np.ndarray:
    """Kept over the steps of an epoch (and the step that spans two): at forty million rows making
    it takes seconds.
    """
    return np.random.default_rng([*key, epoch]).permutation(rows)
