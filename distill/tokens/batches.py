"""The prompts of a step and their token ids: the global batch is a pure function of (seed, step).

Truncating a prompt after its last word is exact: with causal attention no state depends on a later
position. So most prompts end at EOS, prompts of similar length share a micro-batch, and every
process computes about as many positions as the others. The states of padding are learnt from the
`full_length_share` of the prompts that run to all 77 positions; `pad_weight` makes their expected
loss that of running all prompts at full length (stratified sampling).

In:  `TokenPairs`. Out: `Batch`, on the CPU.

Shape letters: B batch, L token position (77).
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from configs.schema.distill import Distill, at
from distill.encoders.family import SDXL
from distill.encoders.teacher import Encoding, TokenIds
from distill.objective.terms import Sides
from distill.tokens.mixture import Mixture, mixture
from distill.tokens.store import TEACHER_SIDES, TokenPairs

EMPTY_PROMPT = -1  # instead of the number of a pair
POSITIONS = 77
STUDENT = "student"  # what the student reads: Japanese, English or both
# One prompt: `pair` (EMPTY_PROMPT: the empty prompt); `second_pair` appended for code-mixed
# prompts, which the student reads in the other language (EMPTY_PROMPT: none);
# `student_reads_english`, of `pair`; `pad_weight` (0: truncated, > 0: all 77 positions, its padding
# loss times this).
ROW = np.dtype(
    [
        ("pair", np.int64),
        ("second_pair", np.int64),
        ("student_reads_english", np.bool_),
        ("pad_weight", np.float32),
    ]
)


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

    def to(self, device: torch.device) -> "Batch":
        ids_BL, eos_B, weight_B = (
            tensor.to(device, non_blocking=True)
            for tensor in (self.student_BL, self.student_eos_B, self.pad_weight_B)
        )
        return Batch(self.teacher.to(device), ids_BL, eos_B, weight_B, self.truncated)


def is_truncated(rows: np.ndarray) -> bool:
    """Whether any of these `ROW`s is."""
    return bool((rows["pad_weight"] == 0).any())


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
class Batches:
    """`special`: by side, as `tokens.by_side` has the tokenizers."""

    settings: Distill
    tokens: TokenPairs
    special: Mapping[str, SpecialIds]

    @functools.cached_property
    def mixture(self) -> Mixture:
        """Raises RecipeError if the weights do not fit the pairs."""
        return mixture(self.tokens, self.settings.source_weights)

    def rows(self, step: int) -> np.ndarray:
        """(B,) `ROW`s of the global batch of a step (counted from 0); the numbers of English, mixed
        and empty prompts are the same in every step.
        """
        settings = self.settings
        empty = round(settings.empty_prompt_share * settings.batch_size)
        if settings.empty_prompt_share > 0:
            empty = max(1, empty)
        pairs = settings.batch_size - empty
        result = np.zeros(settings.batch_size, ROW)
        result["pair"][:pairs] = self.mixture.draw(settings.seed, step, pairs)
        result["pair"][pairs:] = result["second_pair"] = EMPTY_PROMPT
        # the first ones: the pairs are in random order already
        result["student_reads_english"][: round(settings.english_share * pairs)] = True
        mixed = pairs - round(settings.code_mixed_share * pairs)
        result["second_pair"][mixed:pairs] = result["pair"][np.arange(mixed, pairs) - 1]
        result["student_reads_english"][mixed:pairs] = np.arange(pairs - mixed) % 2
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
        lengths = np.where(rows["pad_weight"] > 0, POSITIONS, self.lengths(rows))
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

    def lengths(self, rows: np.ndarray) -> np.ndarray:
        """(B,) tokens of each prompt with BOS and EOS, the longest of teacher and student."""
        return (
            np.maximum.reduce(
                [self.eos_positions(side, rows) for side in (*TEACHER_SIDES, STUDENT)]
            )
            + 1
        )

    def teacher_eos(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """(B,) EOS positions by part of the family."""
        return {name: self.eos_positions(f"en_{name}", rows) for name in SDXL.parts}

    def eos_positions(self, side: str, rows: np.ndarray) -> np.ndarray:
        """(B,) EOS positions of these `ROW`s in a side of the teacher's or in `STUDENT`; 1 for the
        empty prompt.
        """
        lengths = self._lengths(side, rows, "pair")
        mixed = np.flatnonzero(rows["second_pair"] != EMPTY_PROMPT)
        if len(mixed):
            lengths[mixed] = np.minimum(
                lengths[mixed] + self._lengths(side, rows[mixed], "second_pair") - 2, POSITIONS
            )
        return lengths - 1

    def _lengths(self, side: str, rows: np.ndarray, which: str) -> np.ndarray:
        """(B,) tokens of one pair alone with BOS and EOS; `which`: "pair" or "second_pair"."""
        index = np.maximum(rows[which], 0)
        if side != STUDENT:
            found = self.tokens.lengths(side, index)
        else:
            english = rows["student_reads_english"]
            english = english if which == "pair" else ~english
            found = np.where(
                english, self.tokens.lengths("en", index), self.tokens.lengths("text", index)
            )
        return np.where(rows[which] == EMPTY_PROMPT, 2, found)

    def gather(self, rows: np.ndarray, length: int = POSITIONS) -> Batch:
        """The tensors of these `ROW`s, `length` positions long."""
        ids = {name: self._ids(f"en_{name}", rows, length) for name in SDXL.parts}
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
        for i in np.flatnonzero(rows["second_pair"] != EMPTY_PROMPT):  # few
            ids_BL[i] = self._joined(side, rows[i])[:length]
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

    def _joined(self, side: str, row: np.void) -> np.ndarray:
        """(77,) padded ids of two pairs in one prompt, as the tokenizer encodes both texts with a
        space between them, truncated.
        """
        first, second = (
            (("en", "text") if row["student_reads_english"] else ("text", "en"))
            if side == STUDENT
            else (side, side)
        )
        special = self.special[first]
        ids = np.concatenate(
            [
                self.tokens.row(first, row["pair"])[:-1],
                self.tokens.row(second, row["second_pair"])[1:],
            ]
        ).astype(np.int64)[:POSITIONS]
        ids[-1] = special.eos
        return np.pad(ids, (0, POSITIONS - len(ids)), constant_values=special.pad)
