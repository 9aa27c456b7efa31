"""Distances between what a student and its teacher compute, as pure functions: training and
evaluation share them.

In and out: tensors; nothing on disk.

Shape letters: B batch, L token position, D width, P pooled width, R rows (any leading shape), N
queries, H heads, K width of one head, E = H * K.
"""

import torch
import torch.nn.functional as F

REGIONS = ("bos", "content", "eos", "pads")
# Variances below this share of the mean variance are raised to it: dividing by almost nothing would
# let a nearly constant dimension dominate.
RELATIVE_VARIANCE_FLOOR = 1e-4


def region_masks(eos_position_B: torch.Tensor, length: int) -> dict[str, torch.Tensor]:
    """The four regions of a prompt, each (B, L) bool: position 0, those before the EOS, the EOS,
    those after it.

    Every position lies in exactly one region. `eos_position_B` is the teacher's (English) first
    EOS, at least 1 and below `length`.
    """
    position_1L = torch.arange(length, device=eos_position_B.device)[None, :]
    eos_B1 = eos_position_B[:, None]
    return {
        "bos": (position_1L == 0).expand(len(eos_position_B), length),
        "content": (position_1L > 0) & (position_1L < eos_B1),
        "eos": position_1L == eos_B1,
        "pads": position_1L > eos_B1,
    }


def nmse(
    student_RD: torch.Tensor, teacher_RD: torch.Tensor, variance_D: torch.Tensor
) -> torch.Tensor:
    """Squared error divided by the teacher's variance per dimension, averaged over rows and
    dimensions; a scalar, 0 when equal.

    `variance_D` is the population variance (D,) of the teacher over the rows of the region: a
    student that always predicts the teacher's mean scores 1. Variances below
    `RELATIVE_VARIANCE_FLOOR` times their mean are raised to that (a constant dimension then adds 0
    for the mean, not 1).
    """
    return ((student_RD - teacher_RD).square() / floored(variance_D)).mean()


def floored(variance_D: torch.Tensor) -> torch.Tensor:
    """The variance (D,) with its smallest entries raised to `RELATIVE_VARIANCE_FLOOR` times the
    mean.
    """
    floor = (RELATIVE_VARIANCE_FLOOR * variance_D.mean()).clamp_min(
        torch.finfo(variance_D.dtype).tiny
    )
    return variance_D.clamp_min(floor)


def squared_error_sums(
    student_BLD: torch.Tensor,
    teacher_BLD: torch.Tensor,
    variance_D: torch.Tensor,
    masks: dict[str, torch.Tensor],
) -> dict[str, torch.Tensor]:
    """The reference's objective: by region, the sum over its positions of the variance-normalised
    error.

    The error of a position is the mean over dimensions of squared error / `variance_D`. Dividing a
    sum by the number of the region's positions in the whole global batch makes the loss the same
    however the batch is split.
    """
    error_BL = ((student_BLD - teacher_BLD).square() / floored(variance_D)).mean(dim=-1)
    return {region: (error_BL * mask).sum() for region, mask in masks.items()}


def pooled_error_sum(
    student_BP: torch.Tensor, teacher_BP: torch.Tensor, variance_P: torch.Tensor
) -> torch.Tensor:
    """Sum over prompts of the mean variance-normalised squared error of the pooled states."""
    return ((student_BP - teacher_BP).square() / floored(variance_P)).mean(dim=-1).sum()


def attention_output(
    query_NHK: torch.Tensor,
    context_BLD: torch.Tensor,
    to_k_ED: torch.Tensor,
    to_v_ED: torch.Tensor,
    visible_BL: torch.Tensor | None = None,
) -> torch.Tensor:
    """The output (B, H, N, K) of one cross-attention layer of a UNet for text states, before its
    `to_out`.

    N queries of H heads, K wide (E = H * K), are shared by all B prompts; `to_k_ED` and `to_v_ED`
    are the layer's weights. Softmax scale 1/sqrt(K), as diffusers' Attention. `visible_BL` (bool):
    an attention mask, True where a state may be read.
    """
    heads = query_NHK.shape[1]
    key_BHLK = F.linear(context_BLD, to_k_ED).unflatten(-1, (heads, -1)).transpose(1, 2)
    value_BHLK = F.linear(context_BLD, to_v_ED).unflatten(-1, (heads, -1)).transpose(1, 2)
    query_BHNK = query_NHK.transpose(0, 1).expand(len(context_BLD), -1, -1, -1)
    return F.scaled_dot_product_attention(
        query_BHNK, key_BHLK, value_BHLK, None if visible_BL is None else visible_BL[:, None, None]
    )


def attention_errors(
    student_BHNK: torch.Tensor, teacher_BHNK: torch.Tensor, variance: torch.Tensor
) -> torch.Tensor:
    """(B,): mean squared error of one layer's outputs, divided by the teacher outputs' variance
    over prompts; in fp32 at least, whatever the layer was computed in.
    """
    dtype = torch.promote_types(student_BHNK.dtype, torch.float32)
    return (student_BHNK.to(dtype) - teacher_BHNK.to(dtype)).square().mean(dim=(1, 2, 3)) / variance
