"""Variances of the teacher's states, which the losses divide by: measured once over training
prompts, so that no loss depends on the batch it is computed in.

Out: `<run>/distill/measured/teacher_statistics.safetensors`: by part of the family (`clip_l`,
     `clip_bigg`) the variance (D,) of its states over all positions but BOS, which is constant; and
     `pooled` (P,) where the family has it.

Shape letters: B batch, L token position, D width, P pooled width, R rows.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from configs.files import whole
from distill.encoders.family import Family
from distill.encoders.student import teacher_towers
from distill.encoders.teacher import Encoding, TextEncoders

PROMPTS_AT_ONCE = 64


@dataclass(frozen=True)
class Statistics:
    """Population variances of the teacher: (D,) by part of the family, and of the pooled state."""

    states: dict[str, torch.Tensor]
    pooled_P: torch.Tensor | None


@torch.no_grad()
def record(path: Path, teacher: TextEncoders, prompts: list[str]) -> None:
    """Measures the variances over `prompts`, chunk by chunk, summed in fp64."""
    towers = teacher_towers(teacher).to(teacher.device)
    sums: dict[str, list[torch.Tensor]] = {}
    counts: dict[str, int] = {}
    for start in tqdm(
        range(0, len(prompts), PROMPTS_AT_ONCE), desc="statistics", unit="batch", leave=False
    ):
        chunk = prompts[start : start + PROMPTS_AT_ONCE]
        encoding = towers(teacher.tokenize(chunk).to(teacher.device))
        for name, rows_RD in _rows(encoding).items():
            double_RD = rows_RD.double()
            moments = [double_RD.sum(dim=0), double_RD.square().sum(dim=0)]
            sums[name] = (
                [old + new for old, new in zip(sums[name], moments, strict=True)]
                if name in sums
                else moments
            )
            counts[name] = counts.get(name, 0) + len(rows_RD)
    tensors = {
        name: (square / counts[name] - (total / counts[name]).square()).clamp_min(0).float().cpu()
        for name, (total, square) in sums.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as temporary:
        save_file(tensors, temporary)


def load(path: Path, family: Family, device: torch.device | str = "cpu") -> Statistics:
    tensors = load_file(path, device=str(device))
    states = {name: tensors[name] for name in family.parts}
    return Statistics(states, tensors["pooled"] if family.pooled else None)


def _rows(encoding: Encoding) -> dict[str, torch.Tensor]:
    """What the variances are taken over, (R, D): all positions but BOS of all prompts."""
    states = {name: x_BLD[:, 1:].flatten(0, 1) for name, x_BLD in encoding.states.items()}
    return {**encoding.named(), **states}
