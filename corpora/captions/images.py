"""Pictures of the captions: from img2dataset's shards, or from files in a folder.

In:  `00000.tar` of `000000001.jpg`, `.txt` and `.json`, and beside it `00000.parquet`, which also
     lists the failed downloads; or a folder, and paths below it.
Out: each row once, as a `Picture`: decoded, or with the reason why not. Nothing on disk.

A shard's headers are read first, then its samples one by one: memory holds one picture, whatever
the order of the files.
"""

import io
import json
import tarfile
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from configs.errors import DataError, RecipeError, first_line
from configs.files import inside
from corpora.sources import archives, files

PICTURES = ("jpg", "jpeg", "png", "webp")
USUAL_ROWS = 10_000  # per shard, img2dataset's default
MAX_PIXELS = 100_000_000
MAX_BYTES = 500_000_000  # per file, which is read whole; no picture of MAX_PIXELS is larger
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")  # Pillow's other decoders are more risk than use
# scaling the shorter side to 224 would turn 1 x 5000 pixels into 224 x 1,120,000
MAX_ASPECT = 20


class Picture(NamedTuple):
    """A row's picture. `key`: its name in the shard, or the id it was requested by; `caption`: the
    shard's text, empty for files. Exactly one of `image` and `reason` is None.
    """

    key: str
    url: str
    caption: str
    image: Image.Image | None
    reason: str | None


def shards(pattern: str) -> list[str]:
    """The tar files that match the glob, in alphabetical order. Raises DataError if there are
    none.
    """
    found = files.local_files(pattern)
    if not found:
        raise DataError(
            f"{pattern}: matches no file; download the pictures with img2dataset, or correct the "
            "glob of the shards"
        )
    return found


def rows_of(path: str | Path) -> int:
    """How many rows a shard has, by the table beside it; USUAL_ROWS without a table.

    Raises DataError for a damaged table.
    """
    table = Path(path).with_suffix(".parquet")
    return (
        sum(batch.num_rows for batch in _batches(table, ["key"])) if table.is_file() else USUAL_ROWS
    )


def read_shard(path: str | Path) -> Iterator[Picture]:
    """Every row of one shard: those in the tar file, then those that its table lists as failed.

    Reasons: `damaged_image` (also a file of more than `MAX_BYTES`), `too_many_pixels`,
    `too_narrow`, `no_image`, or img2dataset's status (`failed_to_download`, `failed_to_resize`).
    Raises DataError for a damaged tar file or table, since rows after the damage would be lost
    silently.
    """
    path = Path(path)
    with opened(path) as file:
        for key, parts in samples(file):
            yield _sample(key, {ending: content(file, member) for ending, member in parts.items()})
    yield from failures(path)


@contextmanager
def opened(path: Path) -> Iterator[tarfile.TarFile]:
    """A shard. Raises DataError where it is damaged, while it is read too."""
    try:
        with tarfile.open(path, "r:") as file:
            yield file
    except (DataError, RecipeError):
        raise
    except (OSError, tarfile.TarError, ValueError, RecursionError) as error:  # no JSON, no UTF-8
        raise DataError(
            f"{path}: damaged, or no shard of img2dataset's ({first_line(error)}); download the "
            "shard again"
        ) from None


def read_files(folder: str | Path, rows: Iterable[tuple[str, str]]) -> Iterator[Picture]:
    """The pictures of (id, path below the folder), in order.

    Reasons: those of `decode`; `no_image` for a file that does not exist or a path that leads out
    of the folder (also through a link); `too_many_bytes` for more than `MAX_BYTES`.
    """
    root = Path(folder).resolve()
    for key, name in rows:
        try:
            path = inside(root, name).resolve(strict=True)
            if not path.is_relative_to(root) or not path.is_file():
                raise FileNotFoundError(name)
            if path.stat().st_size > MAX_BYTES:
                yield Picture(key, name, "", None, "too_many_bytes")
                continue
            data = path.read_bytes()
        except (OSError, DataError, RuntimeError):  # RuntimeError: a circle of links
            yield Picture(key, name, "", None, "no_image")
        else:
            yield Picture(key, name, "", *decode(data))


def decode(data: bytes) -> tuple[Image.Image | None, str | None]:
    """The picture as RGB, or None and the reason."""
    try:
        with warnings.catch_warnings():
            # they are about odd metadata, and sizes, which are checked here
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                short, long = sorted(image.size)
                if short * long > MAX_PIXELS:
                    return None, "too_many_pixels"
                if long > MAX_ASPECT * short:
                    return None, "too_narrow"
                return as_rgb(image), None
    except Image.DecompressionBombError:
        return None, "too_many_pixels"
    # Pillow's decoders raise anything on a damaged file: OSError, SyntaxError, struct.error...
    except Exception:
        return None, "damaged_image"


