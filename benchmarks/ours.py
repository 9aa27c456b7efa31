"""Our trainer on a benchmark's workload: `distill.train.one_step` itself, on random weights and made-up statistics."""

from typing import Any

import torch

from benchmarks.workload import Workload
from configs.distill import Distill
from distill import train
from distill.batches import Batches, SpecialIds
from distill.clip_text import tower_of
from distill.engine import Engine
from distill.loss import Loss
from distill.setup import Work
from distill.statistics import Statistics
from distill.student import TowerPair
from distill.teacher import ENCODERS
from distill.tokens import STUDENT_SIDES


class Ours:
    """`changes` of the settings make it strict (`full_length_share=1`) or cut."""

    def __init__(self, work: Workload, **changes: Any) -> None:
        self.settings: Distill = work.settings.model_copy(update=changes)
        student = TowerPair(*(tower_of(model) for model in work.student().values())).train()
        for tower in (student.clip_l, student.clip_bigg):
            for parameter in tower.dead_parameters():
                parameter.requires_grad_(False)
        engine = Engine(student, self.settings)
        dtype = torch.bfloat16 if self.settings.precision == "bf16" else torch.float32
        teacher = TowerPair(*(tower_of(work.teacher.models[name]) for name in ENCODERS)).eval().requires_grad_(False).to(engine.device, dtype)
        tokenizers = {f"en_{name}": tokenizer for name, tokenizer in work.teacher.tokenizers.items()}
        tokenizers |= dict.fromkeys(STUDENT_SIDES, work.student_tokenizer)
        ids = {side: SpecialIds(one.bos_token_id, one.eos_token_id, one.pad_token_id) for side, one in tokenizers.items()}
        share, steps = self.settings.full_length_share, self.settings.steps
        batches = Batches(work.tokens, ids, self.settings.batch_size, 0.0, 0.0, 0, share, steps)
        sizes = [getattr(work.profile, name) for name in ENCODERS]
        ones = [(torch.ones(size.width, device=engine.device),) for size in sizes]
        pooled = sizes[1].projection
        statistics = Statistics(*ones, torch.ones(pooled, device=engine.device), torch.zeros(pooled, device=engine.device))
        self.work = Work(engine, student, teacher, batches, Loss(self.settings, statistics, [], []), {})
        self.number = self.positions = 0

    def step(self) -> None:
        rows = self.work.batches.rows(self.number)
        micro_batches = self.work.batches.micro_batches(rows, 0, 1, self.settings.tokens_per_micro_batch)
        self.positions += sum(len(part) * length for part, length in micro_batches)
        train.one_step(self.work, self.settings, self.number)
        self.number += 1
