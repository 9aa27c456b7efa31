"""The invisible watermark: SDXL's pipelines write 48 bits of their own, and into an SD's pictures
goes the text that CompVis' scripts write there. The door to the package invisible-watermark.

In:  pictures, and the text.
Out: the same pictures, marked where the package is installed and they are large enough.

Flat pictures hardly hold it: it may not be read back.
"""

from functools import cache
from typing import Any

import numpy as np
import torch
from PIL import Image

from configs.errors import one_line

METHOD = "dwtDct"
NOT_INSTALLED = "the package invisible-watermark is not installed"
# What the package refuses is smaller in area; diffusers skips by the width alone.
LEAST_AREA, LEAST_WIDTH_OF_DIFFUSERS = 256 * 256, 256


class AreaChecked:
    """In place of a pipeline's watermarker, which raises for pictures of 512 x 64 pixels.

    `watermarker`: what diffusers made.
    """

    def __init__(self, watermarker: Any) -> None:
        self.watermarker = watermarker

    def apply_watermark(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """The pictures, from -1 to 1, marked if they are large enough."""
        height, width = images_BCHW.shape[-2:]
        if too_small(width, height):
            return images_BCHW
        return self.watermarker.apply_watermark(images_BCHW)


def too_small(width: int, height: int) -> str:
    """Why a picture of this size, in pixels, holds no watermark; empty if it can."""
    if width * height >= LEAST_AREA:
        return ""
    return f"the picture has less than {LEAST_AREA:,} pixels"


@cache
def missing() -> str:
    """Why nothing can be marked on this machine; empty if the package is there."""
    try:
        import imwatermark  # noqa: F401
    except ModuleNotFoundError:
        return NOT_INSTALLED
    except ImportError as error:  # OpenCV needs libraries of the system
        return f"the package invisible-watermark cannot be loaded: {one_line(error)}"
    return ""


def written(picture: Image.Image, text: str) -> Image.Image:
    """An RGB picture of at least `LEAST_AREA` pixels with `text` in it."""
    from imwatermark import WatermarkEncoder

    encoder = WatermarkEncoder()
    encoder.set_watermark("bytes", text.encode())
    bgr = np.ascontiguousarray(np.asarray(picture)[:, :, ::-1])
    return Image.fromarray(np.ascontiguousarray(encoder.encode(bgr, METHOD)[:, :, ::-1]))
