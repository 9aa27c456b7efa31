"""What a training step touches, and the forward of teacher and student: the same for a training
step, for the held-out loss, and where a failed step is explained.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from distill.encoders.student import Towers
from distill.objective.terms import GlobalCounts, Loss, Sides
from distill.parallel.engine import Engine
from distill.tokens.batches import Batches
from distill.tokens.prompts import POSITIONS


@dataclass(frozen=True)
class HeldOut:
    """Batches 0 to `count` - 1 of `batches` are the held-out prompts."""

    batches: Batches
    count: int


@dataclass(frozen=True)
class Work:
    """`held_out`: None where there are no held-out pairs."""

    engine: Engine
    student: Towers
    teacher: Towers
    batches: Batches
    loss: Loss
    dead_weights: dict[str, torch.Tensor]
    held_out: HeldOut | None = None

    def stack(self, values: list[torch.Tensor]) -> torch.Tensor:
        return torch.stack([value.to(self.engine.device, torch.float32) for value in values])

    def sides(
        self, student: Callable[..., Any], batches: Batches, rows: np.ndarray, length: int
    ) -> Sides:
        """Both forwards of a micro-batch: `rows` of `batches`, `length` positions of each.

        `student`: `engine` in training, `student` elsewhere. The teacher's forward keeps no graph;
        the student's does unless the caller turned gradients off.
        """
        batch = batches.gather(rows, length).to(self.engine.device)
        with torch.no_grad():
            teacher = self.teacher(batch.teacher)
        return batch.sides(student(batch.student), teacher)


def global_counts(batches: Batches, rows: np.ndarray) -> GlobalCounts:
    """What the terms of the loss are divided by, of all `rows` of a global batch."""
    return GlobalCounts.of(batches.teacher_eos(rows), POSITIONS)
