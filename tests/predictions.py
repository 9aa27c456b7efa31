"""Predictions of a UNet that are known: vectors by row, and the distances between them."""

import numpy as np

from eval.states.noise_gap import REACTION, Couple, Distances

PAIRS, TIMESTEPS, WIDTH = 5, 2, 7


def drawn(rows: list[str]) -> dict[str, np.ndarray]:
    """(pairs, timesteps, width) by row."""
    rng = np.random.default_rng(0)
    return {row: rng.normal(size=(PAIRS, TIMESTEPS, WIDTH)) for row in rows}


def distances_of(vectors: dict[str, np.ndarray], couples: list[Couple]) -> Distances:
    squared = {(a, b): ((vectors[a] - vectors[b]) ** 2).sum(axis=2) for a, b in couples}
    squared.setdefault(REACTION, np.ones((PAIRS, TIMESTEPS)))
    return Distances(list(range(TIMESTEPS)), squared)
