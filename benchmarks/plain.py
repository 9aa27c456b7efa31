"""The plain recipe, as one would write it with the libraries alone: the baseline of the trainer's
benchmark.

Four stock encoders, every text padded, `output_hidden_states=True`, texts tokenised by a
DataLoader's collate function, DeepSpeed ZeRO-1. The objective is the reference's: squared errors of
the penultimate states, position by position, and of the pooled state.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from benchmarks.workload import Workload
from distill.encoders.family import SDXL
from distill.parallel.engine import Engine, weights_dtype


class TwoEncoders(nn.Module):
    """Both stock encoders in one module, so that one engine holds them."""

    def __init__(self, models: dict[str, Any]) -> None:
        super().__init__()
        self.clip_l, self.clip_bigg = models["clip_l"], models["clip_bigg"]

    def forward(
        self, clip_l_ids_BL: torch.Tensor, clip_bigg_ids_BL: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        clip_l = self.clip_l(clip_l_ids_BL, output_hidden_states=True)
        clip_bigg = self.clip_bigg(clip_bigg_ids_BL, output_hidden_states=True)
        return clip_l.hidden_states[-2], clip_bigg.hidden_states[-2], clip_bigg.text_embeds


class Plain:
    """`padding`: `max_length` (77, what the pipelines do) or `longest` (of the batch, both
    languages alike).
    """

    def __init__(self, work: Workload, padding: str) -> None:
        self.work, self.padding = work, padding
        self.engine = Engine(TwoEncoders(work.student()).train(), work.settings)
        dtype = weights_dtype(work.settings.precision)
        self.teacher = TwoEncoders(work.teacher.models).to(self.engine.device, dtype)
        pairs: Any = work.pairs  # a list is a dataset to DataLoader, whose types do not know it
        size, workers = work.settings.batch_size, work.profile.workers
        self.batches = _forever(
            DataLoader(pairs, size, num_workers=workers, collate_fn=self.collate, drop_last=True)
        )

    def collate(self, pairs: list[tuple[str, str]]) -> list[torch.Tensor]:
        """(B, L) ids: the teacher's two tokenizers on English, the student's on Japanese."""
        japanese, english = (list(side) for side in zip(*pairs, strict=True))
        texts = [(self.work.teacher.tokenizers[name], english) for name in SDXL.parts] + [
            (self.work.student_tokenizer, japanese)
        ]
        if self.padding == "max_length":
            return [
                tokenizer(
                    side, padding="max_length", max_length=77, truncation=True, return_tensors="pt"
                ).input_ids
                for tokenizer, side in texts
            ]
        encoded = [
            tokenizer(side, truncation=True, max_length=77).input_ids for tokenizer, side in texts
        ]
        longest = max(len(ids) for rows in encoded for ids in rows)
        return [
            tokenizer.pad(
                {"input_ids": rows}, padding="max_length", max_length=longest, return_tensors="pt"
            ).input_ids
            for (tokenizer, _), rows in zip(texts, encoded, strict=True)
        ]

    def step(self) -> None:
        clip_l_BL, clip_bigg_BL, student_BL = (
            ids_BL.to(self.engine.device) for ids_BL in next(self.batches)
        )
        with torch.no_grad():
            wanted = self.teacher(clip_l_BL, clip_bigg_BL)
        found = self.engine(student_BL, student_BL)
        losses = [
            F.mse_loss(one.float(), other.float()) for one, other in zip(found, wanted, strict=True)
        ]
        self.engine.micro_batch(last=True)
        self.engine.backward(torch.stack(losses).sum())
        self.engine.step(self.work.settings.learning_rate)


def _forever(loader: Any) -> Iterator[Any]:
    while True:
        yield from loader
