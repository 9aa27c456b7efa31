"""The loss of a step: named terms, each logged by itself, and their weighted sum.

Every term is this micro-batch's share of a quantity of the global batch: summed over micro-batches
and processes it is that quantity, whatever the split.

Shape letters: B batch, L token position, D width, N queries, H heads, K width of one head.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from configs.schema.distill import Distill, QueryBank, RandomAttention
from distill.encoders.teacher import Encoding
from distill.objective import distances
from distill.objective.query_bank import CrossAttentionLayer
from distill.objective.teacher_statistics import Statistics


@dataclass(frozen=True)
class GlobalCounts:
    """Of the whole global batch: the number of prompts, and by part of the family the number of
    positions in each region.
    """

    prompts: int
    positions: dict[str, dict[str, int]]

    @staticmethod
    def of(teacher_eos: dict[str, np.ndarray], length: int) -> "GlobalCounts":
        """From the teacher's EOS positions (B,) of the whole batch by part."""
        positions = {
            name: {
                region: int(mask.sum())
                for region, mask in distances.region_masks(torch.from_numpy(eos), length).items()
            }
            for name, eos in teacher_eos.items()
        }
        return GlobalCounts(len(next(iter(teacher_eos.values()))), positions)


@dataclass(frozen=True)
class Sides:
    """One micro-batch as student and teacher encoded it, and the EOS positions (B,), the teacher's
    by part of the family.

    `pad_weight_B`: importance weight of the padding positions; 0 if the prompt was truncated and
    has none. `truncated`: whether any prompt was (`distill/tokens/batches.py`).
    """

    student: Encoding
    teacher: Encoding
    student_eos_B: torch.Tensor
    teacher_eos: dict[str, torch.Tensor]
    pad_weight_B: torch.Tensor
    truncated: bool = False


@dataclass(frozen=True)
class Loss:
    """The objective's terms.

    `layers` are the UNets' (`cross_attention`), `random_layers` those of `random_attention`.
    """

    settings: Distill
    statistics: Statistics
    layers: list[CrossAttentionLayer]
    random_layers: list[CrossAttentionLayer]

    def terms(
        self, sides: Sides, counts: GlobalCounts, step: int, draw: int | None = None
    ) -> dict[str, torch.Tensor]:
        """Each term by its name in the log; `loss/total` is what is minimised.

        `draw`: the number that layers and queries are sampled by, where it is not `step`.
        """
        sides = replace(sides, student=sides.student.float(), teacher=sides.teacher.float())
        seed = (self.settings.seed, step if draw is None else draw)
        sums: dict[str, Callable[[], torch.Tensor]] = {
            "cross_attention": lambda: self._attention(
                sides, self.layers, self.settings.query_bank, seed
            ),
            "random_attention": lambda: self._attention(
                sides, self.random_layers, self.settings.random_attention, (*seed, 1)
            ),
            "pooled": lambda: self._pooled(sides),
        }
        terms: dict[str, torch.Tensor] = {}
        total = torch.zeros((), device=sides.pad_weight_B.device)
        for name, weight in self.settings.objective.weights(step / self.settings.steps).items():
            terms |= (
                self._position(sides, counts)
                if name == "position"
                else {f"loss/{name}": sums[name]() / counts.prompts}
            )
            total = total + weight * terms[f"loss/{name}"]
        return {**terms, "loss/total": total}

    def _pooled(self, sides: Sides) -> torch.Tensor:
        student_BP, teacher_BP = sides.student.pooled_BP, sides.teacher.pooled_BP
        variance_P = self.statistics.pooled_P
        assert student_BP is not None and teacher_BP is not None and variance_P is not None
        return distances.pooled_error_sum(student_BP, teacher_BP, variance_P)

    def _position(self, sides: Sides, counts: GlobalCounts) -> dict[str, torch.Tensor]:
        """The sum over regions, averaged over the parts; every region of every part is a term of
        its own.
        """
        terms, total = {}, torch.zeros((), device=sides.pad_weight_B.device)
        for name, teacher_BLD in sides.teacher.states.items():
            masks = distances.region_masks(sides.teacher_eos[name], teacher_BLD.shape[1])
            masks["pads"] = masks["pads"] * sides.pad_weight_B[:, None]
            errors = distances.squared_error_sums(
                sides.student.states[name], teacher_BLD, self.statistics.states[name], masks
            )
            for region, error in errors.items():
                term = error / max(1, counts.positions[name][region])
                terms[f"loss/{region}_nmse_{name}"] = term
                total = total + term
        return {**terms, "loss/position": total / len(sides.teacher.states)}

    def _attention(
        self,
        sides: Sides,
        layers: list[CrossAttentionLayer],
        settings: QueryBank | RandomAttention,
        seed: tuple[int, ...],
    ) -> torch.Tensor:
        """The error of a few layers' outputs for a few queries, summed over prompts and averaged
        over the sampled layers; the sample is the same in every process.
        """
        if not self.settings.attention_applies(sides.truncated):
            return torch.zeros((), device=sides.pad_weight_B.device)
        visible: dict[str, torch.Tensor | None] = (
            up_to_eos(sides) if sides.truncated else {"student": None, "teacher": None}
        )
        # without `cut_attention` the full-length prompts also stand for the truncated ones
        cut_attention = self.settings.cut_attention
        weights_B = torch.ones_like(sides.pad_weight_B) if cut_attention else sides.pad_weight_B
        generator = np.random.default_rng(seed)
        errors = []
        for index in systematic_sample(
            np.array([layer.share for layer in layers]),
            settings.layers_per_step,
            generator.random(),
        ):
            layer = layers[index]
            queries_N = torch.from_numpy(
                generator.integers(len(layer.queries_NHK), size=settings.queries_per_step)
            ).to(layer.to_k_ED.device, non_blocking=True)
            with torch.no_grad():
                wanted_BHNK = layer.output(sides.teacher, queries_N, visible["teacher"])
            errors_B = distances.attention_errors(
                layer.output(sides.student, queries_N, visible["student"]),
                wanted_BHNK,
                layer.variance,
            )
            errors.append((errors_B * weights_B).sum())
        return torch.stack(errors).mean()


def up_to_eos(sides: Sides) -> dict[str, torch.Tensor | None]:
    """(B, L) bool masks of student and teacher: the positions from BOS to EOS."""
    eos = {
        "student": sides.student_eos_B,
        "teacher": functools.reduce(torch.maximum, sides.teacher_eos.values()),
    }
    length = next(iter(sides.teacher.states.values())).shape[1]
    position_1L = torch.arange(length, device=sides.pad_weight_B.device)[None]
    return {side: position_1L <= eos_B[:, None] for side, eos_B in eos.items()}


def systematic_sample(shares: np.ndarray, count: int, start: float) -> np.ndarray:
    """(count,) indices, each index i on average `count * shares[i]` times (systematic sampling);
    `start` in [0, 1) is the one random number.

    So the mean over the sample is an unbiased estimate of the mean weighted by `shares` (which sum
    to 1), of less variance than independent draws. An index whose share is above 1 / count comes
    more than once.
    """
    return np.searchsorted(
        np.cumsum(shares), (start + np.arange(count)) / count, side="right"
    ).clip(max=len(shares) - 1)
