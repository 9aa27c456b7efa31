"""The numbers only evaluation needs, as pure functions of tensors; training's distances are in
`distill/objective/distances.py`.

In and out: tensors and floats; nothing on disk.

Shape letters: B batch (pairs), L token position, D width, N targets.

What the numbers mean, for a Japanese student against the English teacher:
- `nmse`: squared error over the teacher's variance per dimension; 0 is equal, 1 is "predicts the
  mean".
- `centred_cosine`: cosine after subtracting the teacher's mean from both sides; raw cosines of CLIP
  states are near 1 for any two texts.
- `recall_at_1_*`, `recall_at_10_*`: share of texts whose own translation is the most similar text
  of the other language, or among the ten most similar; chance is 1 / pairs and 10 / pairs.
- `linear_cka`: how alike the two sides arrange the texts, whatever the rotation and scale; 1 is
  alike, 0 unrelated.
- `relative_squared_error`: squared error over the teacher's squared norm; for BOS alone, whose
  state is the same for every prompt, so that it has no variance to divide by and nothing to
  retrieve.
- `effective_rank`: over how many directions the texts spread; `mean_pairwise_cosine`: how alike
  different texts are.
"""

import math

import torch

# Cosines of equal vectors come out of a matrix product a few rounding errors apart; closer than
# this is a tie.
TIE = 1e-5
QUERIES_AT_ONCE = 1024


def similarities(query_BD: torch.Tensor, target_ND: torch.Tensor) -> torch.Tensor:
    """Cosines of every query with every target, (B, N)."""
    normalize = torch.nn.functional.normalize
    return normalize(query_BD, dim=-1) @ normalize(target_ND, dim=-1).T


def ranks(query_BD: torch.Tensor, target_BD: torch.Tensor) -> torch.Tensor:
    """Rank of each query's own target among all, (B,): 0 is the most similar one (a tie within
    `TIE` counts as 0).
    """
    found = []
    for start in range(0, len(query_BD), QUERIES_AT_ONCE):
        similarity_BN = similarities(query_BD[start : start + QUERIES_AT_ONCE], target_BD)
        own_B1 = similarity_BN.diagonal(start)[:, None]
        found.append((similarity_BN > own_B1 + TIE).sum(dim=1))
    return torch.cat(found)


def region_means(states_BLD: torch.Tensor, mask_BL: torch.Tensor) -> torch.Tensor:
    """Mean state of the masked positions, (B, D); 0 for a prompt without such a position."""
    mask_BL1 = mask_BL[:, :, None].to(states_BLD.dtype)
    return (states_BLD * mask_BL1).sum(dim=1) / mask_BL1.sum(dim=1).clamp_min(1)


def linear_cka(first_BD: torch.Tensor, second_BD: torch.Tensor) -> float | None:
    """Linear centred kernel alignment (Kornblith et al. 2019) with the unbiased HSIC of Song et al.
    (2012); None for fewer than 4 pairs.

    The plain estimate nears 1 for unrelated vectors wider than there are pairs; this one does not,
    and may fall a little below 0.
    """
    if len(first_BD) < 4:
        return None
    first_BD, second_BD = (
        side.double() - side.double().mean(dim=0) for side in (first_BD, second_BD)
    )
    own = [_hsic(side, side) for side in (first_BD, second_BD)]
    return (_hsic(first_BD, second_BD) / math.sqrt(own[0] * own[1])) if min(own) > 0 else None


def _hsic(first_BD: torch.Tensor, second_BD: torch.Tensor) -> float:
    """The unbiased HSIC of two linear kernels up to a factor, from the vectors: no (B, B) matrix is
    made.
    """
    count = len(first_BD)
    squares = [
        side.square().sum(dim=1) for side in (first_BD, second_BD)
    ]  # the kernels' diagonals, which the estimate leaves out
    sums = [
        side @ side.sum(dim=0) - square
        for side, square in zip((first_BD, second_BD), squares, strict=True)
    ]
    trace = (first_BD.T @ second_BD).square().sum() - squares[0] @ squares[1]
    total = sums[0].sum() * sums[1].sum() / ((count - 1) * (count - 2))
    return (trace + total - 2 / (count - 2) * (sums[0] @ sums[1])).item()


def effective_rank(vectors_BD: torch.Tensor) -> float:
    """The participation ratio of the covariance's eigenvalues, (sum)^2 / sum of squares (Gao et al.
    2017): from 1 (a line) to D; 0 for a point.
    """
    centred_BD = vectors_BD.double() - vectors_BD.double().mean(dim=0)
    small = (
        centred_BD.T @ centred_BD
        if len(vectors_BD) > vectors_BD.shape[1]
        else centred_BD @ centred_BD.T
    )  # the same eigenvalues but for zeros
    squares = small.square().sum()
    return (small.trace().square() / squares).item() if squares > 0 else 0.0


def mean_pairwise_cosine(vectors_BD: torch.Tensor, mean_D: torch.Tensor) -> float:
    """Mean cosine between different prompts after subtracting `mean_D` (the teacher's): near 0 when
    they spread, 1 when all are equal.
    """
    unit_BD = torch.nn.functional.normalize((vectors_BD - mean_D).double(), dim=-1)
    count = len(unit_BD)
    return (
        (unit_BD.sum(dim=0).square().sum() - unit_BD.square().sum()) / (count * (count - 1))
    ).item()
