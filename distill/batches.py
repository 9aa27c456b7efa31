"""Which pairs make up a step, and their ids as tensors: the global batch is a pure function of (seed, step).

The causal mask makes cutting exact: no state depends on what stands after it. So most pairs end at their last word, pairs of like
length share a micro-batch, and every process gets as many positions as the others. The states of pads are learnt from the share of
pairs that run to all 77 positions, weighted so that the expected loss is that of running all (a stratified sample).

In:  `TokenPairs`. Out: `Batch`, on the CPU.

Shape letters: B batch, L token position (77).
"""

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from configs.distill import Distill, Ramp, at
from distill.tokens import TEACHER_SIDES, TokenPairs

if TYPE_CHECKING:  # which pairs make up a step is also asked where torch need not be loaded: by distill/plan.py
    import torch

EMPTY_PROMPT = -1  # the row that stands for "" on both sides
POSITIONS = 77
# A row of the global batch: which pair; whether the student reads its English (itself) instead of its Japanese; and how often its pads
# count: 0 is cut after its last word, all others run to 77.
ROW = np.dtype([("row", np.int64), ("english", np.bool_), ("pads", np.float32)])


class Batch(NamedTuple):
    """(B, L) ids of both sides and (B,) positions of EOS, the teacher has two tokenizers, the student one; (B,) how often pads count."""

    en_clip_l_BL: "torch.Tensor"
    en_clip_l_eos_B: "torch.Tensor"
    en_clip_bigg_BL: "torch.Tensor"
    en_clip_bigg_eos_B: "torch.Tensor"
    student_BL: "torch.Tensor"
    student_eos_B: "torch.Tensor"
    pads_B: "torch.Tensor"

    def to(self, device: "torch.device") -> "Batch":
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
    full_length_share: float | Ramp = 1.0
    steps: int = 1

    @classmethod
    def of(cls, settings: Distill, tokens: TokenPairs, special: dict[str, SpecialIds]) -> "Batches":
        """As the recipe says."""
        shares = settings.empty_prompt_share, settings.english_share
        return cls(tokens, special, settings.batch_size, *shares, settings.seed, settings.full_length_share, settings.steps)

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
        full = round(at(self.full_length_share, step / self.steps) * pairs)
        if full:  # evenly spread: as many English ones among them as among all
            result["pads"][np.arange(full) * pairs // full] = pairs / full
        result["pads"][pairs:] = 1.0  # the empty prompt is nothing but pads
        return result

    def micro_batches(self, rows: np.ndarray, process: int, processes: int, tokens: int | None) -> list[tuple[np.ndarray, int]]:
        """The `ROW`s that one of `processes` computes at once, and the number of positions it computes of each.

        Full-length pairs first, then the others from long to short; of this order each process takes every `processes`-th row. So like
        lengths lie side by side, and all have as many positions to compute. A micro-batch has at most `tokens` of them, or one row.
        """
        lengths = np.where(rows["pads"] > 0, POSITIONS, self.lengths(rows))
        order = np.argsort(-lengths - (rows["pads"] > 0), kind="stable")[process::processes]
        full = int((rows["pads"][order] > 0).sum())
        result = []
        for part in (order[:full], order[full:]):
            while len(part):
                length = int(lengths[part[0]])
                count = len(part) if tokens is None else max(1, tokens // length)
                result.append((rows[part[:count]], length))
                part = part[count:]
        return result

    def lengths(self, rows: np.ndarray) -> np.ndarray:
        """Positions up to the last EOS of either side, BOS and EOS included."""
        found = [self.eos_positions(side, rows["row"]) + 1 for side in TEACHER_SIDES]
        student = np.where(rows["english"], self.eos_positions("en", rows["row"]), self.eos_positions("ja", rows["row"])) + 1
        return np.maximum.reduce([*found, student])

    def eos_positions(self, side: str, rows: np.ndarray) -> np.ndarray:
        """The position of EOS in each pair of `rows` (numbers); the empty prompt's is 1."""
        return np.where(rows == EMPTY_PROMPT, 1, self.tokens.lengths(side, np.maximum(rows, 0)) - 1)

    def gather(self, rows: np.ndarray, length: int = POSITIONS) -> Batch:
        """The tensors of these `ROW`s, `length` positions long."""
        import torch

        clip_l, clip_bigg = (self._ids(side, rows["row"], length) for side in TEACHER_SIDES)
        ids_BL, eos_B = self._ids("ja", rows["row"], length)
        english = np.flatnonzero(rows["english"])
        if len(english):
            ids_BL[english], eos_B[english] = self._ids("en", rows["row"][english], length)
        arrays = (*clip_l, *clip_bigg, ids_BL, eos_B, rows["pads"].copy())
        return Batch(*map(torch.from_numpy, arrays))

    def _ids(self, side: str, rows: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
        """(B, L) padded ids and (B,) positions of EOS."""
        special, flat, offsets = self.special[side], self.tokens.ids[side], self.tokens.offsets[side]
        starts, eos_B = offsets[np.maximum(rows, 0)], self.eos_positions(side, rows)
        place_1L = np.arange(length)[None]
        found_BL = flat[np.minimum(starts[:, None] + place_1L, len(flat) - 1)]  # reads on into the next pair, which the pads then cover
        ids_BL = np.where(place_1L <= eos_B[:, None], found_BL, special.pad).astype(np.int64)
        ids_BL[rows == EMPTY_PROMPT, :2] = special.bos, special.eos
        return ids_BL, eos_B


@functools.lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, rows: int) -> np.ndarray:
    """Kept over the steps of an epoch (and the step that spans two): at forty million rows making it takes seconds."""
    return np.random.default_rng([seed, epoch]).permutation(rows)
