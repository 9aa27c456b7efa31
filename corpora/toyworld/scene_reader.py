"""Reads scenes from pictures, by the pixels alone.

For each layout, place, shape, size and offset the best color is found in closed form (least
squares); the combination with the least error is the reading. A thing whose color is further than
`MAX_COLOR_DISTANCE` from every known color is unreadable: a washed-out picture is not a right one.
"""

import functools
from dataclasses import dataclass

import numpy as np

from corpora.toyworld.renderer import JITTERS, PLACES, SIDE, coverage_at
from corpora.toyworld.scenes import BACKGROUNDS, COLORS, SHAPES, SIZES, Layout, Scene, Thing

MAX_COLOR_DISTANCE = 60.0  # Euclidean, sRGB units
Shapes = tuple[str, ...]
CORNER = 4  # pixels: no thing ever reaches this square in a corner


@dataclass(frozen=True)
class SceneReading:
    """What a picture shows; None for what cannot be named.

    `error`: RMS of the unexplained rest, in sRGB units.
    """

    background: str | None
    layout: Layout
    things: tuple[Thing | None, ...]
    error: float


def matches(scene: Scene, reading: SceneReading) -> bool:
    """Every attribute right: background, layout, and color, shape and size of every thing."""
    return all(attribute_matches(scene, reading).values())


def attribute_matches(scene: Scene, reading: SceneReading) -> dict[str, bool]:
    """Each attribute alone. Those of things must be right for all things, and never are in a wrong
    layout.
    """
    same_layout = scene.layout == reading.layout
    pairs = list(zip(scene.in_picture_order, reading.things, strict=False)) if same_layout else []
    return {
        "background": scene.background == reading.background,
        "layout": same_layout,
        **{
            name: same_layout
            and all(
                got is not None and getattr(want, name) == getattr(got, name) for want, got in pairs
            )
            for name in ("color", "shape", "size")
        },
    }


def things_right(scene: Scene, reading: SceneReading) -> list[bool]:
    """For each thing of the scene, in picture order, whether that thing stands at its place."""
    if scene.layout != reading.layout:
        return [False] * len(scene.in_picture_order)
    both = zip(scene.in_picture_order, reading.things, strict=False)
    return [want == got for want, got in both]


def read(pictures: np.ndarray, shapes: Shapes = SHAPES) -> list[SceneReading]:
    """Reads (N, 32, 32, 3) uint8 pictures that may show `shapes`.

    Raises ValueError for pictures of another size or type.
    """
    check_pictures(pictures, SIDE)
    return [_read_one(picture.astype(np.float32), shapes) for picture in pictures]


def check_pictures(pictures: np.ndarray, side: int) -> None:
    """Raises ValueError unless they are (N, side, side, 3) uint8."""
    if pictures.ndim != 4 or pictures.shape[1:] != (side, side, 3) or pictures.dtype != np.uint8:
        raise ValueError(
            f"pictures must be (N, {side}, {side}, 3) uint8, not {pictures.shape} {pictures.dtype}"
        )


def backgrounds(pictures: np.ndarray) -> np.ndarray:
    """(N, 3): the median color of the four corners of (N, H, W, 3) pictures."""
    corners = [
        pictures[:, y, x].reshape(len(pictures), -1, 3)
        for y in (slice(CORNER), slice(-CORNER, None))
        for x in (slice(CORNER), slice(-CORNER, None))
    ]
    return np.asarray(np.median(np.concatenate(corners, axis=1), axis=1))


def _read_one(picture: np.ndarray, shapes: Shapes) -> SceneReading:
    (background,) = backgrounds(picture[None])
    explanations = [_explain(picture, background, layout, shapes) for layout in PLACES]
    error, layout, things = min(explanations, key=lambda explanation: explanation[0])
    return SceneReading(
        nearest(background, BACKGROUNDS), layout, things, float(np.sqrt(error / picture.size))
    )


def _explain(
    picture: np.ndarray, background: np.ndarray, layout: Layout, shapes: Shapes
) -> tuple[float, Layout, tuple[Thing | None, ...]]:
    """The least squared error of things in this layout; the layout; those things."""
    total, things = 0.0, []
    for place, part in zip(PLACES[layout], _parts(picture - background, layout), strict=True):
        masks_CM, labels = _candidates(layout, place, shapes)
        # Least squares, color relative to the background: d = m.x / m.m leaves x.x - (m.x)^2 / m.m.
        products_C3 = masks_CM @ part.reshape(-1, 3)
        norms_C = (masks_CM**2).sum(axis=1)
        errors_C = (part**2).sum() - (products_C3**2).sum(axis=1) / norms_C
        best = int(errors_C.argmin())
        color = nearest(background + products_C3[best] / norms_C[best], COLORS)
        total += float(errors_C[best])
        things.append(Thing(color, *labels[best]) if color else None)
    return total, layout, tuple(things)


def _parts(picture: np.ndarray, layout: Layout) -> list[np.ndarray]:
    half = SIDE // 2
    if layout == "horizontal":
        return [picture[:, :half], picture[:, half:]]
    return [picture[:half], picture[half:]] if layout == "vertical" else [picture]


@functools.cache
def _candidates(
    layout: Layout, place: tuple[int, int], shapes: Shapes
) -> tuple[np.ndarray, list[tuple[str, str]]]:
    """Coverage masks (candidates, pixels) of this place's part of the picture, and the shape and
    size of each.
    """
    index = PLACES[layout].index(place)
    labels, masks = [], []
    for shape in shapes:
        for size in SIZES:
            for jitter in JITTERS:
                labels.append((shape, size))
                masks.append(_parts(coverage_at(shape, size, place, jitter), layout)[index].ravel())
    return np.stack(masks), labels


def nearest(color: np.ndarray, palette: dict[str, tuple[int, int, int]]) -> str | None:
    """The name of the nearest color, None if even that is further than MAX_COLOR_DISTANCE."""
    distances = {
        name: float(np.linalg.norm(color - np.array(rgb))) for name, rgb in palette.items()
    }
    name = min(distances, key=distances.__getitem__)
    return name if distances[name] <= MAX_COLOR_DISTANCE else None
