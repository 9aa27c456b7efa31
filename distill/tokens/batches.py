"""The token ids of a micro-batch as tensors.

In:  `TokenPairs` and the rows that `distill.tokens.prompts` draws. Out: `Batch`, on the CPU.

Shape letters: B batch, L token position (77).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from distill.encoders.teacher import Encoding, TokenIds
from distill.objective.terms import Sides
from distill.tokens.prompts import EMPTY_PROMPT, POSITIONS, STUDENT, Prompts, is_truncated
from distill.tokens.token_pairs import TEACHER


class Batch(NamedTuple):
    """The tensors of a micro-batch: the teacher's ids and EOS positions by part of the family, the
    student's (B, L) and (B,), one for all parts, and the weight (B,) of each prompt's padding.

    `truncated`: whether any of the prompts is.
    """

    teacher: TokenIds
    student_BL: torch.Tensor
    student_eos_B: torch.Tensor
    pad_weight_B: torch.Tensor
    truncated: bool

    @property
    def student(self) -> TokenIds:
        """What every part of the student reads."""
        parts = self.teacher.ids
        return TokenIds(
            dict.fromkeys(parts, self.student_BL), dict.fromkeys(parts, self.student_eos_B)
        )

    def sides(self, student: Encoding, teacher: Encoding) -> Sides:
        """With what student and teacher computed of this batch: what the loss compares."""
        return Sides(
            student,
            teacher,
            self.student_eos_B,
            self.teacher.eos,
            self.pad_weight_B,
            self.truncated,
        )

    def map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> "Batch":
        """`function` applied to every tensor."""
        return self._replace(
            teacher=self.teacher.map(function),
            student_BL=function(self.student_BL),
            student_eos_B=function(self.student_eos_B),
            pad_weight_B=function(self.pad_weight_B),
        )

    def to(self, device: torch.device) -> "Batch":
        """The host does not wait for the copy where it is from pinned memory to a GPU."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))


class SpecialIds(NamedTuple):
    """The ids of a tokenizer's special tokens."""

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
class Batches(Prompts):
    """The prompts of every step, with their ids. `special`: by side, as `tokens.by_side` has the
    tokenizers.
    """

    special: Mapping[str, SpecialIds]

    def gather(self, rows: np.ndarray, length: int = POSITIONS) -> Batch:
        """The tensors of these `ROW`s, `length` positions long."""
        ids = {name: self._ids(f"{TEACHER}{name}", rows, length) for name in self.tokens.parts}
        teacher = (
            {name: torch.from_numpy(array) for name, array in arrays.items()}
            for arrays in (ids, self.teacher_eos(rows))
        )
        return Batch(
            TokenIds(*teacher),
            torch.from_numpy(self._ids(STUDENT, rows, length)),
            torch.from_numpy(self.eos_positions(STUDENT, rows)),
            torch.from_numpy(rows["pad_weight"].copy()),
            is_truncated(rows),
        )

    def _ids(self, side: str, rows: np.ndarray, length: int) -> np.ndarray:
        """(B, L) padded ids."""
        if side != STUDENT:
            ids_BL = self._gathered(side, rows["pair"], length)
        else:
            ids_BL = self._gathered("text", rows["pair"], length)
            english = np.flatnonzero(rows["student_reads_english"])
            if len(english):
                ids_BL[english] = self._gathered("en", rows["pair"][english], length)
        return ids_BL

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
        )  # reads into the next pair; the padding overwrites that
        ids_BL[place_BL >= ends[:, None]] = special.pad
        empty = np.flatnonzero(rows == EMPTY_PROMPT)
        if len(empty):
            ids_BL[empty] = special.pad
            ids_BL[empty, :2] = special.bos, special.eos
        return ids_BL
