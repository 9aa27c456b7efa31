"""Scores how well captions fit their pictures: the stage that opens pictures, one shard or one part
of the captions at a time.

In:  cleaned captions, pictures (corpora/captions/images.py), a dual encoder.
Out: `scored/00000.parquet`: row, and its similarity or the reason why it has none. A caption
     without a picture is in no file.

A shard's picture is matched to rows by URL and caption, so order and number of the shards do not
matter.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from configs.files import whole
from configs.schema.captions import Files, Ranker
from corpora.captions import dual_encoder, images
from corpora.captions.clean import Cleaned, picture_digest
from corpora.captions.devices import one_thread
from corpora.captions.dual_encoder import DualEncoder
from corpora.filters import residue

SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("similarity", pa.float32()),
        pa.field("reason", pa.string()),
    ]
)

# the rows of one caption and URL, the caption, the picture
Candidate = tuple[list[int], str, images.Picture]


@dataclass
class ScoreShard:
    """Executor task: scores the pictures of shard `rank`."""

    ranker: Ranker
    shards: list[str]
    index: Path
    folder: Path
    rows: list[int]

    def files(self, rank: int) -> list[Path]:
        return [self.folder / f"{rank:05d}.parquet"]

    def __call__(self, data: object, rank: int, world_size: int) -> None:
        with one_thread():
            _write(
                self.folder / f"{rank:05d}.parquet",
                score(self._candidates(self.shards[rank]), self.ranker),
            )

    def _candidates(self, shard: str) -> Iterator[Candidate]:
        digests, order = (
            np.load(self.index / name, mmap_mode="r", allow_pickle=False)
            for name in ("digests.npy", "rows.npy")
        )
        for picture in images.read_shard(shard):
            text = residue.japanese(picture.caption)
            wanted = np.uint64(picture_digest(picture.url, text))
            first, last = (
                np.searchsorted(digests, wanted),
                np.searchsorted(digests, wanted, side="right"),
            )
            if first < last:
                yield order[first:last].tolist(), text, picture


@dataclass
class ScoreFiles:
    """Executor task: scores the captions of cleaned part `rank`."""

    ranker: Ranker
    images: Files
    cleaned: Cleaned
    folder: Path

    @property
    def rows(self) -> list[int]:
        return np.diff(self.cleaned.starts).tolist()

    def files(self, rank: int) -> list[Path]:
        return [self.folder / f"{rank:05d}.parquet"]

    def __call__(self, data: object, rank: int, world_size: int) -> None:
        with one_thread():
            _write(self.folder / f"{rank:05d}.parquet", score(self._candidates(rank), self.ranker))

    def _candidates(self, rank: int) -> Iterator[Candidate]:
        captions = pq.read_table(self.cleaned.files[rank], columns=["text", "url"])
        texts, paths = captions["text"].to_pylist(), captions["url"].to_pylist()
        found = images.read_files(
            self.images.path, zip(map(str, range(len(paths))), paths, strict=True)
        )
        for row, (text, picture) in enumerate(
            zip(texts, found, strict=True), int(self.cleaned.starts[rank])
        ):
            yield [row], text, picture


def write_index(cleaned: Cleaned, folder: Path) -> None:
    """Writes an index from URL and caption to rows, which workers memory-map: sorted digests and
    their rows.
    """
    digests = cleaned.column("picture_digest")
    order = np.argsort(digests, kind="stable")
    for name, values in (("digests", digests[order]), ("rows", order)):
        with whole(folder / f"{name}.npy") as temporary, open(temporary, "wb") as file:
            np.save(file, values)


def score(candidates: Iterable[Candidate], ranker: Ranker) -> pa.Table:
    """A table of SCHEMA. One batch of pictures is in memory at a time."""
    found: list[tuple[int, float | None, str | None]] = []

    def readable() -> Iterator[Candidate]:
        for rows, text, picture in candidates:
            if picture.image is None:
                found.extend((row, None, picture.reason) for row in rows)
            else:
                yield rows, text, picture

    waiting = readable()
    while batch := list(islice(waiting, ranker.batch_size)):
        for (rows, _, _), similarity in zip(batch, _similarities(ranker, batch), strict=True):
            outcome = (None, "no_similarity") if np.isnan(similarity) else (float(similarity), None)
            found.extend((row, *outcome) for row in rows)
    return pa.Table.from_pylist(
        [dict(zip(SCHEMA.names, one, strict=True)) for one in found], schema=SCHEMA
    )


def _similarities(ranker: Ranker, batch: list[Candidate]) -> np.ndarray:
    pictures = [picture.image for _, _, picture in batch if picture.image is not None]
    return dual_encoder.similarities(
        _encoder(ranker), [text for _, text, _ in batch], pictures, ranker.batch_size
    )


@lru_cache(maxsize=1)
def _encoder(ranker: Ranker) -> DualEncoder:
    """Loaded once per process."""
    return dual_encoder.load(ranker)


def _write(path: Path, table: pa.Table) -> None:
    with whole(path) as temporary:
        pq.write_table(table, temporary, compression="lz4")
