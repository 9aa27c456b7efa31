"""Which pairs make up a step, and their ids as tensors: the global batch is a pure function of (seed, step).

In:  `TokenPairs`. Out: `Batch`, on the CPU.

Shape letters: B batch, L token position (77).
"""

import functools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from distill.tokens import SIDES, TokenPairs

EMPTY_PROMPT = -1  # the row that stands for "" on both sides
POSITIONS = 77


class Batch(NamedTuple):
    """(B, 77) ids of both sides and (B,) positions of EOS; the teacher has two tokenizers, the student one."""

    en_clip_l_BL: torch.Tensor
    en_clip_l_eos_B: torch.Tensor
    en_clip_bigg_BL: torch.Tensor
    en_clip_bigg_eos_B: torch.Tensor
    ja_BL: torch.Tensor
    ja_eos_B: torch.Tensor

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
    seed: int

    def rows(self, step: int) -> np.ndarray:
        """(B,) rows of the global batch of a step (counted from 0): epochs are permutations, and a fixed number are the empty prompt."""
        empty = round(self.empty_prompt_share * self.batch_size)
        if self.empty_prompt_share > 0:
            empty = max(1, empty)
        pairs = self.batch_size - empty
        positions = np.arange(step * pairs, (step + 1) * pairs)
        epochs, places = np.divmod(positions, len(self.tokens))
        rows = np.concatenate([_permutation(self.seed, int(epoch), len(self.tokens))[places[epochs == epoch]] for epoch in np.unique(epochs)])
        return np.concatenate([rows, np.full(empty, EMPTY_PROMPT)])

    def eos_positions(self, side: str, rows: np.ndarray) -> np.ndarray:
        """The position of EOS in each row; the empty prompt's is 1."""
        return np.where(rows == EMPTY_PROMPT, 1, self.tokens.lengths(side, np.maximum(rows, 0)) - 1)

    def gather(self, rows: np.ndarray) -> Batch:
        return Batch(*(tensor for side in SIDES for tensor in self._side(side, rows)))

    def _side(self, side: str, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, 77) padded ids and (B,) positions of EOS."""
        bos, eos, pad = self.special[side]
        ids = np.full((len(rows), POSITIONS), pad, np.int64)
        for target, row in zip(ids, rows, strict=True):
            found = np.array([bos, eos]) if row == EMPTY_PROMPT else self.tokens.row(side, int(row))
            target[: len(found)] = found
        return torch.from_numpy(ids), torch.from_numpy(self.eos_positions(side, rows))


@functools.lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, rows: int) -> np.ndarray:
    """Kept over the steps of an epoch (and the step that spans two): at forty million rows making it takes seconds."""
    return np.random.default_rng([seed, epoch]).permutation(rows)
