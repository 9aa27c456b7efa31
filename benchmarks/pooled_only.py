"""The distillation of sentence-transformers (`MSELoss`): only the pooled state of the second
encoder. It trains less than the others: no hidden states.
"""

from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import MSELoss
from torch import nn

from benchmarks.workload import Workload
from distill.parallel.engine import weights_dtype


class Pooled(nn.Module):
    """A stock encoder as a module of a SentenceTransformer."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return features | {"sentence_embedding": self.model(features["input_ids"]).text_embeds}


class PooledOnly:
    """Texts are padded to the longest of the batch. The teacher's pooled states are computed in
    each step.
    """

    def __init__(self, work: Workload, device: torch.device) -> None:
        self.work, self.device, self.number = work, device, 0
        dtype = weights_dtype(work.settings.precision)
        student = work.student()["clip_bigg"].train().to(device, dtype)
        self.loss = MSELoss(SentenceTransformer(modules=[Pooled(student)], device=str(device)))
        self.optimizer = torch.optim.AdamW(student.parameters(), lr=work.settings.learning_rate)
        self.teacher = work.teacher.models["clip_bigg"].to(device, dtype)

    def step(self) -> None:
        size = self.work.settings.batch_size
        pairs = self.work.pairs[self.number * size : (self.number + 1) * size]
        japanese, english = (list(side) for side in zip(*pairs, strict=True))
        tokenizers = (self.work.student_tokenizer, self.work.teacher.tokenizers["clip_bigg"])
        student_BL, teacher_BL = (
            tokenizer(
                texts, padding="longest", truncation=True, max_length=77, return_tensors="pt"
            ).input_ids.to(self.device)
            for tokenizer, texts in zip(tokenizers, (japanese, english), strict=True)
        )
        with torch.no_grad():
            wanted_BP = self.teacher(teacher_BL).text_embeds
        self.loss([{"input_ids": student_BL}], wanted_BP).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.number += 1
