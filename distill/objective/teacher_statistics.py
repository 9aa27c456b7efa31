"""The teacher's means and variances the losses divide by: measured once on training prompts, so
that no loss depends on its batch.

Out: `<run>/distill/measured/teacher_statistics.safetensors`: `clip_l.<k>` and `clip_bigg.<k>` (D,),
     the variance over all positions but BOS (which is constant) of layer k's states, the
     penultimate ones last; `pooled` (P,) and `pooled_mean` (P,).

Shape letters: B batch, L token position, D width, P pooled width, R rows.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from configs.files import whole
from distill.encoders.student import Hidden, teacher_towers
from distill.encoders.teacher import ENCODERS, TextEncoders

PROMPTS_AT_ONCE = 64


@dataclass(frozen=True)
class Statistics:
    """Variances by encoder, one a layer, the penultimate one last; of the pooled state its variance
    and mean.
    """

    clip_l: tuple[torch.Tensor, ...]
    clip_bigg: tuple[torch.Tensor, ...]
    pooled_P: torch.Tensor
    pooled_mean_P: torch.Tensor


@torch.no_grad()
def record(path: Path, teacher: TextEncoders, prompts: list[str]) -> None:
    """Population moments in fp64 over `prompts`, streamed."""
    towers = teacher_towers(teacher, every_layer=True)
    sums: dict[str, list[torch.Tensor]] = {}
    counts: dict[str, int] = {}
    for start in tqdm(
        range(0, len(prompts), PROMPTS_AT_ONCE), desc="statistics", unit="batch", leave=False
    ):
        ids = teacher.tokenize(prompts[start : start + PROMPTS_AT_ONCE])
        for name, rows_RD in _rows(
            towers(ids.clip_l_BL, ids.clip_bigg_BL, ids.clip_bigg_eos_B)
        ).items():
            double_RD = rows_RD.double()
            moments = [double_RD.sum(dim=0), double_RD.square().sum(dim=0)]
            sums[name] = (
                [old + new for old, new in zip(sums[name], moments, strict=True)]
                if name in sums
                else moments
            )
            counts[name] = counts.get(name, 0) + len(rows_RD)
    tensors = {
        name: (square / counts[name] - (total / counts[name]).square()).clamp_min(0).float()
        for name, (total, square) in sums.items()
    }
    tensors["pooled_mean"] = (sums["pooled"][0] / counts["pooled"]).float()
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as temporary:
        save_file(tensors, temporary)


def load(path: Path, device: torch.device | str = "cpu") -> Statistics:
    tensors = load_file(path, device=str(device))
    states: dict[str, tuple[torch.Tensor, ...]] = {}
    for encoder in ENCODERS:
        layers = sorted(
            int(name.partition(".")[2]) for name in tensors if name.startswith(f"{encoder}.")
        )
        states[encoder] = tuple(tensors[f"{encoder}.{k}"] for k in layers)
    return Statistics(
        states["clip_l"], states["clip_bigg"], tensors["pooled"], tensors["pooled_mean"]
    )


def _rows(hidden: Hidden) -> dict[str, torch.Tensor]:
    rows = {f"clip_l.{k}": x_BLD[:, 1:].flatten(0, 1) for k, x_BLD in enumerate(hidden.clip_l)}
    rows |= {
        f"clip_bigg.{k}": x_BLD[:, 1:].flatten(0, 1) for k, x_BLD in enumerate(hidden.clip_bigg)
    }
    return rows | {"pooled": hidden.pooled_BP}
