"""Pictures come out of shards and folders, whole or with a reason, and every row comes out once."""

import io
import json
import struct
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from configs.errors import DataError
from corpora.captions import images


def encoded(size: tuple[int, int] = (30, 20), kind: str = "JPEG", mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    Image.new(mode, size, 200).save(file, kind)
    return file.getvalue()


def write_shard(
    path: Path, samples: dict[str, dict[str, bytes]], failed: list[tuple[str, str, str]]
) -> None:
    with tarfile.open(path, "w") as file:
        for key, parts in samples.items():
            for ending, data in parts.items():
                member = tarfile.TarInfo(f"{key}.{ending}")
                member.size = len(data)
                file.addfile(member, io.BytesIO(data))
    rows = [(key, f"http://x/{key}", "success") for key in samples] + failed
    columns = dict(zip(("key", "url", "status"), map(list, zip(*rows, strict=True)), strict=True))
    pq.write_table(pa.table(columns | {"caption": ["x"] * len(rows)}), path.with_suffix(".parquet"))


def sample(key: str, picture: bytes | None, **said: object) -> dict[str, bytes]:
    text = {
        "txt": "白い猫".encode(),
        "json": json.dumps(
            {"key": key, "url": f"http://x/{key}", "status": "success"} | said
        ).encode(),
    }
    return text if picture is None else {"jpg": picture} | text


def test_every_row_of_a_shard_is_a_picture_or_has_a_reason(tmp_path: Path) -> None:
    whole = encoded()
    pictures = {
        "000000000": whole,
        "000000001": whole[:-200],
        "000000002": b"<html>",
        "000000003": encoded((2, 300)),
        "000000004": None,
        "000000005": encoded(kind="PNG", mode="L"),
        "000000006": b"",
    }
    samples = {key: sample(key, data) for key, data in pictures.items()}
    write_shard(
        tmp_path / "00000.tar",
        samples,
        [
            ("000000007", "http://x/7", "failed_to_download"),
            ("000000008", "http://x/8", "failed_to_resize"),
        ],
    )
    found = list(images.read_shard(images.shards(str(tmp_path / "*.tar"))[0]))
    assert [one.key for one in found] == [f"{number:09d}" for number in range(9)]
    reasons = [
        None,
        "damaged_image",
        "damaged_image",
        "too_narrow",
        "no_image",
        None,
        "damaged_image",
        "failed_to_download",
        "failed_to_resize",
    ]
    assert (
        [one.reason for one in found] == reasons
        and found[0].url == "http://x/000000000"
        and found[7].url == "http://x/7"
    )
    assert [one.caption for one in found] == ["白い猫"] * 7 + ["x"] * 2 and images.rows_of(
        tmp_path / "00000.tar"
    ) == 9
    assert all((one.image is None) != (one.reason is None) for one in found)
    assert (
        found[0].image
        and found[5].image
        and found[0].image.size == (30, 20)
        and found[5].image.mode == "RGB"
    )


def test_a_picture_too_large_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS", 500)
    assert (
        images.decode(encoded((30, 20))) == (None, "too_many_pixels")
        and images.decode(encoded((20, 20)))[1] is None
    )
    monkeypatch.setattr(
        Image, "MAX_IMAGE_PIXELS", 100
    )  # Pillow warns above it, and refuses above twice as many
    assert images.decode(encoded((30, 20))) == (None, "too_many_pixels")


def test_a_damaged_shard_is_one_line(tmp_path: Path) -> None:
    write_shard(
        tmp_path / "0.tar", {f"{key:09d}": sample(f"{key:09d}", encoded()) for key in range(9)}, []
    )
    data = (tmp_path / "0.tar").read_bytes()
    for damage in (data[:5000], b"no tar file at all", data.replace(b'"url": ', b'"url"; ', 1)):
        (tmp_path / "0.tar").write_bytes(damage)
        with pytest.raises(DataError, match=r"0\.tar: damaged") as caught:
            list(images.read_shard(tmp_path / "0.tar"))
        assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="matches no file"):
        images.shards(str(tmp_path / "*.tgz"))


def test_files_come_in_the_order_asked_for(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(kind="PNG"))
    (tmp_path / "b.jpg").write_bytes(b"damaged")
    found = list(
        images.read_files(tmp_path, [("3", "b.jpg"), ("1", "a.png"), ("2", "c.jpg"), ("4", "")])
    )
    assert [(one.key, one.reason) for one in found] == [
        ("3", "damaged_image"),
        ("1", None),
        ("2", "no_image"),
        ("4", "no_image"),
    ]


