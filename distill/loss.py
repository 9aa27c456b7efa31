"""The loss of a step: named terms, each logged by itself, and their weighted sum.

Every term is this micro-batch's share of a quantity of the global batch: summed over micro-batches and processes it is that
quantity, whatever the split.
"""

from dataclasses import dataclass

import numpy as np
import torch

from configs.schema import Distill
from distill import objectives
from distill.query_bank import CrossAttentionLayer
from distill.teacher import ENCODERS, Encoding


@dataclass(frozen=True)
class GlobalCounts:
    """Over the whole global batch: prompts, and positions of each region by the teacher's EOS."""

    prompts: int
    positions: dict[str, dict[str, int]]

    @staticmethod
    def of(eos_positions: dict[str, np.ndarray], length: int) -> "GlobalCounts":
        """From the EOS positions of the whole batch in each encoder's tokens."""
        positions = {
            name: {region: int(mask.sum()) for region, mask in objectives.region_masks(torch.from_numpy(eos), length).items()}
            for name, eos in eos_positions.items()
        }
        return GlobalCounts(len(eos_positions[ENCODERS[0]]), positions)


@dataclass(frozen=True)
class Loss:
    """`position` or `cross_attention`, each with `pooled`."""

    settings: Distill
    variances: dict[str, torch.Tensor]
    layers: list[CrossAttentionLayer]

    def terms(
        self, student: Encoding, teacher: Encoding, eos_position: dict[str, torch.Tensor], counts: GlobalCounts, step: int
    ) -> dict[str, torch.Tensor]:
        """Each term by its name in the log; `total` is what is minimised."""
        student, teacher = (Encoding(*(tensor.float() for tensor in encoding)) for encoding in (student, teacher))
        pooled = objectives.pooled_error_sum(student.pooled_BP, teacher.pooled_BP, self.variances["pooled"]) / counts.prompts
        if self.settings.objective == "position":
            terms, total = self._position(student, teacher, eos_position, counts)
        else:
            total = self._cross_attention(student, teacher, counts, step)
            terms = {"loss/cross_attention_nmse": total}
        return {**terms, "loss/pooled_nmse": pooled, "loss/total": total + self.settings.pooled_weight * pooled}

    def _position(
        self, student: Encoding, teacher: Encoding, eos_position: dict[str, torch.Tensor], counts: GlobalCounts
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        terms, total = {}, torch.zeros((), device=teacher.pooled_BP.device)
        for name in ENCODERS:
            masks = objectives.region_masks(eos_position[name], teacher.clip_l_BLD.shape[1])
            states = getattr(student, f"{name}_BLD"), getattr(teacher, f"{name}_BLD")
            for region, error in objectives.squared_error_sums(*states, self.variances[name], masks).items():
                terms[f"loss/{region}_nmse_{name}"] = error / max(1, counts.positions[name][region])
                total = total + getattr(self.settings.region_weights, region) * terms[f"loss/{region}_nmse_{name}"]
        return terms, total / len(ENCODERS)

    def _cross_attention(self, student: Encoding, teacher: Encoding, counts: GlobalCounts, step: int) -> torch.Tensor:
        """A few layers and queries a step, the same in every process."""
        bank = self.settings.query_bank
        generator = np.random.default_rng([self.settings.seed, step])
        chosen = generator.choice(len(self.layers), min(bank.layers_per_step, len(self.layers)), replace=False)
        errors = []
        for index in chosen:
            layer = self.layers[index]
            queries_N = torch.from_numpy(generator.integers(len(layer.queries_NHK), size=bank.queries_per_step)).to(layer.to_k_ED.device)
            with torch.no_grad():
                wanted_BHNK = layer.output(teacher, queries_N)
            errors.append(objectives.attention_error_sum(layer.output(student, queries_N), wanted_BHNK, layer.variance))
        return torch.stack(errors).mean() / counts.prompts
