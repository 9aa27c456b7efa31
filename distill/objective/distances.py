"""Distances between what a student and its teacher compute, as pure functions: training and
evaluation share them.

In and out: tensors; nothing on disk.

Shape letters: B batch, L token position, D width, P pooled width, R rows (any leading shape), N
queries, H heads, K width of one head, E = H * K.
"""

import torch
import torch.nn.functional as F

REGIONS = ("bos", "content", "eos", "pads")
# A dimension the teacher hardly moves would be divided by almost nothing: below this share of the
# mean variance the floor divides instead.
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
    student that says the teacher's mean everywhere scores 1. Variances below
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
    """Position-wise equality, the reference's objective: per region the sum over its positions of
    the variance-normalised error.

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
    """What one cross-attention layer of a UNet reads from text states, before its `to_out`: (B, H,
    N, K).

    N queries of H heads, K wide (E = H * K), are shared by all B prompts; `to_k_ED` and `to_v_ED`
    are the layer's weights. Softmax scale 1/sqrt(K), as diffusers' Attention. With `visible_BL`
    (bool) the other states are not read.
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
    over prompts.
    """
    return (student_BHNK - teacher_BHNK).square().mean(dim=(1, 2, 3)) / variance


def pooled_cosine_error_sum(
    student_BP: torch.Tensor, teacher_BP: torch.Tensor, mean_P: torch.Tensor
) -> torch.Tensor:
    """Sum over prompts of 1 - cosine after the teacher's mean `mean_P` is taken off both: 0 when
    the direction is right.
    """
    return (1 - F.cosine_similarity(student_BP - mean_P, teacher_BP - mean_P, dim=-1)).sum()


def pooled_contrastive_sum(
    student_BP: torch.Tensor,
    teacher_BP: torch.Tensor,
    mean_P: torch.Tensor,
    temperature: float = 0.05,
) -> torch.Tensor:
    """Sum over prompts of the symmetric InfoNCE loss (arXiv 1807.03748; both ways as CLIP, arXiv
    2103.00020) among the prompts given.

    The only term that depends on which prompts share a micro-batch. `temperature` divides centred
    cosines.
    """
    student_BP, teacher_BP = (F.normalize(x - mean_P, dim=-1) for x in (student_BP, teacher_BP))
    logits_BB = student_BP @ teacher_BP.T / temperature
    own_B = torch.arange(len(logits_BB), device=logits_BB.device)
    return (
        F.cross_entropy(logits_BB, own_B, reduction="sum")
        + F.cross_entropy(logits_BB.T, own_B, reduction="sum")
    ) / 2


def set_error_sum(
    student_BLD: torch.Tensor,
    student_mask_BL: torch.Tensor,
    teacher_BLD: torch.Tensor,
    teacher_mask_BL: torch.Tensor,
    variance_D: torch.Tensor,
    blur: float = 0.05,
) -> torch.Tensor:
    """Sum over prompts of the Sinkhorn divergence between the masked states as sets, whatever their
    order and number.

    The cost of a pair of states is the mean over dimensions of squared error / `variance_D`; each
    state of a set weighs the same. Debiased (arXiv 1810.08278), so that equal sets give 0; `blur`
    is the entropic regularisation in units of that cost. Prompts without a masked state on either
    side give 0.
    """
    scale_D = (floored(variance_D) * len(variance_D)).rsqrt()
    present_B = student_mask_BL.any(dim=1) & teacher_mask_BL.any(dim=1)
    if not present_B.any():
        return student_BLD.sum() * 0.0
    both = ((student_BLD, student_mask_BL), (teacher_BLD, teacher_mask_BL))
    student, teacher = (
        _trimmed(states_BLD[present_B] * scale_D, mask_BL[present_B])
        for states_BLD, mask_BL in both
    )
    return (
        _transport(student, teacher, blur)
        - _transport(student, student, blur) / 2
        - _transport(teacher, teacher, blur) / 2
    ).sum()


def _trimmed(states_BLD: torch.Tensor, mask_BL: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Up to the last masked position of any prompt: the transport costs the product of both
    lengths.
    """
    length = int(mask_BL.any(dim=0).nonzero().max()) + 1
    return states_BLD[:, :length], mask_BL[:, :length]


# at blur 0.05 the potentials of toyworld's and of caption-like states stand still to 1e-3 by then
SINKHORN_ITERATIONS = 30


def _transport(
    x: tuple[torch.Tensor, torch.Tensor], y: tuple[torch.Tensor, torch.Tensor], blur: float
) -> torch.Tensor:
    """Entropic optimal transport cost (B,) between sets (states (B, N, D), mask (B, N)); Sinkhorn
    in the log domain (arXiv 1306.0895).

    Its gradient holds the plan fixed, which is exact at convergence (the envelope theorem): no
    graph through the iterations.
    """
    (x_BND, x_mask_BN), (y_BMD, y_mask_BM) = x, y
    cost_BNM = (
        x_BND.square().sum(-1)[:, :, None] + y_BMD.square().sum(-1)[:, None] - 2 * x_BND @ y_BMD.mT
    ).clamp_min(0)
    log_x_BN, log_y_BM = (_log_uniform(mask) for mask in (x_mask_BN, y_mask_BM))
    with torch.no_grad():
        f_BN, g_BM = torch.zeros_like(log_x_BN), torch.zeros_like(log_y_BM)
        for _ in range(SINKHORN_ITERATIONS):
            # averaged updates: they also converge for a set against itself, where alternating ones
            # swing
            new_f_BN = -blur * torch.logsumexp(
                (g_BM[:, None] - cost_BNM) / blur + log_y_BM[:, None], dim=2
            )
            new_g_BM = -blur * torch.logsumexp(
                (f_BN[:, :, None] - cost_BNM) / blur + log_x_BN[:, :, None], dim=1
            )
            f_BN, g_BM = (f_BN + new_f_BN) / 2, (g_BM + new_g_BM) / 2
        plan_BNM = (
            (f_BN[:, :, None] + g_BM[:, None] - cost_BNM) / blur
            + log_x_BN[:, :, None]
            + log_y_BM[:, None]
        ).exp()
        value_B = (f_BN * log_x_BN.exp()).sum(1) + (g_BM * log_y_BM.exp()).sum(1)
    moved_B = (plan_BNM * cost_BNM).sum(dim=(1, 2))
    return value_B + moved_B - moved_B.detach()


def _log_uniform(mask_BN: torch.Tensor) -> torch.Tensor:
    """Log of equal weights on the masked places, -inf elsewhere."""
    return torch.where(mask_BN, -mask_BN.sum(1, keepdim=True).log(), -torch.inf)
