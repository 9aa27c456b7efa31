"""Our trainer on a benchmark's workload: `distill.train.one_step` itself, on random weights and
made-up statistics.
"""

from dataclasses import replace
from typing import Any

import torch

from benchmarks.workload import Profile, Workload
from configs.schema.distill import Distill
from distill.encoders.family import SDXL
from distill.encoders.student import Towers
from distill.encoders.tower import tower_of
from distill.objective.teacher_statistics import Statistics
from distill.objective.terms import Loss
from distill.parallel.engine import Engine, weights_dtype
from distill.train import training
from distill.train.work import Work


class Ours:
    """`changes`: settings of `distill` to replace, such as `full_length_share` or `compile`."""

    def __init__(self, work: Workload, **changes: Any) -> None:
        self.settings: Distill = work.settings.model_copy(update=changes)
        student = towers_of(work.student()).train()
        for name in student.parts:
            for parameter in student[name].dead_parameters():
                parameter.requires_grad_(False)
        engine = Engine(student, self.settings)
        dtype = weights_dtype(self.settings.precision)
        teacher = (
            towers_of(work.teacher.models).eval().requires_grad_(False).to(engine.device, dtype)
        )
        if self.settings.compile:
            for towers in (student, teacher):
                towers.compile_layers()
        batches = replace(work.batches, settings=self.settings)
        self.work = Work(
            engine,
            student,
            teacher,
            batches,
            Loss(self.settings, unit_statistics(work.profile, engine.device), [], []),
            {},
        )
        self.number = 0

    def step(self) -> None:
        training.one_step(self.work, self.settings, self.number)
        self.number += 1


def towers_of(models: dict[str, Any]) -> Towers:
    """Towers with the weights of stock encoders."""
    return Towers(
        {name: tower_of(model, SDXL.parts[name].states) for name, model in models.items()}
    )


def unit_statistics(profile: Profile, device: torch.device) -> Statistics:
    """Teacher statistics with variances of 1, as for random encoders any will do."""
    widths = {"clip_l": profile.clip_l.width, "clip_bigg": profile.clip_bigg.width}
    return Statistics(
        {name: torch.ones(width, device=device) for name, width in widths.items()},
        torch.ones(profile.clip_bigg.projection, device=device),
    )