def as_rgb(image: Image.Image) -> Image.Image:
    """As 8-bit RGB.

    Pillow's own conversion clips 16- and 32-bit grey: all but the darkest 256th would become white.
    """
    # I;16, I;16B: 16-bit; I: 16-bit PNGs of older versions of Pillow, and 32-bit TIFFs
    if image.mode.startswith("I"):
        grey = np.asarray(image).astype(np.int64)
        brightest = grey.max(initial=0)
        most = 0xFFFF if brightest <= 0xFFFF else 0xFFFFFFFF
        if image.mode == "I" and brightest <= 0xFF:
            most = 0xFF
        image = Image.fromarray((grey.clip(0) * 255 // most).clip(0, 255).astype(np.uint8))
    elif image.mode == "F":  # TIFF: 0 to 1, 0 to 255, or 0 to the brightest value
        light = np.nan_to_num(np.asarray(image, dtype=np.float64)).clip(0)
        most = light.max(initial=0)
        image = Image.fromarray(
            (light * (255 / (1 if most <= 1 else max(most, 255)))).astype(np.uint8)
        )
    return image.convert("RGB")


def samples(file: tarfile.TarFile) -> Iterator[tuple[str, dict[str, tarfile.TarInfo]]]:
    """The key of each sample, and its files by their endings, in small letters.

    Files of one folder and name, up to the first dot, are a sample, wherever they stand: a shard
    packed again may be in any order.

    A repeated extension starts a second sample: two shards were joined. Only headers are held; the
    pictures are read one at a time.
    """
    found: dict[str, list[dict[str, tarfile.TarInfo]]] = {}
    for member in file:
        folder, _, name = member.name.rpartition("/")
        if not member.isfile() or archives.added_by_macos(member.name):
            continue
        key, _, ending = name.partition(".")
        of_name = found.setdefault(f"{folder}/{key}", [])
        free = next((parts for parts in of_name if ending.lower() not in parts), None)
        if free is None:
            of_name.append(free := {})
        free[ending.lower()] = member
    for name, of_name in found.items():
        for parts in of_name:
            yield name.rpartition("/")[2], parts


def content(file: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    """What a file of the shard holds; nothing where it is longer than `MAX_BYTES`."""
    stream = file.extractfile(member)
    assert stream is not None
    # Never cut: a longer file is no picture, nor is its beginning.
    return stream.read() if member.size <= MAX_BYTES else b""


def said_of(key: str, parts: dict[str, bytes]) -> dict[str, Any]:
    """What a sample's JSON file says. Raises ValueError."""
    said: dict[str, Any] = json.loads(parts["json"]) if "json" in parts else {}
    if not isinstance(said, dict):
        raise ValueError(f"{key}.json holds no object")
    return said


def _sample(key: str, parts: dict[str, bytes]) -> Picture:
    said = said_of(key, parts)
    url = str(said.get("url") or "")
    caption = str(said.get("caption") or parts.get("txt", b"").decode("utf-8", "replace"))
    status = said.get("status", "success")
    if status != "success":
        return Picture(key, url, caption, None, str(status))
    data = next((parts[ending] for ending in PICTURES if ending in parts), None)
    return Picture(key, url, caption, *((None, "no_image") if data is None else decode(data)))


def failures(shard: Path) -> Iterator[Picture]:
    """The rows that could not be fetched, by the table beside the shard; none without a table."""
    table = shard.with_suffix(".parquet")
    if not table.is_file():
        return
    for batch in _batches(table, ["key", "url", "caption", "status"]):
        for key, url, caption, status in zip(
            *(column.to_pylist() for column in batch.columns), strict=True
        ):
            if status != "success":
                yield Picture(str(key), str(url or ""), str(caption or ""), None, str(status))


def _batches(path: str | Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
    try:
        with pq.ParquetFile(path) as file:
            missing = [name for name in columns if name not in file.schema_arrow.names]
            if missing:
                shown = ", ".join(file.schema_arrow.names)[:200]
                raise DataError(
                    f"{path}: there is no column {missing[0]!r} among {shown!r}; correct the "
                    "column, or fetch the file again"
                )
            yield from file.iter_batches(columns=columns)
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"{path}: cannot be read as parquet ({first_line(error)[:200]}); fetch the file again"
        ) from None
