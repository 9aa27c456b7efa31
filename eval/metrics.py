"""The numbers only evaluation needs, as pure functions of tensors; training's distances are in `distill/objectives.py`.

In and out: tensors and floats; nothing on disk.

Shape letters: B batch (pairs), L token position, D width, R rows.

What the numbers mean, for a Japanese student against the English teacher:
- `nmse`: squared error over the teacher's variance per dimension; 0 is equal, 1 is "predicts the mean".
- `centred_cosine`: cosine after taking the teacher's mean off both sides; raw cosines of CLIP states are near 1 for any two texts.
- `recall_at_1_*`: share of texts whose most similar text of the other language is its own translation; chance is 1 / pairs.
- `relative_squared_error`: squared error over the teacher's squared norm; for BOS alone, whose state is the same for
  every prompt, so that it has no variance to divide by and nothing to retrieve.
"""

import math
from typing import Any

import torch

from distill.objectives import nmse, region_masks

# Cosines of equal vectors come out of a matrix product a few rounding errors apart; closer than this is a tie.
TIE = 1e-5


def compare_states(student_BLD: torch.Tensor, teacher_BLD: torch.Tensor, eos_position_B: torch.Tensor) -> dict[str, dict[str, float]]:
    """Every region's metrics for one encoder; a region that no prompt has (pads, when all fill the 77 positions) is left out.

    Positions are compared one to one, and the regions are those of the English text (`eos_position_B` is the teacher's EOS).
    Recall compares a region's mean state of each prompt.
    """
    regions = {}
    for name, mask_BL in region_masks(eos_position_B, teacher_BLD.shape[1]).items():
        if not mask_BL.any():
            continue
        student_RD, teacher_RD = student_BLD[mask_BL], teacher_BLD[mask_BL]
        if name == "bos":
            regions[name] = {"relative_squared_error": relative_squared_error(student_RD, teacher_RD)}
            continue
        student_BD, teacher_BD = region_means(student_BLD, mask_BL), region_means(teacher_BLD, mask_BL)
        regions[name] = errors(student_RD, teacher_RD) | recalls(student_BD, teacher_BD)
    return regions


def compare_vectors(student_BD: torch.Tensor, teacher_BD: torch.Tensor) -> dict[str, float]:
    """The same metrics for one vector a prompt, such as the pooled one."""
    return errors(student_BD, teacher_BD) | recalls(student_BD, teacher_BD)


def errors(student_RD: torch.Tensor, teacher_RD: torch.Tensor) -> dict[str, float]:
    """`nmse` by the population variance of these very rows, and `centred_cosine`."""
    variance_D = teacher_RD.var(dim=0, correction=0)
    return {"nmse": nmse(student_RD, teacher_RD, variance_D).item(), "centred_cosine": centred_cosine(student_RD, teacher_RD)}


def recalls(student_BD: torch.Tensor, teacher_BD: torch.Tensor) -> dict[str, float]:
    """`recall_at_1` from Japanese to English and back, both sides centred on the teacher's mean."""
    mean_D = teacher_BD.mean(dim=0)
    student_BD, teacher_BD = student_BD - mean_D, teacher_BD - mean_D
    return {"recall_at_1_ja_en": recall_at_1(student_BD, teacher_BD), "recall_at_1_en_ja": recall_at_1(teacher_BD, student_BD)}


def centred_cosine(student_RD: torch.Tensor, teacher_RD: torch.Tensor) -> float:
    """Mean cosine of matching rows after the teacher's mean is taken off both; 1 is the best, -1 the worst."""
    mean_D = teacher_RD.mean(dim=0)
    return torch.nn.functional.cosine_similarity(student_RD - mean_D, teacher_RD - mean_D, dim=-1).mean().item()


def relative_squared_error(student_RD: torch.Tensor, teacher_RD: torch.Tensor) -> float:
    """Sum of squared differences over the sum of the teacher's squares; 0 when equal."""
    return ((student_RD - teacher_RD).square().sum() / teacher_RD.square().sum()).item()


def similarities(query_BD: torch.Tensor, target_ND: torch.Tensor) -> torch.Tensor:
    """Cosines of every query with every target, (B, N)."""
    normalize = torch.nn.functional.normalize
    return normalize(query_BD, dim=-1) @ normalize(target_ND, dim=-1).T


def recall_at_1(query_BD: torch.Tensor, target_BD: torch.Tensor) -> float:
    """Share of rows whose own target is the most similar of all targets (a tie within `TIE` counts as found)."""
    similarity_BB = similarities(query_BD, target_BD)
    return (similarity_BB.diagonal() >= similarity_BB.max(dim=1).values - TIE).double().mean().item()


def region_means(states_BLD: torch.Tensor, mask_BL: torch.Tensor) -> torch.Tensor:
    """Mean state of the masked positions, (rows, D); prompts without such a position are left out."""
    present_B = mask_BL.any(dim=1)
    mask_BL1 = mask_BL[present_B, :, None].to(states_BLD.dtype)
    return (states_BLD[present_B] * mask_BL1).sum(dim=1) / mask_BL1.sum(dim=1)


def wilson_interval(right: int, total: int, z: float = 1.959964) -> tuple[float, float]:
    """The 95 % confidence interval of a share (Wilson 1927), sound near 0 and 1 and for few trials."""
    share, spread = right / total, z * z / total
    middle = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / total + spread / (4 * total)) / (1 + spread)
    # the interval holds the share itself; at 0 and 1 rounding would leave it a hair outside
    return max(0.0, min(middle - half, share)), min(1.0, max(middle + half, share))


def share(right: list[bool]) -> dict[str, Any]:
    """A share with its interval: `{"value", "low", "high", "right", "total"}`."""
    low, high = wilson_interval(sum(right), len(right))
    return {"value": sum(right) / len(right), "low": low, "high": high, "right": sum(right), "total": len(right)}
