"""Our trainer on a benchmark's workload: `distill.train.one_step` itself, on random weights and
made-up statistics.
"""

from dataclasses import replace
from typing import Any

import torch

from benchmarks.workload import Profile, Workload
from configs.schema.distill import Distill
from distill.encoders.student import TowerPair
from distill.encoders.teacher import ENCODERS
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
        student = pair_of(work.student()).train()
        for tower in (student.clip_l, student.clip_bigg):
            for parameter in tower.dead_parameters():
                parameter.requires_grad_(False)
        engine = Engine(student, self.settings)
        dtype = weights_dtype(self.settings.precision)
        teacher = pair_of(work.teacher.models).eval().requires_grad_(False).to(engine.device, dtype)
        if self.settings.compile:
            for towers in (student, teacher):
                towers.compile_layers()
        batches = replace(work.batches, full_length_share=self.settings.full_length_share)
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


def pair_of(models: dict[str, Any]) -> TowerPair:
    """Towers with the weights of stock encoders."""
    clip_l, clip_bigg = (tower_of(models[name]) for name in ENCODERS)
    return TowerPair(clip_l, clip_bigg)


def unit_statistics(profile: Profile, device: torch.device) -> Statistics:
    """Teacher statistics with variances of 1, as for random encoders any will do."""
    clip_l, clip_bigg = (
        (torch.ones(size.width, device=device),) for size in (profile.clip_l, profile.clip_bigg)
    )
    pooled = profile.clip_bigg.projection
    return Statistics(
        clip_l, clip_bigg, torch.ones(pooled, device=device), torch.zeros(pooled, device=device)
    )
