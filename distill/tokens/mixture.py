"""Which training pairs a step samples: all pairs in epochs, or every source by its weight, in
epochs of its own. Pairs with rare words may stand in an epoch several times.

In:  `TokenPairs`, the weights of the recipe. Out: row indices, a pure function of (seed, step): any
     step can be computed without those before it.

Shape letters: N training pairs, M slots of the repeating pattern that says which source is sampled
next.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from configs.errors import RecipeError
from distill.tokens.token_pairs import TokenPairs

SLOTS = 1 << 20  # enough that ten pairs among ten million get one


@dataclass(frozen=True)
class Mixture:
    """`rows`: for each source its row indices, some perhaps repeated; an int N stands for all rows
    0..N-1.

    Of each slot of the pattern, `source_M` is the source it samples from, and `turn_M` how many
    slots before it do. `turns`: the number of slots of each source.
    """

    rows: list[np.ndarray | int]
    source_M: np.ndarray
    turn_M: np.ndarray
    turns: np.ndarray

    def draw(self, seed: int, step: int, pairs: int) -> np.ndarray:
        """(pairs,) row indices of a step (counted from 0).

        Each pair of a source is sampled once in every epoch of that source.
        """
        if len(self.rows) == 1:
            return in_epochs(self.rows[0], np.arange(step * pairs, (step + 1) * pairs), (seed,))
        rounds, slots = np.divmod(np.arange(step * pairs, (step + 1) * pairs), len(self.source_M))
        source_B, turn_B = (
            self.source_M[slots],
            rounds * self.turns[self.source_M[slots]] + self.turn_M[slots],
        )
        drawn_B = np.empty(pairs, np.int64)
        for source, rows in enumerate(self.rows):
            here_B = source_B == source
            drawn_B[here_B] = in_epochs(rows, turn_B[here_B], (seed, source))
        # without this, the English, mixed or full-length prompts (fixed places of the batch) could
        # all come from one source
        return np.random.default_rng([seed, step]).permutation(drawn_B)


def mixture(
    tokens: TokenPairs, weights: Mapping[str, float], repeat_words_below: int = 0
) -> Mixture:
    """`weights` by source, 1 if not named: a pair of weight 2 is sampled twice as often as one of
    weight 1. `repeat_words_below`: pairs with a rarer English word are sampled more often.

    Raises RecipeError for a source that no pair comes from, or if every weight is 0.
    """
    if not weights:
        rows: list[np.ndarray | int] = [len(tokens)]
        if repeat_words_below:
            rows = [repeated(np.arange(len(tokens)), tokens, repeat_words_below)]
        return Mixture(rows, np.zeros(1, np.int64), np.zeros(1, np.int64), np.ones(1, np.int64))
    assert tokens.source_N is not None
    for name in weights:
        if name not in tokens.source_names:
            raise RecipeError(
                f"distill.source_weights: no training pair comes from {name!r}; give one of the "
                f"sources {', '.join(tokens.source_names)}"
            )
    named = [np.flatnonzero(tokens.source_N == index) for index in range(len(tokens.source_names))]
    if repeat_words_below:
        named = [repeated(own, tokens, repeat_words_below) for own in named]
    mass = np.array(
        [
            weights.get(name, 1.0) * len(own)
            for name, own in zip(tokens.source_names, named, strict=True)
        ]
    )
    if not mass.any():
        raise RecipeError(
            "distill.source_weights: every weight is 0, so there is nothing to sample; give one "
            "above 0"
        )
    turns = np.ceil(mass / mass.sum() * SLOTS).astype(np.int64)
    # the slots of each source are spaced evenly over the pattern
    source_M = np.repeat(np.arange(len(named)), turns)
    turn_M = np.concatenate([np.arange(count) for count in turns])
    order_M = np.argsort((turn_M + 0.5) / turns[source_M], kind="stable")
    return Mixture(list(named), source_M[order_M], turn_M[order_M], turns)


def repeated(rows: np.ndarray, tokens: TokenPairs, words_below: int) -> np.ndarray:
    """The row indices, a pair whose rarest word is in n < `words_below` pairs sqrt(words_below / n)
    times: repeat factor sampling (Gupta, Dollár and Girshick 2019, "LVIS"). A fraction of a time is
    decided by a coin, the same in every run.
    """
    assert tokens.rarest_N is not None
    times_N = np.sqrt(np.maximum(1.0, words_below / tokens.rarest_N[rows]))
    coins_N = np.random.default_rng(len(rows)).random(len(rows))
    return np.repeat(rows, (times_N + coins_N).astype(np.int64))


def in_epochs(rows: np.ndarray | int, turns: np.ndarray, key: tuple[int, ...]) -> np.ndarray:
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
    """Cached for the steps of an epoch: for forty million rows, a new permutation takes seconds."""
    return np.random.default_rng([*key, epoch]).permutation(rows)
