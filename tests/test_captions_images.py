"""Pictures come out of shards and folders, whole or with a reason, and every row comes out once."""

import io
import json
import tarfile
from pathlib import Path

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


def write_shard(path: Path, samples: dict[str, dict[str, bytes]], failed: list[tuple[str, str, str]]) -> None:
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
    text = {"txt": "白い猫".encode(), "json": json.dumps({"key": key, "url": f"http://x/{key}", "status": "success"} | said).encode()}
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
    write_shard(tmp_path / "00000.tar", samples, [("000000007", "http://x/7", "failed_to_download"), ("000000008", "http://x/8", "failed_to_resize")])
    found = list(images.read_shard(images.shards(str(tmp_path / "*.tar"))[0]))
    assert [one.key for one in found] == [f"{number:09d}" for number in range(9)]
    reasons = [None, "damaged_image", "damaged_image", "too_narrow", "no_image", None, "damaged_image", "failed_to_download", "failed_to_resize"]
    assert [one.reason for one in found] == reasons and found[0].url == "http://x/000000000" and found[7].url == "http://x/7"
    assert [one.caption for one in found] == ["白い猫"] * 7 + ["x"] * 2 and images.rows_of(tmp_path / "00000.tar") == 9
    assert all((one.image is None) != (one.reason is None) for one in found)
    assert found[0].image and found[5].image and found[0].image.size == (30, 20) and found[5].image.mode == "RGB"


def test_a_picture_too_large_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS", 500)
    assert images.decode(encoded((30, 20))) == (None, "too_many_pixels") and images.decode(encoded((20, 20)))[1] is None
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # Pillow warns above it, and refuses above twice as many
    assert images.decode(encoded((30, 20))) == (None, "too_many_pixels")


def test_a_damaged_shard_is_one_line(tmp_path: Path) -> None:
    write_shard(tmp_path / "0.tar", {f"{key:09d}": sample(f"{key:09d}", encoded()) for key in range(9)}, [])
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
    found = list(images.read_files(tmp_path, [("3", "b.jpg"), ("1", "a.png"), ("2", "c.jpg"), ("4", "")]))
    assert [(one.key, one.reason) for one in found] == [("3", "damaged_image"), ("1", None), ("2", "no_image"), ("4", "no_image")]

