"""Reads emojiworld's scenes from pictures, by the pixels alone.

At each place the drawing, size and shift are found that leave the least squared error on the
picture's background; the layout with the least error of the whole picture is the reading. As in
toyworld, a background that is far from every known color has no name.

Shape letters: N pictures, C concepts, S shifts, P pixels of a tile.
"""

import functools
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from corpora.emojiworld.concepts import Concept, everything
from corpora.emojiworld.renderer import PLACES, SIDE, window
from corpora.emojiworld.scenes import BACKGROUNDS, OF_SEVERAL, SIZES, EmojiScene, EmojiThing, Layout
from corpora.emojiworld.templates import tiles
from corpora.toyworld.renderer import JITTERS
from corpora.toyworld.scene_reader import backgrounds, check_pictures, nearest

BATCH = 16  # pictures compared at once: 10 MB for each matrix of products


@dataclass(frozen=True)
class EmojiReading:
    """What a picture shows; None for a background that cannot be named.

    `error`: RMS of the unexplained rest, in sRGB units.
    """

    background: str | None
    layout: Layout
    things: tuple[EmojiThing, ...]
    error: float


def attribute_matches(scene: EmojiScene, reading: EmojiReading) -> dict[str, bool]:
    """Each attribute alone. Those of things must be right for all things, and never are in a wrong
    layout.
    """
    same_layout = scene.layout == reading.layout
    both = list(zip(scene.things, reading.things, strict=True)) if same_layout else []
    return {
        "background": scene.background == reading.background,
        "layout": same_layout,
        "concept": same_layout and all(want.concept == got.concept for want, got in both),
        "size": same_layout and all(want.size == got.size for want, got in both),
    }


def things_right(scene: EmojiScene, reading: EmojiReading) -> list[bool]:
    """For each thing of the scene whether the right one stands at its place; its size aside."""
    if scene.layout != reading.layout:
        return [False] * len(scene.things)
    both = zip(scene.things, reading.things, strict=True)
    return [want.concept == got.concept for want, got in both]


def read(pictures: np.ndarray, concepts: tuple[Concept, ...] | None = None) -> list[EmojiReading]:
    """Reads (N, 64, 64, 3) uint8 pictures that may show `concepts` (all, if none are given).

    Raises ValueError for pictures of another size or type.
    """
    check_pictures(pictures, SIDE)
    found: list[EmojiReading] = []
    for start in tqdm(
        range(0, len(pictures), BATCH), desc="reading", unit="batch", disable=len(pictures) < 500
    ):
        batch = pictures[start : start + BATCH].astype(np.float32)
        found += _read(batch, concepts or everything())
    return found


def _read(pictures: np.ndarray, concepts: tuple[Concept, ...]) -> list[EmojiReading]:
    backgrounds_N3 = backgrounds(pictures)
    rests = pictures - backgrounds_N3[:, None, None]
    found: dict[tuple[tuple[int, int], str], tuple[np.ndarray, np.ndarray]] = {}

    def best(layout: Layout, place: tuple[int, int]) -> list[tuple[float, EmojiThing]]:
        """Of each picture: how much less squared error the best thing leaves, and that thing."""
        choices = []
        for size in ("small",) if layout in OF_SEVERAL else SIZES:
            if (place, size) not in found:
                found[place, size] = _gains(rests, backgrounds_N3, place, size, concepts)
            gains_N, numbers_N = found[place, size]
            choices.append(
                [
                    (float(gain), EmojiThing(concepts[number], size))
                    for gain, number in zip(gains_N, numbers_N, strict=True)
                ]
            )
        return [max(pair, key=lambda one: one[0]) for pair in zip(*choices, strict=True)]

    by_layout = {
        layout: list(zip(*(best(layout, place) for place in places), strict=True))
        for layout, places in PLACES.items()
    }
    readings = []
    for number, rest in enumerate(rests):
        gains = {
            layout: sum(gain for gain, _ in things[number]) for layout, things in by_layout.items()
        }
        layout = max(gains, key=gains.__getitem__)
        error = max(float(np.square(rest).sum()) - gains[layout], 0.0)
        readings.append(
            EmojiReading(
                nearest(backgrounds_N3[number], BACKGROUNDS),
                layout,
                tuple(thing for _, thing in by_layout[layout][number]),
                float(np.sqrt(error / rest.size)),
            )
        )
    return readings


def _gains(
    rests: np.ndarray,
    backgrounds_N3: np.ndarray,
    place: tuple[int, int],
    size: str,
    concepts: tuple[Concept, ...],
) -> tuple[np.ndarray, np.ndarray]:
    """(N,) by how much the best drawing at a place lessens the squared error, and (N,) which
    concept's it is.

    With d the picture less its background b, c the drawing's color times its opacity a, a drawing
    changes the background by t = c - a b, and lessens the error by 2 d.t - t.t.
    """
    colors_C3P, opacity_CP, squares = _drawings(size, concepts)
    shifted = [rests[:, rows, columns] for rows, columns in _windows(place, size)]
    d_NS3P = np.stack(shifted, axis=1).reshape(len(rests), len(JITTERS), -1, 3).swapaxes(2, 3)
    with_colors_NSC = np.tensordot(d_NS3P, colors_C3P, axes=([2, 3], [1, 2]))
    with_opacity_NS3C = np.tensordot(d_NS3P, opacity_CP, axes=([3], [1]))
    products_NSC = with_colors_NSC - np.einsum("nskc,nk->nsc", with_opacity_NS3C, backgrounds_N3)
    colors_C, colors_by_opacity_C3, opacity_C = squares
    squares_NC = (
        colors_C
        - 2 * backgrounds_N3 @ colors_by_opacity_C3.T
        + np.square(backgrounds_N3).sum(1)[:, None] * opacity_C
    )
    gains_NC = 2 * products_NSC.max(axis=1) - squares_NC
    numbers_N = gains_NC.argmax(axis=1)
    return gains_NC[np.arange(len(rests)), numbers_N], numbers_N


def _windows(place: tuple[int, int], size: str) -> list[tuple[slice, slice]]:
    return [window(place, size, shift) for shift in JITTERS]


@functools.lru_cache(8)
def _drawings(
    size: str, concepts: tuple[Concept, ...]
) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Colors times opacity (C, 3, P) and opacity (C, P) of each drawing, in sRGB units and 0 to 1;
    the sums over its pixels of colors squared (C,), colors times opacity (C, 3), opacity squared
    (C,).
    """
    chosen = tiles(size)[[one.number for one in concepts]]
    flat_CP4 = chosen.reshape(len(concepts), -1, 4)
    colors_C3P = np.ascontiguousarray(255 * flat_CP4[..., :3].swapaxes(1, 2))
    opacity_CP = np.ascontiguousarray(flat_CP4[..., 3])
    squares = (
        np.square(colors_C3P).sum(axis=(1, 2)),
        np.einsum("ckp,cp->ck", colors_C3P, opacity_CP),
        np.square(opacity_CP).sum(axis=1),
    )
    return colors_C3P, opacity_CP, squares
