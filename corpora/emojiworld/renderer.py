"""Renders emojiworld's scenes as 64 x 64 sRGB pictures, optionally with things shifted by a pixel.

Shape letters: N pictures, H = W = 64.
"""

from collections.abc import Sequence

import numpy as np

from corpora.emojiworld.scenes import BACKGROUNDS, EmojiScene, Layout
from corpora.emojiworld.templates import SIZES, tiles
from corpora.toyworld.renderer import JITTERS

SIDE = 64
# the (x, y) center of each thing, in pixels, in picture order
PLACES: dict[Layout, tuple[tuple[int, int], ...]] = {
    "single": ((32, 32),),
    "horizontal": ((16, 32), (48, 32)),
    "vertical": ((32, 16), (32, 48)),
    "row": ((11, 32), (32, 32), (53, 32)),
    "column": ((32, 11), (32, 32), (32, 53)),
    "square": ((16, 16), (48, 16), (16, 48), (48, 48)),
}


def window(place: tuple[int, int], size: str, shift: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns that a thing covers at a place, shifted by (dx, dy) pixels."""
    half = SIZES[size] // 2
    x, y = place[0] + shift[0] - half, place[1] + shift[1] - half
    return slice(y, y + SIZES[size]), slice(x, x + SIZES[size])


def render(scenes: Sequence[EmojiScene], rng: np.random.Generator | None = None) -> np.ndarray:
    """(N, H, W, 3) uint8; without `rng` every thing is exactly at its place."""
    pictures = np.empty((len(scenes), SIDE, SIDE, 3), np.uint8)
    for picture, scene in zip(pictures, scenes, strict=True):
        canvas = np.empty((SIDE, SIDE, 3), np.float32)
        canvas[:] = np.array(BACKGROUNDS[scene.background], np.float32)
        for thing, place in zip(scene.things, PLACES[scene.layout], strict=True):
            shift = JITTERS[rng.integers(len(JITTERS))] if rng is not None else (0, 0)
            part = canvas[window(place, thing.size, shift)]
            tile = tiles(thing.size)[thing.concept.number]
            part *= 1 - tile[..., 3:]
            part += 255 * tile[..., :3]
        picture[:] = canvas.round().clip(0, 255)
    return pictures
