"""Which size a picture is cut to, and where: pure functions of its size and digest.

Sizes are (width, height) in pixels. A picture is enlarged or reduced until it just covers its
bucket; what stands out on one axis is cut off.
"""

import hashlib
from fractions import Fraction
from math import isqrt
from typing import NamedTuple

from configs.schema.pictures import Buckets, PictureData

Size = tuple[int, int]


class Crop(NamedTuple):
    """What is cut out of a picture: it is resized to `resized`, mirrored if `flip`, and the bucket
    is cut out at `top`, `left`, in pixels of the resized picture as it then is.
    """

    bucket: Size
    resized: Size
    top: int
    left: int
    flip: bool

    def key(self, picture: str) -> str:
        """The SHA-256 under which the latents of this crop of a picture (its SHA-256) are kept."""
        width, height = self.bucket
        text = f"{picture} {width}x{height} {self.top},{self.left} {'flip' if self.flip else ''}"
        return hashlib.sha256(text.encode()).hexdigest()


def sizes(resolution: int, buckets: Buckets | None) -> list[Size]:
    """All buckets, ascending: of each width the tallest that has at most the square's area, and
    the same turned; without `buckets` the square alone.
    """
    if buckets is None:
        return [(resolution, resolution)]
    area, step = resolution**2, buckets.step
    square = isqrt(area) // step * step
    found = {(square, square)}
    for width in range(buckets.min_side, buckets.max_side + 1, step):
        height = min(buckets.max_side, area // width // step * step)
        if height >= buckets.min_side:
            found |= {(width, height), (height, width)}
    return sorted(found)


def kept_share(size: Size, bucket: Size) -> Fraction:
    """How much of a picture's area is left when it is cut to the bucket's aspect ratio.

    The distance of two aspect ratios, computed exactly: 1 where they are equal, and a picture that
    is turned is as far from the turned bucket.
    """
    one, other = size[0] * bucket[1], size[1] * bucket[0]
    return Fraction(min(one, other), max(one, other))


def nearest(size: Size, among: list[Size]) -> Size:
    """The bucket of the nearest aspect ratio; of equal ones the largest, then the widest."""
    return max(among, key=lambda one: (kept_share(size, one), one[0] * one[1], one[0]))


def cover(size: Size, bucket: Size) -> Size:
    """The smallest size of the picture's aspect ratio that covers the bucket, to a pixel."""
    (width, height), (least_width, least_height) = size, bucket
    if width * least_height > height * least_width:
        return (2 * width * least_height + height) // (2 * height), least_height
    return least_width, (2 * height * least_width + width) // (2 * width)


def enlargement(size: Size, bucket: Size) -> Fraction:
    """How many times as wide the picture becomes; below 1 where it is reduced."""
    return max(Fraction(bucket[0], size[0]), Fraction(bucket[1], size[1]))


def crops(picture: str, size: Size, bucket: Size, settings: PictureData) -> list[Crop]:
    """The crops of a picture (its SHA-256): one in the middle, or up to `crops` distinct ones.

    Random ones depend on nothing but the picture: another number of them keeps those there are.
    """
    resized = cover(size, bucket)
    slack = (resized[0] - bucket[0]) + (resized[1] - bucket[1])  # one of them is 0
    offsets = [slack // 2]
    if settings.crop == "random":
        offsets = sorted(range(slack + 1), key=lambda one: _chance(picture, one))[: settings.crops]
    wide = resized[0] > bucket[0]
    return [
        Crop(bucket, resized, 0 if wide else offset, offset if wide else 0, flip)
        for offset in offsets
        for flip in ((False, True) if settings.flip else (False,))
    ]


def _chance(picture: str, offset: int) -> bytes:
    return hashlib.sha256(f"crop {picture} {offset}".encode()).digest()