def repacked(path: Path, names: list[str]) -> None:
    """The shard's members in the order of `names`; a name that is not there is made, with a Mac's
    attributes in it.
    """
    with tarfile.open(path) as file:
        held = {
            member.name: file.extractfile(member).read()  # type: ignore[union-attr]
            for member in file
        }
    with tarfile.open(path, "w") as file:
        for name in names:
            data = held.get(name, b"\0\5\x16\7")
            member = tarfile.TarInfo(name)
            member.size = len(data)
            file.addfile(member, io.BytesIO(data))


@pytest.mark.parametrize("order", ["by_ending", "backwards", "mac", "twice"])
def test_a_shard_packed_again_in_another_order_loses_nothing(tmp_path: Path, order: str) -> None:
    keys = [f"{number:09d}" for number in range(5)]
    write_shard(
        tmp_path / "0.tar", {key: sample(key, encoded((20 + int(key), 20))) for key in keys}, []
    )
    names = [f"{key}.{ending}" for key in keys for ending in ("jpg", "txt", "json")]
    orders = {
        "by_ending": sorted(names, key=lambda name: name.partition(".")[2]),
        "backwards": names[::-1],
        "mac": [one for name in names for one in (f"._{name}", f"__MACOSX/._{name}", name)]
        + [".DS_Store"],
        "twice": names + sorted(names, key=lambda name: name.partition(".")[2]),
    }
    repacked(tmp_path / "0.tar", orders[order])
    found = sorted(
        (one.key, one.image.size[0] if one.image else 0, one.caption)
        for one in images.read_shard(tmp_path / "0.tar")
    )
    assert found == sorted(
        [(key, 20 + int(key), "白い猫") for key in keys] * (2 if order == "twice" else 1)
    )


def test_samples_of_one_name_in_two_folders_are_two(tmp_path: Path) -> None:
    write_shard(
        tmp_path / "0.tar",
        {
            f"{folder}/000": sample("000", encoded((size, 20)))
            for folder, size in (("a", 21), ("b", 22))
        },
        [],
    )
    assert [one.image.size[0] for one in images.read_shard(tmp_path / "0.tar") if one.image] == [
        21,
        22,
    ]


def test_shards_in_a_folder_whose_name_looks_like_a_pattern(tmp_path: Path) -> None:
    (tmp_path / "[v1] shards").mkdir()
    (tmp_path / "v shards").mkdir()
    for folder in ("[v1] shards", "v shards"):
        write_shard(tmp_path / folder / "0.tar", {"0": sample("0", encoded())}, [])
    (tmp_path / "[v1] shards" / "._0.tar").write_bytes(b"x")
    assert images.shards(f"{tmp_path}/[v1] shards/*.tar") == [f"{tmp_path}/[v1] shards/0.tar"]
    assert images.shards(f"{tmp_path}/[uv] shards/*.tar") == [f"{tmp_path}/v shards/0.tar"]


def png_of_16_bits(rgb: np.ndarray) -> bytes:
    """(height, width, 3) uint16 as a PNG: Pillow writes none."""
    height, width, _ = rgb.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in rgb)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    "kind", ["I;16", "I;16B", "I", "I of 8 bits", "F", "F to 255", "RGB of 16 bits"]
)
def test_pictures_of_more_than_8_bits_keep_their_greys(kind: str) -> None:
    grey = np.linspace(0, 1, 64)[None].repeat(8, 0)
    file = io.BytesIO()
    if kind == "RGB of 16 bits":
        file.write(png_of_16_bits((grey[..., None].repeat(3, 2) * 65535).astype(np.uint16)))
    elif kind.startswith("F"):
        Image.fromarray((grey * (255 if kind.endswith("255") else 1)).astype(np.float32)).save(
            file, "TIFF"
        )
    elif kind.startswith("I;16"):
        Image.fromarray((grey * 65535).astype(np.uint16)).save(
            file, "PNG" if kind == "I;16" else "TIFF"
        )
    else:
        Image.fromarray((grey * (65535 if kind == "I" else 255)).astype(np.int32)).save(
            file, "TIFF"
        )
    with Image.open(file) as image:  # TIFF too, which `decode` does not read and `eval.paint` does
        assert np.abs(np.asarray(images.as_rgb(image))[..., 1] - grey * 255).max() <= 1.5
    if kind in ("I;16", "RGB of 16 bits"):
        picture, reason = images.decode(file.getvalue())
        assert picture is not None and reason is None and picture.mode == "RGB"
