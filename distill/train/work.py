"""What a training step touches, and the forward of teacher and student: the same for a training
step, for the held-out loss, and where a failed step is explained.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from distill.encoders.student import Towers
from distill.objective.terms import GlobalCounts, Loss, Sides
from distill.parallel.engine import Engine, rank, world_size
from distill.tokens.ahead import Ahead
from distill.tokens.batches import Batch, Batches
from distill.tokens.prompts import POSITIONS


class StepBatches(NamedTuple):
    """One step's: what the terms of the loss are divided by, and this process's micro-batches, each
    with its `ROW`s.
    """

    counts: GlobalCounts
    micro_batches: list[tuple[np.ndarray, Batch]]

    @classmethod
    def of(cls, batches: Batches, step: int, process: int, processes: int) -> "StepBatches":
        """Those of one of `processes`, on the CPU."""
        rows, limit = batches.rows(step), batches.settings.tokens_per_micro_batch
        gathered = [
            (part, batches.gather(part, length))
            for part, length in batches.micro_batches(rows, process, processes, limit)
        ]
        return cls(GlobalCounts.of(batches.teacher_eos(rows), POSITIONS), gathered)


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

    @functools.cached_property
    def ahead(self) -> Ahead[StepBatches]:
        """The training's batches by step; asked in order, the next one is made meanwhile."""
        return Ahead(lambda step: self.of_step(self.batches, step))

    def of_step(self, batches: Batches, step: int) -> StepBatches:
        """On the CPU, in memory that a GPU can copy while it computes."""
        found = StepBatches.of(batches, step, rank(), world_size())
        if self.engine.device.type != "cuda":
            return found
        pinned = [(rows, batch.map(torch.Tensor.pin_memory)) for rows, batch in found.micro_batches]
        return found._replace(micro_batches=pinned)

    def stack(self, values: list[torch.Tensor]) -> torch.Tensor:
        return torch.stack([value.to(self.engine.device, torch.float32) for value in values])

    def sides(self, student: Callable[..., Any], batch: Batch) -> Sides:
        """Both forwards of a micro-batch.

        `student`: `engine` in training, `student` elsewhere. The teacher's forward keeps no graph;
        the student's does unless the caller turned gradients off.
        """
        batch = batch.to(self.engine.device)
        with torch.no_grad():
            teacher = self.teacher(batch.teacher)
        return batch.sides(student(batch.student), teacher)
