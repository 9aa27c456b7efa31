"""Which pairs make up a step, and their ids as tensors: the global batch is a pure function of
(seed, step).

The causal mask makes cutting exact: no state depends on what stands after it. So most pairs end at
their last word, pairs of like length share a micro-batch, and every process gets as many positions
as the others. The states of pads are learnt from the share of pairs that run to all 77 positions,
weighted so that the expected loss is that of running all (a stratified sample).

In:  `TokenPairs`. Out: `Batch`, on the CPU.

Shape letters: B batch, L token position (77).
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch

from configs.schema.distill import Distill, Ramp, at
from distill.tokens.mixture import Mixture, mixture
from distill.tokens.store import TEACHER_SIDES, TokenPairs

EMPTY_PROMPT = -1  # the row that stands for "" on both sides
POSITIONS = 77
STUDENT = "student"  # the side that reads Japanese, English or both
# A row of the global batch: which pair; another pair that follows it in the same prompt, the
# student reading it in the other language (none: the empty prompt); whether the student reads the
# (first) pair in English instead of Japanese; and how often its pads count: 0 is cut after its last
# word, all others run to 77.
ROW = np.dtype(
    [("row", np.int64), ("second", np.int64), ("english", np.bool_), ("pads", np.float32)]
)


class Batch(NamedTuple):
    """(B, L) ids of both sides and (B,) positions of EOS, the teacher has two tokenizers, the
    student one; (B,) how often pads count.
    """

    en_clip_l_BL: torch.Tensor
    en_clip_l_eos_B: torch.Tensor
    en_clip_bigg_BL: torch.Tensor
    en_clip_bigg_eos_B: torch.Tensor
    student_BL: torch.Tensor
    student_eos_B: torch.Tensor
    pads_B: torch.Tensor

    def to(self, device: torch.device) -> "Batch":
        return Batch(*(tensor.to(device, non_blocking=True) for tensor in self))


class SpecialIds(NamedTuple):
    """Ids a tokenizer puts in by itself."""

    bos: int
    eos: int
    pad: int


def special_ids(tokenizers: Mapping[str, Any]) -> dict[str, SpecialIds]:
    """By side, as the tokenizers are given (`tokens.by_side`)."""
    return {
        side: SpecialIds(one.bos_token_id, one.eos_token_id, one.pad_token_id)
        for side, one in tokenizers.items()
    }


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
    code_mixed_share: float = 0.0
    source_weights: Mapping[str, float] = field(default_factory=dict)

    @functools.cached_property
    def mixture(self) -> Mixture:
        """Raises RecipeError where the weights do not fit the pairs."""
        return mixture(self.tokens, self.source_weights)

    @classmethod
    def of(cls, settings: Distill, tokens: TokenPairs, special: dict[str, SpecialIds]) -> "Batches":
        """As the recipe says."""
        return cls(
            tokens,
            special,
            settings.batch_size,
            settings.empty_prompt_share,
            settings.english_share,
            settings.seed,
            settings.full_length_share,
            settings.steps,
            settings.code_mixed_share,
            settings.source_weights,
        )

    def rows(self, step: int) -> np.ndarray:
        """(B,) `ROW`s of the global batch of a step (counted from 0); fixed numbers of them are
        English, mixed or empty.
        """
        empty = round(self.empty_prompt_share * self.batch_size)
        if self.empty_prompt_share > 0:
            empty = max(1, empty)
        pairs = self.batch_size - empty
        result = np.zeros(self.batch_size, ROW)
        result["row"][:pairs] = self.mixture.draw(self.seed, step, pairs)
        result["row"][pairs:] = result["second"] = EMPTY_PROMPT
        result["english"][: round(self.english_share * pairs)] = (
            True  # the first: which pairs they are is random already
        )
        mixed = pairs - round(self.code_mixed_share * pairs)
        result["second"][mixed:pairs] = result["row"][np.arange(mixed, pairs) - 1]  # the row before
        result["english"][mixed:pairs] = np.arange(pairs - mixed) % 2  # either language first
        full = round(at(self.full_length_share, step / self.steps) * pairs)
        if full:  # evenly spread: as many English ones among them as among all
            result["pads"][np.arange(full) * pairs // full] = pairs / full
        result["pads"][pairs:] = 1.0  # the empty prompt is nothing but pads
        return result

    def micro_batches(
        self, rows: np.ndarray, process: int, processes: int, tokens: int | None
    ) -> list[tuple[np.ndarray, int]]:
        """The `ROW`s that one of `processes` computes at once, and the number of positions it
        computes of each.

        Full-length pairs first, then the others from long to short; of this order each process
        takes every `processes`-th row. So like lengths lie side by side, and all have as many
        positions to compute. A micro-batch has at most `tokens` of them, or one row.
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
        """(B,) positions up to the last EOS of either side, BOS and EOS included."""
        return (
            np.maximum.reduce(
                [self.eos_positions(side, rows) for side in (*TEACHER_SIDES, STUDENT)]
            )
            + 1
        )

    def eos_positions(self, side: str, rows: np.ndarray) -> np.ndarray:
        """(B,) the position of EOS in each of these `ROW`s, as the teacher's `side` or the student
        reads it; the empty prompt's is 1.
        """
        lengths = self._lengths(side, rows, "row")
        mixed = np.flatnonzero(rows["second"] != EMPTY_PROMPT)
        if len(mixed):
            lengths[mixed] = np.minimum(
                lengths[mixed] + self._lengths(side, rows[mixed], "second") - 2, POSITIONS
            )
        return lengths - 1

    def _lengths(self, side: str, rows: np.ndarray, part: str) -> np.ndarray:
        """(B,) positions of the first or second pair alone, BOS and EOS included."""
        index = np.maximum(rows[part], 0)
        if side != STUDENT:
            found = self.tokens.lengths(side, index)
        else:
            english = rows["english"] if part == "row" else ~rows["english"]
            found = np.where(
                english, self.tokens.lengths("en", index), self.tokens.lengths("text", index)
            )
        return np.where(rows[part] == EMPTY_PROMPT, 2, found)

    def gather(self, rows: np.ndarray, length: int = POSITIONS) -> Batch:
        """The tensors of these `ROW`s, `length` positions long."""
        import torch

        sides = [
            array for side in (*TEACHER_SIDES, STUDENT) for array in self._ids(side, rows, length)
        ]
        return Batch(*map(torch.from_numpy, (*sides, rows["pads"].copy())))

    def _ids(self, side: str, rows: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
        """(B, L) padded ids and (B,) positions of EOS."""
        if side != STUDENT:
            ids_BL = self._gathered(side, rows["row"], length)
        else:
            ids_BL = self._gathered("text", rows["row"], length)
            english = np.flatnonzero(rows["english"])
            if len(english):
                ids_BL[english] = self._gathered("en", rows["row"][english], length)
        for i in np.flatnonzero(rows["second"] != EMPTY_PROMPT):  # few
            ids_BL[i] = self._joined(side, rows[i])[:length]
        return ids_BL, self.eos_positions(side, rows)

    def _gathered(self, side: str, rows: np.ndarray, length: int) -> np.ndarray:
        """(B, L) padded ids of single pairs."""
        special, flat, offsets = (
            self.special[side],
            self.tokens.ids[side],
            self.tokens.offsets[side],
        )
        starts, ends = offsets[np.maximum(rows, 0)], offsets[np.maximum(rows, 0) + 1]
        place_BL = starts[:, None] + np.arange(length)
        ids_BL = flat.take(place_BL, mode="clip").astype(
            np.int64
        )  # reads on into the next pair, which the pads then cover
        ids_BL[place_BL >= ends[:, None]] = special.pad
        empty = np.flatnonzero(rows == EMPTY_PROMPT)
        if len(empty):
            ids_BL[empty] = special.pad
            ids_BL[empty, :2] = special.bos, special.eos
        return ids_BL

    def _joined(self, side: str, row: np.void) -> np.ndarray:
        """(77,) padded ids of two pairs in one prompt: what the tokenizer gives for both texts with
        a space between, cut as it would be.
        """
        first, second = (
            (("en", "text") if row["english"] else ("text", "en"))
            if side == STUDENT
            else (side, side)
        )
        special = self.special[first]
        ids = np.concatenate(
            [self.tokens.row(first, row["row"])[:-1], self.tokens.row(second, row["second"])[1:]]
        ).astype(np.int64)[:POSITIONS]
        ids[-1] = special.eos
        return np.pad(ids, (0, POSITIONS - len(ids)), constant_values=special.pad)
