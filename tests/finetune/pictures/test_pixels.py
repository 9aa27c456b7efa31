"""A mark at a known place comes out where the crop says; odd files become the right pixels, or the
right reason.
"""

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from picture_files import encoded, noise
from PIL import Image

from configs.schema.pictures import PictureData
from corpora.captions import images
from finetune.pictures import buckets, pixels
from finetune.pictures.sources.captioned import NotThere

DIGEST = "0" * 64


def marked(size: tuple[int, int], place: tuple[int, int], side: int = 8) -> Image.Image:
    image = Image.new("RGB", size)
    image.paste((255, 0, 0), (*place, place[0] + side, place[1] + side))
    return image


def centre(cut_HW3: np.ndarray) -> tuple[float, float]:
    """Of the mark: x, y in pixels from the corner of the picture."""
    red = cut_HW3[..., 0].astype(float)
    y, x = np.mgrid[: red.shape[0], : red.shape[1]] + 0.5
    return float((x * red).sum() / red.sum()), float((y * red).sum() / red.sum())


@pytest.mark.parametrize(
    ("size", "place"), [((96, 64), (40, 20)), ((64, 96), (20, 40)), ((48, 32), (20, 12))]
)
@pytest.mark.parametrize("crop", ["center", "random"])
def test_a_mark_is_found_where_the_crop_says(
    size: tuple[int, int], place: tuple[int, int], crop: str
) -> None:
    data = PictureData.model_validate(
        {
            "resolution": 32,
            "buckets": None,
            "crop": crop,
            "crops": 1 if crop == "center" else 4,
            "flip": True,
            "sources": [{"kind": "toyworld", "scenes": 1}],
        }
    )
    image, scale = pixels.decode(encoded(marked(size, place))), min(size) / 32
    found = buckets.crops(DIGEST, size, (32, 32), data)
    if crop == "center":
        assert [(one.top, one.left) for one in found] == [((8, 0), (0, 8))[size[0] > size[1]]] * 2
    for one in found:
        x, y = (place[0] + 4) / scale, (place[1] + 4) / scale
        if one.flip:
            x = one.resized[0] - x
        cut = pixels.cut(image, one)
        if 6 <= x - one.left <= 26 and 6 <= y - one.top <= 26:  # the mark is inside, ringing too
            assert centre(cut) == pytest.approx((x - one.left, y - one.top), abs=0.1)
        else:
            assert crop == "random"


def shown(image: Image.Image) -> list[tuple[int, ...]]:
    return [image.getpixel((0, 0)), image.getpixel((image.width - 1, 0))]  # type: ignore[list-item]


def two(left: object, right: object, mode: str = "RGB") -> Image.Image:
    image = Image.new(mode, (32, 32), left)  # type: ignore[arg-type]
    image.paste(right, (16, 0, 32, 32))  # type: ignore[call-overload]
    return image


def palette() -> bytes:
    image = two((255, 0, 0), (0, 0, 255)).quantize(4)
    transparent = image.getpixel((31, 0))
    return encoded(image, transparency=transparent)


def grey_of_16_bits() -> bytes:
    columns = np.where(np.arange(32) < 16, 0x4000, 0xFFFF).astype(np.uint16)
    return encoded(Image.fromarray(np.tile(columns, (32, 1))))


def turned() -> bytes:
    """Stored so that a viewer turns it by a quarter to the right: what is below comes left."""
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = two((255, 255, 255), (0, 0, 0))
    return encoded(upright.transpose(Image.Transpose.ROTATE_90), "PNG", exif=exif)


GOOD = {
    "cmyk": (lambda: encoded(two((0, 0, 0, 0), (0, 255, 255, 0), "CMYK"), "JPEG", quality=100),
             [(255, 255, 255), (255, 0, 0)]),
    "16_bit": (grey_of_16_bits, [(63, 63, 63), (255, 255, 255)]),
    "transparent": (lambda: encoded(two((9, 9, 9, 0), (200, 0, 0, 255), "RGBA")),
                    [(255, 255, 255), (200, 0, 0)]),
    "half_transparent": (lambda: encoded(two((0, 0, 0, 128), (0, 0, 0, 255), "RGBA")),
                         [(127, 127, 127), (0, 0, 0)]),
    "grey_and_alpha": (lambda: encoded(two((9, 0), (77, 255), "LA")),
                       [(255, 255, 255), (77, 77, 77)]),
    "palette": (palette, [(255, 0, 0), (255, 255, 255)]),
    "one_bit": (lambda: encoded(two(0, 1, "1")), [(0, 0, 0), (255, 255, 255)]),
    "exif": (turned, [(255, 255, 255), (0, 0, 0)]),
    "bmp": (lambda: encoded(two((1, 2, 3), (4, 5, 6)), "BMP"), [(1, 2, 3), (4, 5, 6)]),
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_odd_pictures_become_the_right_pixels(name: str) -> None:
    make, expected = GOOD[name]
    image = pixels.decode(make())
    assert image.mode == "RGB"
    assert np.abs(np.subtract(shown(image), expected)).max() <= 2


def test_the_size_is_that_of_the_upright_picture() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(noise((30, 20), 0), "JPEG", exif=exif)
    assert pixels.size_of(data) == pixels.decode(data).size == (20, 30)


def animated(kind: str) -> bytes:
    file = io.BytesIO()
    frames = [noise((20, 20), number) for number in range(3)]
    frames[0].save(file, kind, save_all=True, append_images=frames[1:])
    return file.getvalue()


def bomb() -> bytes:
    """The header of a PNG of 50,000 x 50,000 pixels, and next to nothing behind it."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + content


BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "unreadable"),
    "html": (lambda: b"<html>", "unreadable"),
    "no_header": (lambda: encoded(noise((40, 40), 1), "JPEG")[:10], "truncated"),
    "jpeg_cut": (lambda: encoded(noise((40, 40), 1), "JPEG")[:-300], "truncated"),
    "png_cut": (lambda: encoded(noise((40, 40), 1))[:-300], "truncated"),
    "gif": (lambda: animated("GIF"), "animated"),
    "apng": (lambda: animated("PNG"), "animated"),
    "webp": (lambda: animated("WEBP"), "animated"),
    "bomb": (bomb, "too_many_pixels"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_pictures_have_their_reason(name: str) -> None:
    make, reason = BAD[name]
    with pytest.raises(NotThere, match=f"^{reason}$"):
        pixels.decode(make())


def test_a_photograph_with_a_preview_is_not_animated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Phones write JPEGs of several frames (MPO)."""
    file = io.BytesIO()
    noise((40, 30), 0).save(file, "MPO", save_all=True, append_images=[noise((8, 6), 1)])
    assert pixels.decode(file.getvalue()).size == (40, 30)
    monkeypatch.setattr(pixels, "MAX_PIXELS", 500)
    assert images.MAX_PIXELS > 500
    with pytest.raises(NotThere, match="too_many_pixels"):
        pixels.size_of(file.getvalue())
