"""Which pairs make up a step, and their ids as tensors: the global batch is a pure function of (seed, step).

In:  `TokenPairs`. Out: `Batch`, on the CPU.

Shape letters: B batch, L token position (77).
"""

import functools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from distill.tokens import TEACHER_SIDES, TokenPairs

EMPTY_PROMPT = -1  # the row that stands for "" on both sides
POSITIONS = 77
# A row of the global batch: which pair, and whether the student reads its English (itself) instead of its Japanese.
ROW = np.dtype([("row", np.int64), ("english", np.bool_)])


class Batch(NamedTuple):
    """(B, 77) ids of both sides and (B,) positions of EOS; the teacher has two tokenizers, the student one."""

    en_clip_l_BL: torch.Tensor
    en_clip_l_eos_B: torch.Tensor
    en_clip_bigg_BL: torch.Tensor
    en_clip_bigg_eos_B: torch.Tensor
    student_BL: torch.Tensor
    student_eos_B: torch.Tensor

    def to(self, device: torch.device) -> "Batch":
        return Batch(*(tensor.to(device, non_blocking=True) for tensor in self))


class SpecialIds(NamedTuple):
    """Ids a tokenizer puts in by itself."""

    bos: int
    eos: int
    pad: int


@dataclass(frozen=True)
class Batches:
    tokens: TokenPairs
    special: dict[str, SpecialIds]
    batch_size: int
    empty_prompt_share: float
    english_share: float
    seed: int

    def rows(self, step: int) -> np.ndarray:
        """(B,) `ROW`s of the global batch of a step (counted from 0): epochs are permutations, fixed numbers are English or the empty prompt."""
        empty = round(self.empty_prompt_share * self.batch_size)
        if self.empty_prompt_share > 0:
            empty = max(1, empty)
        pairs = self.batch_size - empty
        positions = np.arange(step * pairs, (step + 1) * pairs)
        epochs, places = np.divmod(positions, len(self.tokens))
        result = np.zeros(self.batch_size, ROW)
        result["row"][:pairs] = np.concatenate(
            [_permutation(self.seed, int(epoch), len(self.tokens))[places[epochs == epoch]] for epoch in np.unique(epochs)]
        )
        result["row"][pairs:] = EMPTY_PROMPT
        result["english"][: round(self.english_share * pairs)] = True  # the first: which pairs they are is random already
        return result

    def eos_positions(self, side: str, rows: np.ndarray) -> np.ndarray:
        """The position of EOS in each pair of `rows` (numbers); the empty prompt's is 1."""
        return np.where(rows == EMPTY_PROMPT, 1, self.tokens.lengths(side, np.maximum(rows, 0)) - 1)

    def gather(self, rows: np.ndarray) -> Batch:
        """The tensors of these `ROW`s."""
        clip_l, clip_bigg = (self._ids([side] * len(rows), rows["row"]) for side in TEACHER_SIDES)
        student = self._ids(["en" if english else "ja" for english in rows["english"]], rows["row"])
        return Batch(*clip_l, *clip_bigg, *student)

    def _ids(self, sides: list[str], rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, 77) padded ids and (B,) positions of EOS."""
        ids, eos = np.empty((len(rows), POSITIONS), np.int64), np.empty(len(rows), np.int64)
        for i, (side, row) in enumerate(zip(sides, rows, strict=True)):
            special = self.special[side]
            found = np.array([special.bos, special.eos]) if row == EMPTY_PROMPT else self.tokens.row(side, int(row))
            ids[i, : len(found)], ids[i, len(found) :], eos[i] = found, special.pad, len(found) - 1
        return torch.from_numpy(ids), torch.from_numpy(eos)


@functools.lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, rows: int) -> np.ndarray:
    """Kept over the steps of an epoch (and the step that spans two): at forty million rows making it takes seconds."""
    return np.random.default_rng([seed, epoch]).permutation(rows)
