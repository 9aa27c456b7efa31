"""How fast a training runs: tokens a second and, where the device's peak is known, its model FLOP
utilisation (MFU; Chowdhery et al., arXiv 2204.02311, appendix B).

Only the steps are timed, neither saving nor evaluation. DeepSpeed waits for the device in every
step, to look at the gradient's norm, so the clock of the process is the device's.
"""

import re

import numpy as np
import torch

from configs.schema.distill import Distill, QueryBank, RandomAttention
from distill.encoders.tower import TextTower
from distill.objective.query_bank import CrossAttentionLayer
from distill.parallel.engine import world_size
from distill.plan.cost import AttentionCost, Tower, flop_per_pair
from distill.tokens.prompts import POSITIONS, STUDENT
from distill.train.work import Work

# Dense bf16 matrix products, FLOP/s, of the first pattern that the device's name fits.
# NVIDIA's data sheets give twice as much for H100 and H200: "with sparsity".
BF16_PEAKS = {
    r"H100 PCIe": 756e12,  # NVIDIA H100 Tensor Core GPU architecture, V1.04, table 2
    r"H100 NVL|H200 NVL": 835e12,  # data sheets: 1,671 with sparsity
    r"H100 80GB HBM3|H200": 989.4e12,  # the same table; data sheet of the H200: 1,979 with sparsity
    r"A100": 312e12,  # NVIDIA A100 data sheet
}


class Speed:
    """Rank 0's count of the steps since the last row of the log."""

    unit = "pairs"

    def __init__(self, work: Work, settings: Distill) -> None:
        self._batches, self._cut_attention = work.batches, settings.cut_attention
        device = work.engine.device
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
        peak = peak_flop(name, settings.precision)
        self._peak = peak * world_size() if peak is not None else None
        self._flop_L = flop_by_length(work, settings) if peak is not None else None
        self._reset()

    def _reset(self) -> None:
        self._seconds = self._student = self._teacher = self._flop = 0.0

    def count(self, step: int, seconds: float) -> None:
        """A step (counted from 0) that took so long."""
        rows = self._batches.rows(step)
        english_B = next(iter(self._batches.teacher_eos(rows).values()))
        self._seconds += seconds
        self._student += float((self._batches.eos_positions(STUDENT, rows) + 1).sum())
        self._teacher += float((english_B + 1).sum())
        if self._flop_L is not None:
            towers, objective = self._flop_L[:, self._batches.computed_lengths(rows)]
            reads = (rows["pad_weight"] > 0) | self._cut_attention
            self._flop += float(towers.sum() + objective[reads].sum())

    def row(self) -> dict[str, float]:
        """`speed/...` since the last call. Tokens are counted from BOS to EOS, without padding."""
        found = {
            "speed/tokens_per_second": round(self._student / self._seconds, 1),
            "speed/teacher_tokens_per_second": round(self._teacher / self._seconds, 1),
        }
        if self._peak is not None:
            found["speed/mfu"] = self._flop / self._seconds / self._peak
        self._reset()
        return found


def peak_flop(device_name: str, precision: str) -> float | None:
    """FLOP/s of one device; None for one that is not in the table, a slice of one (MIG), or
    another precision than bf16.
    """
    if precision != "bf16" or "MIG" in device_name:
        return None
    return next((peak for name, peak in BF16_PEAKS.items() if re.search(name, device_name)), None)


def flop_by_length(work: Work, settings: Distill) -> np.ndarray:
    """(2, 78) FLOP of a pair of 0 to 77 positions: of both encoders, and of the attention
    objectives.
    """
    towers = [_shape(work.teacher[name]) for name in work.teacher.parts]
    attention = [
        _reading(layers, of)
        for layers, of in (
            (work.loss.layers, settings.query_bank),
            (work.loss.random_layers, settings.random_attention),
        )
    ]
    lengths = range(POSITIONS + 1)
    return np.array(
        [
            [flop_per_pair(towers, length) for length in lengths],
            [sum(one.flop(length) for one in attention) for length in lengths],
        ],
        float,
    )


def _shape(tower: TextTower) -> Tower:
    model, projection = tower.text_model, tower.text_projection
    return Tower(
        width=model.embeddings.token_embedding.embedding_dim,
        layers=len(model.encoder.layers),
        mlp=model.encoder.layers[0].get_parameter("mlp.fc1.weight").shape[0],
        vocabulary=model.embeddings.token_embedding.num_embeddings,
        positions=model.embeddings.position_embedding.num_embeddings,
        projection=projection.out_features if projection is not None else 0,
        states=tower.states,
    )


def _reading(layers: list[CrossAttentionLayer], of: QueryBank | RandomAttention) -> AttentionCost:
    """Nothing for an objective that is not used, whose `layers` are empty."""
    width = sum(layer.share * layer.to_k_ED.shape[0] for layer in layers)
    states_by_width = sum(layer.share * layer.to_k_ED.numel() for layer in layers)
    return AttentionCost(of.layers_per_step, of.queries_per_step, width, states_by_width, 0)
