"""The finished folder of latents: which rows there are, and their latents out of mapped memory.

In:  `<run>/pictures/`: `rows.parquet` (a row a crop), `latents-*.safetensors`, `manifest.json`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pydantic import ValidationError

from configs import artefact
from configs.errors import DataError, first_line
from configs.records import Record
from corpora.pair import Split
from finetune.pictures.buckets import Size
from finetune.pictures.latent_files import LatentReader, Place, bucket_name
from finetune.pictures.vae import LatentScaling

FOLDER, ROWS = "pictures", "rows.parquet"
WAY_OUT = "run python -m finetune.pictures with this recipe"
SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("picture", pa.string()),
        ("split", pa.string()),
        ("source", pa.string()),
        ("file", pa.string()),
        ("texts", pa.list_(pa.string())),
        ("en", pa.list_(pa.string())),
        *((f"original_{axis}", pa.int32()) for axis in ("width", "height")),
        *((f"bucket_{axis}", pa.int32()) for axis in ("width", "height")),
        *((f"crop_{side}", pa.int32()) for side in ("top", "left")),
        ("flip", pa.bool_()),
        ("shard", pa.string()),
        ("index", pa.int32()),
    ]
)


class SourceCounts(Record):
    """What one source gave: pictures and captions kept, and pictures dropped by reason."""

    label: str
    licence: str | None
    pictures: int
    captions: int
    en_captions: int
    dropped: dict[str, int]


class StoreDetails(Record):
    """What the manifest says of the folder; counts of rows are by bucket (`1024x768`)."""

    sources: list[SourceCounts]
    pictures: dict[Split, int]
    rows: dict[Split, dict[str, int]]
    captions_cut_at_77: int
    vae: str
    pixels_a_latent: int
    scaling: LatentScaling


@dataclass(frozen=True)
class PictureRow:
    """One crop of a picture. Sizes are (width, height) in pixels.

    `texts`: its captions, one at least; `en`: those in English, if any. `top`, `left`: what was
    cut off there of the resized (and, if `flip`, mirrored) picture.
    """

    key: str
    picture: str
    split: Split
    source: str
    file: str
    texts: tuple[str, ...]
    en: tuple[str, ...]
    original_size: Size
    bucket: Size
    top: int
    left: int
    flip: bool
    shard: str
    index: int


def time_ids(row: PictureRow) -> tuple[int, int, int, int, int, int]:
    """SDXL's micro-conditioning in the order of its pipelines: original height and width, crop top
    and left, target height and width.
    """
    (width, height), (target_width, target_height) = row.original_size, row.bucket
    return (height, width, row.top, row.left, target_height, target_width)


class PictureStore:
    """An opened folder. `checked`: every file's digest is compared, which reads all of it.

    Raises DataError for a folder that is missing or damaged.
    """

    def __init__(self, folder: Path, checked: bool = True) -> None:
        self.folder = folder
        if not (folder / artefact.MANIFEST).is_file():
            raise DataError(f"{folder}: missing, or not finished; {WAY_OUT} first")
        if checked:
            self.manifest = artefact.read(folder, WAY_OUT)
        else:
            self.manifest = artefact.ArtefactManifest.read(folder / artefact.MANIFEST, WAY_OUT)
        self.details = details(self.manifest, folder)
        self.table = read_rows(folder)
        self._numbers: dict[tuple[str, Size], np.ndarray] = {}
        splits = self.table["split"].to_pylist()
        sizes = zip(
            *(self.table[f"bucket_{axis}"].to_pylist() for axis in ("width", "height")), strict=True
        )
        gathered: dict[tuple[str, Size], list[int]] = {}
        for number, (split, size) in enumerate(zip(splits, sizes, strict=True)):
            gathered.setdefault((split, size), []).append(number)
        self._numbers = {key: np.array(found) for key, found in sorted(gathered.items())}
        self._reader = LatentReader()

    @property
    def scaling(self) -> LatentScaling:
        """`store.scaling.scaled(mean + std * noise)` is what the UNet reads."""
        return self.details.scaling

    def buckets(self, split: Split) -> dict[Size, int]:
        """How many rows each bucket has, ascending."""
        return {size: len(found) for (of, size), found in self._numbers.items() if of == split}

    def numbers(self, split: Split, bucket: Size) -> np.ndarray:
        """The numbers of a bucket's rows, ascending; (0,) where there are none."""
        return self._numbers.get((split, bucket), np.zeros(0, np.int64))

    def row(self, number: int) -> PictureRow:
        return _row(self.table.slice(int(number), 1).to_pylist()[0])

    def rows(self, split: Split, bucket: Size | None = None) -> list[PictureRow]:
        """All rows of a split, or of one of its buckets, in the folder's order."""
        buckets = [bucket] if bucket else list(self.buckets(split))
        numbers = sorted(int(one) for size in buckets for one in self.numbers(split, size))
        found = self.table.take(pa.array(numbers, pa.int64()))
        return [_row(values) for values in found.to_pylist()]

    def latents(self, rows: Sequence[PictureRow]) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of the VAE's posterior, (B, C, h, w) fp16 each, before any
        scaling. The rows are of one bucket. Raises DataError.
        """
        assert len({row.bucket for row in rows}) == 1, "rows of one bucket"
        return self._reader.read(
            Place(self.folder / row.shard, bucket_name(row.bucket), row.index) for row in rows
        )


def details(manifest: artefact.ArtefactManifest, folder: Path) -> StoreDetails:
    """Raises DataError."""
    try:
        return StoreDetails.model_validate(manifest.details)
    except ValidationError as error:
        raise DataError(
            f"{folder / artefact.MANIFEST}: of another version ({first_line(error)}); move the "
            f"folder away, and {WAY_OUT}"
        ) from None


def read_rows(folder: Path) -> pa.Table:
    """Raises DataError for a table that is damaged or has other columns."""
    path = folder / ROWS
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: cannot be read ({first_line(error)}); {WAY_OUT}") from None
    if table.schema != SCHEMA:
        raise DataError(f"{path}: has other columns than this version's; {WAY_OUT}")
    return table


def _row(values: dict[str, Any]) -> PictureRow:
    return PictureRow(
        key=values["key"],
        picture=values["picture"],
        split=values["split"],
        source=values["source"],
        file=values["file"],
        texts=tuple(values["texts"]),
        en=tuple(values["en"] or ()),
        original_size=(values["original_width"], values["original_height"]),
        bucket=(values["bucket_width"], values["bucket_height"]),
        top=values["crop_top"],
        left=values["crop_left"],
        flip=values["flip"],
        shard=values["shard"],
        index=values["index"],
    )
