"""The teacher's variances the losses divide by: measured once on training prompts, so that no loss depends on its batch.

Out: `<run>/distill/teacher_statistics.safetensors`: `clip_l` and `clip_bigg` (D,) over all positions but BOS (constant), `pooled` (P,).
"""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from configs.files import whole
from distill.teacher import TextEncoders

PROMPTS_AT_ONCE = 64


def record(path: Path, teacher: TextEncoders, prompts: list[str]) -> None:
    """Population variances in fp64 over `prompts`, streamed."""
    sums: dict[str, list[torch.Tensor]] = {}
    counts: dict[str, int] = {}
    for start in range(0, len(prompts), PROMPTS_AT_ONCE):
        encoding = teacher.encode(prompts[start : start + PROMPTS_AT_ONCE])
        rows = {
            "clip_l": encoding.clip_l_BLD[:, 1:].flatten(0, 1),
            "clip_bigg": encoding.clip_bigg_BLD[:, 1:].flatten(0, 1),
            "pooled": encoding.pooled_BP,
        }
        for name, rows_RD in rows.items():
            double_RD = rows_RD.double()
            moments = [double_RD.sum(dim=0), double_RD.square().sum(dim=0)]
            sums[name] = [old + new for old, new in zip(sums[name], moments, strict=True)] if name in sums else moments
            counts[name] = counts.get(name, 0) + len(rows_RD)
    variances = {name: (square / counts[name] - (total / counts[name]).square()).clamp_min(0).float() for name, (total, square) in sums.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as temporary:
        save_file(variances, temporary)


def load(path: Path, device: torch.device | str = "cpu") -> dict[str, torch.Tensor]:
    return load_file(path, device=str(device))
