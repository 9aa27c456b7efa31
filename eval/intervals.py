"""Percentile bootstrap intervals over pairs (Efron 1979): how much a number would move with other
held-out pairs.

In and out: numpy arrays with the pairs on the first axis; nothing on disk.
"""

from typing import Any

import numpy as np

RESAMPLES = 1000


def bootstrap(
    numerators: np.ndarray, denominators: np.ndarray | None = None, seed: int = 0
) -> dict[str, Any]:
    """`{"value", "low", "high"}` of sum / sum over pairs, (pairs,) each: the mean where no
    denominators are given. 95 %.

    Pairs are drawn with replacement, numerator and denominator of a pair together. Resamples whose
    denominator is 0 are left out.
    """
    denominators = np.ones(len(numerators)) if denominators is None else denominators
    counts = _counts(len(numerators), seed)
    below = counts @ denominators.astype(np.float64)
    ratios = (counts @ numerators.astype(np.float64))[below > 0] / below[below > 0]
    low, high = np.percentile(ratios, [2.5, 97.5])
    return {
        "value": float(numerators.sum() / denominators.sum()),
        "low": float(low),
        "high": float(high),
    }


def _counts(pairs: int, seed: int) -> np.ndarray:
    """How often each resample drew each pair, (RESAMPLES, pairs)."""
    drawn = (
        np.random.default_rng(seed).integers(pairs, size=(RESAMPLES, pairs))
        + pairs * np.arange(RESAMPLES)[:, None]
    )
    return (
        np.bincount(drawn.ravel(), minlength=RESAMPLES * pairs)
        .reshape(RESAMPLES, pairs)
        .astype(np.float64)
    )
