"""The loss of a step: named terms, each logged by itself, and their weighted sum.

Every term is this micro-batch's share of a quantity of the global batch: summed over micro-batches
and processes it is that quantity, whatever the split (but for `pooled_contrastive`, whose prompts
compete within a micro-batch).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from configs.schema.distill import Distill, QueryBank, RandomAttention
from distill.encoders.student import Hidden
from distill.encoders.teacher import ENCODERS
from distill.objective import distances
from distill.objective.query_bank import CrossAttentionLayer
from distill.objective.teacher_statistics import Statistics


@dataclass(frozen=True)
class GlobalCounts:
    """Over the whole global batch: prompts, and positions of each region by the teacher's EOS."""

    prompts: int
    positions: dict[str, dict[str, int]]

    @staticmethod
    def of(eos_positions: dict[str, np.ndarray], length: int) -> "GlobalCounts":
        """From the EOS positions of the whole batch in each encoder's tokens."""
        positions = {
            name: {
                region: int(mask.sum())
                for region, mask in distances.region_masks(torch.from_numpy(eos), length).items()
            }
            for name, eos in eos_positions.items()
        }
        return GlobalCounts(len(eos_positions[ENCODERS[0]]), positions)


@dataclass(frozen=True)
class Sides:
    """One micro-batch as student and teacher computed it, and where EOS stands, (B,): the teacher's
    by encoder.

    `pads_B`: how often a prompt's pads count, 0 where it was cut before them
    (distill/tokens/batches.py); `full_length` is whether none was cut.
    """

    student: Hidden
    teacher: Hidden
    student_eos_B: torch.Tensor
    teacher_eos: dict[str, torch.Tensor]
    pads_B: torch.Tensor
    full_length: bool = True


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
        student_BP, teacher_BP = sides.student.pooled_BP, sides.teacher.pooled_BP
        variance_P, mean_P = self.statistics.pooled_P, self.statistics.pooled_mean_P
        seed = (self.settings.seed, step if draw is None else draw)
        in_parts = {"position": self._position, "set": self._set}
        sums: dict[str, Callable[[], torch.Tensor]] = {
            "cross_attention": lambda: self._attention(
                sides, self.layers, self.settings.query_bank, seed
            ),
            "random_attention": lambda: self._attention(
                sides, self.random_layers, self.settings.random_attention, (*seed, 1)
            ),
            "pooled": lambda: distances.pooled_error_sum(student_BP, teacher_BP, variance_P),
            "pooled_cosine": lambda: distances.pooled_cosine_error_sum(
                student_BP, teacher_BP, mean_P
            ),
            "pooled_contrastive": lambda: distances.pooled_contrastive_sum(
                student_BP, teacher_BP, mean_P
            ),
        }
        terms: dict[str, torch.Tensor] = {}
        total = torch.zeros((), device=teacher_BP.device)
        for name, weight in self.settings.objective.weights(step / self.settings.steps).items():
            terms |= (
                in_parts[name](sides, counts)
                if name in in_parts
                else {f"loss/{name}": sums[name]() / counts.prompts}
            )
            total = total + weight * terms[f"loss/{name}"]
        return {**terms, "loss/total": total}

    def _position(self, sides: Sides, counts: GlobalCounts) -> dict[str, torch.Tensor]:
        """The regions of each encoder are logged by themselves, of the penultimate states."""
        terms, total = {}, torch.zeros((), device=sides.teacher.pooled_BP.device)
        for encoder in ENCODERS:
            student, teacher = getattr(sides.student, encoder), getattr(sides.teacher, encoder)
            masks = distances.region_masks(sides.teacher_eos[encoder], teacher[-1].shape[1])
            masks["pads"] = masks["pads"] * sides.pads_B[:, None]
            variances = getattr(self.statistics, encoder)[-len(teacher) :]
            for student_BLD, teacher_BLD, variance_D in zip(
                student, teacher, variances, strict=True
            ):
                for region, error in distances.squared_error_sums(
                    student_BLD, teacher_BLD, variance_D, masks
                ).items():
                    term = error / max(1, counts.positions[encoder][region])
                    terms[f"loss/{region}_nmse_{encoder}"] = term  # the last layer's stays
                    total = total + getattr(self.settings.region_weights, region) * term / len(
                        teacher
                    )
        return {**terms, "loss/position": total / len(ENCODERS)}

    def _attention(
        self,
        sides: Sides,
        layers: list[CrossAttentionLayer],
        settings: QueryBank | RandomAttention,
        seed: tuple[int, ...],
    ) -> torch.Tensor:
        """Summed error of what a few layers read with a few queries, the mean over the layers
        drawn; the draw is the same in every process.
        """
        if not sides.full_length and not self.settings.cut_attention:
            return torch.zeros((), device=sides.pads_B.device)
        visible: dict[str, torch.Tensor | None] = (
            {"student": None, "teacher": None} if sides.full_length else up_to_eos(sides)
        )
        # where cut prompts teach nothing here, the full-length ones stand for them
        weights_B = torch.ones_like(sides.pads_B) if self.settings.cut_attention else sides.pads_B
        generator = np.random.default_rng(seed)
        student, teacher = sides.student.encoding, sides.teacher.encoding
        errors = []
        for index in systematic_sample(
            np.array([layer.share for layer in layers]),
            settings.layers_per_step,
            generator.random(),
        ):
            layer = layers[index]
            queries_N = torch.from_numpy(
                generator.integers(len(layer.queries_NHK), size=settings.queries_per_step)
            ).to(layer.to_k_ED.device)
            with torch.no_grad():
                wanted_BHNK = layer.output(teacher, queries_N, visible["teacher"])
            errors_B = distances.attention_errors(
                layer.output(student, queries_N, visible["student"]), wanted_BHNK, layer.variance
            )
            errors.append((errors_B * weights_B).sum())
        return torch.stack(errors).mean()

    def _set(self, sides: Sides, counts: GlobalCounts) -> dict[str, torch.Tensor]:
        terms = {}
        for encoder in ENCODERS:
            student_BLD, teacher_BLD = (
                getattr(sides.student, encoder)[-1],
                getattr(sides.teacher, encoder)[-1],
            )
            length = teacher_BLD.shape[1]
            masks = (
                distances.region_masks(eos_B, length)["content"]
                for eos_B in (sides.student_eos_B, sides.teacher_eos[encoder])
            )
            student_mask_BL, teacher_mask_BL = masks
            variance_D = getattr(self.statistics, encoder)[-1]
            error = distances.set_error_sum(
                student_BLD, student_mask_BL, teacher_BLD, teacher_mask_BL, variance_D
            )
            terms[f"loss/set_{encoder}"] = error / counts.prompts
        return {**terms, "loss/set": torch.stack(list(terms.values())).mean()}


def up_to_eos(sides: Sides) -> dict[str, torch.Tensor | None]:
    """(B, L) bool by side: the states of a prompt's words, BOS and EOS with them."""
    eos = {"student": sides.student_eos_B, "teacher": torch.maximum(*sides.teacher_eos.values())}
    position_1L = torch.arange(sides.teacher.clip_l[-1].shape[1], device=sides.pads_B.device)[None]
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
