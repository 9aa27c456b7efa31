"""A picture's file to the pixels the VAE reads: checked, upright, 8-bit RGB, resized and cut.

Nothing larger is decoded than captions' pictures are. Colour profiles are not applied.
"""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image, ImageOps

from corpora.captions.images import FORMATS, MAX_PIXELS, as_rgb
from finetune.pictures.buckets import Crop, Size
from finetune.pictures.sources.captioned import UNREADABLE, NotThere

ORIENTATION, TURNED = 0x0112, (5, 6, 7, 8)  # the EXIF tag; its values that swap width and height
ANIMATED_FORMATS = ("GIF", "PNG", "WEBP")  # a JPEG of several frames is a photograph with a preview
ANIMATED, TRUNCATED, TOO_MANY_PIXELS = "animated", "truncated", "too_many_pixels"
WHITE = (255, 255, 255, 255)


def size_of(data: bytes) -> Size:
    """Width and height of the upright picture, from its header.

    Raises NotThere: unreadable, animated, too_many_pixels.
    """
    with _opened(data) as image:
        width, height = image.size
        turned = image.getexif().get(ORIENTATION) in TURNED
    return (height, width) if turned else (width, height)


def decode(data: bytes) -> Image.Image:
    """The upright picture as 8-bit RGB; what is transparent becomes white.

    Raises NotThere: as `size_of`, and truncated.
    """
    with _opened(data) as image:
        image.load()
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith(("I", "F")):  # 16 bits and more
            return as_rgb(upright)
        if upright.has_transparency_data:
            colours = upright.convert("RGBA")
            upright = Image.alpha_composite(Image.new("RGBA", colours.size, WHITE), colours)
        return upright.convert("RGB")


def cut(image: Image.Image, crop: Crop) -> np.ndarray:
    """(height, width, 3) uint8: the bucket's pixels."""
    resized = image.resize(crop.resized, Image.Resampling.LANCZOS)
    if crop.flip:
        resized = ImageOps.mirror(resized)
    width, height = crop.bucket
    box = (crop.left, crop.top, crop.left + width, crop.top + height)
    return np.asarray(resized.crop(box))


@contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata, and of sizes, which are limited here
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise NotThere(TOO_MANY_PIXELS)
                if image.format in ANIMATED_FORMATS and getattr(image, "is_animated", False):
                    raise NotThere(ANIMATED)
                yield image
    except NotThere:
        raise
    except Image.DecompressionBombError:
        raise NotThere(TOO_MANY_PIXELS) from None
    # Pillow's decoders raise whatever a damaged file leads them to: OSError, SyntaxError...
    except Exception as error:
        cut_off = isinstance(error, OSError) and "truncated" in str(error).lower()
        raise NotThere(TRUNCATED if cut_off else UNREADABLE) from None
