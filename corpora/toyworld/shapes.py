"""The outlines of toyworld's shapes: whether points are inside a shape of radius 1 around the
origin (x grows to the right, y downwards).
"""

from collections.abc import Callable

import numpy as np

Inside = Callable[[np.ndarray, np.ndarray], np.ndarray]  # x and y in, a truth value a point out


def _disc(radius: float, center: tuple[float, float] = (0.0, 0.0)) -> Inside:
    return lambda x, y: (x - center[0]) ** 2 + (y - center[1]) ** 2 <= radius**2


def _ring(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x**2 + y**2 <= 1) & (x**2 + y**2 >= 0.45**2)


def _triangle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (y <= 0.9) & (2 * abs(x) <= y + 1)


def _cross(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (np.minimum(abs(x), abs(y)) <= 0.28) & (np.maximum(abs(x), abs(y)) <= 1)


def _crescent(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return _disc(1.0)(x, y) & ~_disc(0.8, (0.45, 0.0))(x, y)


def _square_with_a_hole(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """On its corner."""
    return (abs(x) + abs(y) <= 1.1) & (abs(x) + abs(y) >= 0.5)


def _two_bars(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (abs(abs(y) - 0.5) <= 0.25) & (abs(x) <= 1)


def _mountain(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (abs(y - 0.9 * abs(x) + 0.1) <= 0.4) & (abs(x) <= 1)


def _three_discs(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    centers = ((0.0, -0.5), (0.52, 0.42), (-0.52, 0.42))
    return np.any([_disc(0.42, center)(x, y) for center in centers], axis=0)


def _comma(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A disc and a tail that curls around it."""
    tail = _disc(1.0)(x, y) & ~_disc(0.8, (-0.25, 0.15))(x, y) & (y <= 0.3)
    return _disc(0.55, (-0.15, 0.3))(x, y) | tail


# In the order of scenes.SHAPES, then of scenes.KAMON.
INSIDE: dict[str, Inside] = {
    "circle": _disc(1.0),
    "square": lambda x, y: np.maximum(abs(x), abs(y)) <= 0.92,
    "triangle": _triangle,
    "diamond": lambda x, y: abs(x) + abs(y) <= 1,
    "cross": _cross,
    "ring": _ring,
    "mikazuki": _crescent,
    "kuginuki": _square_with_a_hole,
    "futatsubiki": _two_bars,
    "yamagata": _mountain,
    "mitsuboshi": _three_discs,
    "tomoe": _comma,
}
