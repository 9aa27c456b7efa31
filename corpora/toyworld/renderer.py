"""Renders scenes as 32 x 32 sRGB pictures, anti-aliased, optionally with things shifted by a pixel.

Shape letters: N pictures, T things (1 or 2), H = W = 32.
"""

import functools
from collections.abc import Sequence
from typing import Literal

import numpy as np

from corpora.toyworld.scenes import BACKGROUNDS, COLORS, SHAPES, SIZES, Layout, Scene

SIDE = 32
RADIUS = {"small": 5.0, "big": 7.0}  # pixels
# the (x, y) center of each thing, in pixels, in picture order
PLACES: dict[Layout, tuple[tuple[int, int], ...]] = {
    "single": ((16, 16),),
    "horizontal": ((8, 16), (24, 16)),
    "vertical": ((16, 8), (16, 24)),
}
JITTERS = tuple((dx, dy) for dy in (-1, 0, 1) for dx in (-1, 0, 1))
SUPERSAMPLING = 8
# "shaded" (lit from the upper left) and "soft" (soft edges) are for UNets that training never saw.
Style = Literal["plain", "shaded", "soft"]
SHADING = (1.12 - 0.4 * np.add.outer(np.arange(SIDE), np.arange(SIDE)) / (2 * SIDE)).astype(
    np.float32
)[..., None]


def _inside(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Whether points are in the shape of radius 1 around the origin (y grows downwards)."""
    if shape == "circle":
        return x**2 + y**2 <= 1
    if shape == "ring":
        return (x**2 + y**2 <= 1) & (x**2 + y**2 >= 0.45**2)
    if shape == "square":
        return np.maximum(abs(x), abs(y)) <= 0.92
    if shape == "diamond":
        return abs(x) + abs(y) <= 1
    if shape == "triangle":
        return (y <= 0.9) & (2 * abs(x) <= y + 1)
    assert shape == "cross", shape
    return (np.minimum(abs(x), abs(y)) <= 0.28) & (np.maximum(abs(x), abs(y)) <= 1)


@functools.cache
def coverage(shape: str, size: str) -> np.ndarray:
    """(H, W) in 0..1: how much of each pixel a thing in the middle of the picture covers."""
    points = (np.arange(SIDE * SUPERSAMPLING) + 0.5) / SUPERSAMPLING - SIDE / 2
    y, x = np.meshgrid(points, points, indexing="ij")
    inside = _inside(shape, x / RADIUS[size], y / RADIUS[size])
    return (
        inside.reshape(SIDE, SUPERSAMPLING, SIDE, SUPERSAMPLING)
        .mean(axis=(1, 3))
        .astype(np.float32)
    )


@functools.cache
def coverage_at(
    shape: str, size: str, place: tuple[int, int], jitter: tuple[int, int]
) -> np.ndarray:
    """(H, W): the same thing at a place of the picture, shifted by `jitter` pixels."""
    shift = (place[1] + jitter[1] - SIDE // 2, place[0] + jitter[0] - SIDE // 2)
    return np.roll(coverage(shape, size), shift, axis=(0, 1))


def render(
    scenes: Sequence[Scene], rng: np.random.Generator | None = None, style: Style = "plain"
) -> np.ndarray:
    """(N, H, W, 3) uint8; without `rng` every thing is exactly at its place.

    The miniature was trained on the plain style.
    """
    pictures = np.empty((len(scenes), SIDE, SIDE, 3), np.float32)
    for picture, scene in zip(pictures, scenes, strict=True):
        picture[:] = BACKGROUNDS[scene.background]
        for thing, place in zip(scene.in_picture_order, PLACES[scene.layout], strict=True):
            jitter = JITTERS[rng.integers(len(JITTERS))] if rng is not None else (0, 0)
            alpha = coverage_at(thing.shape, thing.size, place, jitter)
            color_HW3 = np.array(COLORS[thing.color], np.float32) * (
                SHADING if style == "shaded" else 1.0
            )
            picture += (_softened(alpha) if style == "soft" else alpha)[..., None] * (
                color_HW3 - picture
            )
    return pictures.round().clip(0, 255).astype(np.uint8)


def _softened(alpha: np.ndarray) -> np.ndarray:
    """Watercolour-like edges: blended with a 3 x 3 mean."""
    padded = np.pad(alpha, 1)
    mean = sum(padded[dy : dy + SIDE, dx : dx + SIDE] for dy in range(3) for dx in range(3)) / 9
    return np.asarray(0.35 * alpha + 0.65 * mean, np.float32)


assert set(RADIUS) == set(SIZES) and len(set(SHAPES)) == len(SHAPES)
