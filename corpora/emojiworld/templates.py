"""Emojiworld's drawings: small pictures of its concepts, with transparency, in two sizes.

In:  `data/pictures.png`, which `corpora/miniature/make_emoji.py` made.
Out: tiles of numbers. Shape letters: C concepts, H = W = pixels of a tile.
"""

import functools

import numpy as np
from PIL import Image

from corpora.emojiworld.concepts import DATA, everything

SIZES = {"small": 20, "big": 28}  # pixels
SHEET = DATA / "pictures.png"
COLUMNS = 32  # tiles in a row of the sheet


@functools.cache
def tiles(size: str) -> np.ndarray:
    """(C, H, W, 4) float32, 0 to 1, in the order of `concepts.everything`: red, green and blue
    multiplied by the fourth, the opacity.
    """
    side = SIZES["big"]
    sheet = np.asarray(Image.open(SHEET).convert("RGBA"), np.float64) / 255
    rows = sheet.shape[0] // side
    cut = sheet.reshape(rows, side, COLUMNS, side, 4).swapaxes(1, 2).reshape(-1, side, side, 4)
    cut = cut[: len(everything())].copy()
    cut[..., :3] *= cut[..., 3:]
    if size == "small":
        # The mean over the pixels that each smaller one covers.
        shrink = _areas(side, SIZES["small"])
        cut = np.einsum("yh,chwk,xw->cyxk", shrink, cut, shrink, optimize=True)
    return np.ascontiguousarray(cut, np.float32)


def _areas(of: int, to: int) -> np.ndarray:
    """(to, of): how much of each of `of` pixels in a line lies in each of `to` equal parts of the
    line, as a share of the part.
    """
    edges = np.arange(to + 1) * of / to
    cells = np.arange(of)
    overlap = np.minimum(edges[1:, None], cells + 1) - np.maximum(edges[:-1, None], cells)
    return overlap.clip(0) * to / of
