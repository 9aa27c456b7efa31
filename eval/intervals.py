"""95 % intervals: how much a number would move with other held-out pairs.

In and out: numpy arrays with the pairs on the first axis; nothing on disk.
"""

from typing import Any

import numpy as np
from scipy.stats import binomtest

RESAMPLES = 1000


def bootstrap(
    numerators: np.ndarray, denominators: np.ndarray | None = None, seed: int = 0
) -> dict[str, Any]:
    """`{"value", "low", "high"}` of sum / sum over pairs, (pairs,) each: the mean where no
    denominators are given, with its percentile bootstrap interval (Efron 1979).

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


def share(right: list[bool]) -> dict[str, Any]:
    """A share with its 95 % confidence interval (Wilson 1927), sound near 0 and 1 and for few
    trials: `{"value", "low", "high", "right", "total"}`.
    """
    interval = binomtest(sum(right), len(right)).proportion_ci(method="wilson")
    return {
        "value": sum(right) / len(right),
        "low": float(interval.low),
        "high": float(interval.high),
        "right": sum(right),
        "total": len(right),
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
