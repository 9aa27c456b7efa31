"""Renders scenes as 32 x 32 sRGB pictures, anti-aliased, optionally with things shifted by a pixel.

Shape letters: N pictures, T things (1 or 2), H = W = 32.
"""

import functools
import itertools
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from corpora.toyworld.scenes import BACKGROUNDS, COLORS, KAMON, SHAPES, SIZES, Layout, Scene
from corpora.toyworld.shapes import INSIDE

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
# The miniature's VAE gives a part of both back as plain; it keeps "wavy" (outlines in waves), so
# that is what a small set of pictures teaches.
Style = Literal["plain", "shaded", "soft", "wavy"]
STYLES: tuple[Style, ...] = get_args(Style)
SHADING = (1.12 - 0.4 * np.add.outer(np.arange(SIDE), np.arange(SIDE)) / (2 * SIDE)).astype(
    np.float32
)[..., None]
WAVE_HEIGHT, WAVE_LENGTH = 1.25, 8.0  # pixels


@functools.cache
def coverage(shape: str, size: str, wavy: bool = False) -> np.ndarray:
    """(H, W) in 0..1: how much of each pixel a thing in the middle of the picture covers."""
    points = (np.arange(SIDE * SUPERSAMPLING) + 0.5) / SUPERSAMPLING - SIDE / 2
    y, x = np.meshgrid(points, points, indexing="ij")
    if wavy:
        x = x + WAVE_HEIGHT * np.sin(2 * np.pi * y / WAVE_LENGTH)
    inside = INSIDE[shape](x / RADIUS[size], y / RADIUS[size])
    return (
        inside.reshape(SIDE, SUPERSAMPLING, SIDE, SUPERSAMPLING)
        .mean(axis=(1, 3))
        .astype(np.float32)
    )


@functools.cache
def coverage_at(
    shape: str, size: str, place: tuple[int, int], jitter: tuple[int, int], wavy: bool = False
) -> np.ndarray:
    """(H, W): the same thing at a place of the picture, shifted by `jitter` pixels."""
    shift = (place[1] + jitter[1] - SIDE // 2, place[0] + jitter[0] - SIDE // 2)
    return np.roll(coverage(shape, size, wavy), shift, axis=(0, 1))


def render(
    scenes: Sequence[Scene], rng: np.random.Generator | None = None, style: Style = "plain"
) -> np.ndarray:
    """(N, H, W, 3) uint8; without `rng` every thing is exactly at its place.

    The miniature was trained on the plain style.
    """
    pictures = np.empty((len(scenes), SIDE, SIDE, 3), np.uint8)
    for picture, scene in zip(pictures, scenes, strict=True):
        shifts = [
            JITTERS[rng.integers(len(JITTERS))] if rng is not None else (0, 0) for _ in scene.things
        ]
        picture[:] = _paint(scene, shifts, style)
    return pictures


def every_place(scene: Scene, style: Style = "plain") -> np.ndarray:
    """(9 or 81, H, W, 3) uint8: the scene with its things shifted in every possible way."""
    shifts = itertools.product(JITTERS, repeat=len(scene.things))
    return np.stack([_paint(scene, one, style) for one in shifts])


def _paint(scene: Scene, jitters: Sequence[tuple[int, int]], style: Style) -> np.ndarray:
    picture = np.empty((SIDE, SIDE, 3), np.float32)
    picture[:] = BACKGROUNDS[scene.background]
    places = PLACES[scene.layout]
    for thing, place, jitter in zip(scene.in_picture_order, places, jitters, strict=True):
        alpha = coverage_at(thing.shape, thing.size, place, jitter, style == "wavy")
        color_HW3 = np.array(COLORS[thing.color], np.float32) * (
            SHADING if style == "shaded" else 1.0
        )
        picture += (_softened(alpha) if style == "soft" else alpha)[..., None] * (
            color_HW3 - picture
        )
    return picture.round().clip(0, 255).astype(np.uint8)


def _softened(alpha: np.ndarray) -> np.ndarray:
    """Watercolour-like edges: blended with a 3 x 3 mean."""
    padded = np.pad(alpha, 1)
    mean = sum(padded[dy : dy + SIDE, dx : dx + SIDE] for dy in range(3) for dx in range(3)) / 9
    return np.asarray(0.35 * alpha + 0.65 * mean, np.float32)


assert set(RADIUS) == set(SIZES) and list(INSIDE) == [*SHAPES, *KAMON]
