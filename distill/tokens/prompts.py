"""Which prompts make up a step, and how they are split into micro-batches: a pure function of
(seed, step).

Truncating a prompt after its last word is exact: with causal attention no state depends on a later
position. So most prompts end at EOS, prompts of similar length share a micro-batch, and every
process computes about as many positions as the others. The states of padding are learnt from the
`full_length_share` of the prompts that run to all 77 positions; `pad_weight` makes their expected
loss that of running all prompts at full length (stratified sampling).

In:  `TokenPairs`. Out: arrays of `ROW`. Numpy alone: `distill.plan` counts steps without torch.

Shape letters: B batch.
"""

import functools
from dataclasses import dataclass

import numpy as np

from configs.schema.distill import Distill, at
from distill.tokens.mixture import Mixture, in_epochs, mixture
from distill.tokens.token_pairs import TEACHER, TokenPairs

EMPTY_PROMPT = -1  # instead of the number of a pair
POSITIONS = 77
STUDENT = "student"  # what the student reads: Japanese, English or both
COMPOSED = 1_000_003  # sets their draws apart from those of any source
# One prompt: `pair` (EMPTY_PROMPT: the empty prompt; from the number of pairs on: a composed one);
# `student_reads_english`; `pad_weight` (0: truncated, > 0: all 77 positions, its padding loss times
# this).
ROW = np.dtype(
    [
        ("pair", np.int64),
        ("student_reads_english", np.bool_),
        ("pad_weight", np.float32),
    ]
)


def is_truncated(rows: np.ndarray) -> bool:
    """Whether any of these `ROW`s is."""
    return bool((rows["pad_weight"] == 0).any())


@dataclass(frozen=True)
class Prompts:
    """The prompts of every step of a training on `tokens`."""

    settings: Distill
    tokens: TokenPairs

    @functools.cached_property
    def mixture(self) -> Mixture:
        """Raises RecipeError if the weights do not fit the pairs."""
        settings = self.settings
        return mixture(self.tokens, settings.source_weights, settings.repeat_words_below)

    def rows(self, step: int) -> np.ndarray:
        """(B,) `ROW`s of the global batch of a step (counted from 0); the numbers of English,
        composed and empty prompts are the same in every step.
        """
        settings = self.settings
        empty = round(settings.empty_prompt_share * settings.batch_size)
        if settings.empty_prompt_share > 0:
            empty = max(1, empty)
        pairs = settings.batch_size - empty
        result = np.zeros(settings.batch_size, ROW)
        result["pair"][:pairs] = self.mixture.draw(settings.seed, step, pairs)
        result["pair"][pairs:] = EMPTY_PROMPT
        # the first ones: the pairs are in random order already
        result["student_reads_english"][: round(settings.english_share * pairs)] = True
        if composed := round(settings.composed_share * pairs):
            result["pair"][pairs - composed : pairs] = len(self.tokens) + in_epochs(
                self.tokens.composed,
                np.arange(step * composed, (step + 1) * composed),
                (settings.seed, COMPOSED),
            )
        full = round(at(settings.full_length_share, step / settings.steps) * pairs)
        if full:  # evenly spaced, so that the English ones get their share
            result["pad_weight"][np.arange(full) * pairs // full] = pairs / full
        result["pad_weight"][pairs:] = 1.0  # the empty prompt is nothing but padding
        return result

    def micro_batches(
        self, rows: np.ndarray, process: int, processes: int, tokens: int | None
    ) -> list[tuple[np.ndarray, int]]:
        """The micro-batches of one of `processes`: their `ROW`s, and the length they are padded or
        truncated to.

        Sorted: full-length prompts first, then the others from long to short; each process takes
        every `processes`-th. So similar lengths share a micro-batch, and all processes have about
        as many positions to compute. A micro-batch has at most `tokens` positions, or one prompt.
        """
        lengths = self.computed_lengths(rows)
        order = np.argsort(-lengths - (rows["pad_weight"] > 0), kind="stable")[process::processes]
        full = int((rows["pad_weight"][order] > 0).sum())
        result = []
        for part in (order[:full], order[full:]):
            while len(part):
                length = int(lengths[part[0]])
                count = len(part) if tokens is None else max(1, tokens // length)
                result.append((rows[part[:count]], length))
                part = part[count:]
        return result

    def computed_lengths(self, rows: np.ndarray) -> np.ndarray:
        """(B,) positions that are computed of each prompt: all 77, or up to its last word's EOS."""
        return np.where(rows["pad_weight"] > 0, POSITIONS, self.lengths(rows))

    def lengths(self, rows: np.ndarray) -> np.ndarray:
        """(B,) tokens of each prompt with BOS and EOS, the longest of teacher and student."""
        sides = [*self.teacher_eos(rows).values(), self.eos_positions(STUDENT, rows)]
        return np.maximum.reduce(sides) + 1

    def teacher_eos(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """(B,) EOS positions by part of the family."""
        return {name: self.eos_positions(f"{TEACHER}{name}", rows) for name in self.tokens.parts}

    def eos_positions(self, side: str, rows: np.ndarray) -> np.ndarray:
        """(B,) EOS positions of these `ROW`s in a side of the teacher's or in `STUDENT`; 1 for the
        empty prompt.
        """
        index = np.maximum(rows["pair"], 0)
        if side != STUDENT:
            lengths = self.tokens.lengths(side, index)
        else:
            lengths = np.where(
                rows["student_reads_english"],
                self.tokens.lengths("en", index),
                self.tokens.lengths("text", index),
            )
        return np.where(rows["pair"] == EMPTY_PROMPT, 2, lengths) - 1
