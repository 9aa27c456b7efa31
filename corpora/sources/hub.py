"""Streams datasets from the Hugging Face Hub or a folder; stores nothing. The door to `datasets`.

Counting the rows is a pass of its own, so a dataset is fetched twice. If it is stored as Parquet, a
`parquet` source at `hf://datasets/ORG/NAME/...` counts by its footers alone. Rows that `datasets`
reads as null (in CSV files the texts "NA" and "null") are dropped and counted as such.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from configs.errors import DataError, RecipeError
from configs.schema.sources import HubSource
from corpora.pair import Input
from corpora.sources import files, parquet
from corpora.sources import part as parts
from corpora.sources.part import Part, Row


class Streamed(Protocol):
    """Which data set: what a section of the recipe says of it."""

    @property
    def dataset(self) -> str: ...
    @property
    def config(self) -> str | None: ...
    @property
    def split(self) -> str: ...
    @property
    def revision(self) -> str | None: ...


def tables(source: Streamed, rows: int) -> Iterator[pa.Table]:
    """The whole split in order, so many rows at a time. Raises DataError."""
    with _reported(source):
        shards = _stream(source).num_shards
    for shard in range(shards):
        yield from _tables(source, shard, rows)


def identity(source: HubSource) -> Input:
    """The dataset's current state: a digest of its files' names and commit (for a folder: their
    modification times). Raises DataError.
    """
    import datasets

    with _reported(source):
        builder = datasets.load_dataset_builder(
            source.dataset, source.config, revision=source.revision
        )
        listed = builder.config.data_files or {}
    _check_places(source, [name for names in listed.values() for name in names])
    data_files = listed.get(source.split, [])
    state = json.dumps([list(data_files), getattr(data_files, "origin_metadata", None)])
    return Input(
        source=source.name,
        path=where(source),
        bytes=0,
        sha256=hashlib.sha256(state.encode()).hexdigest(),
    )


def plan(source: HubSource, number: int) -> Iterator[Part]:
    """Cuts the dataset between its shards, and a large shard by rows.

    Raises DataError; RecipeError for a missing column.
    """
    with _reported(source):
        shards = _stream(source).num_shards
    first_row = 0
    for shard in range(shards):
        rows = 0
        for table in _tables(source, shard):
            text, en = (
                parquet.text_column(table.schema, wanted, where(source), source.name)
                for wanted in source.columns
            )
            rows += table.num_rows
        for start, stop in parts.cut(rows, parts.STREAM_PART_ROWS):
            yield Part(
                number,
                (),
                (shard, start),
                (shard, stop),
                first_row + start,
                stop - start,
                text=text,
                en=en,
            )
        first_row += rows


def read(source: HubSource, part: Part) -> Iterator[Row]:
    (shard, start), (_, stop) = part.start, part.stop
    row = 0
    for table in _tables(source, shard):
        for batch in table.slice(max(0, start - row), max(0, stop - max(start, row))).to_batches():
            yield from zip(
                parquet.texts(batch, str(part.text)),
                parquet.texts(batch, str(part.en)),
                strict=True,
            )
        row += table.num_rows
        if row >= stop:
            return


def _check_places(source: Streamed, data_files: list[str]) -> None:
    """Raises DataError if the dataset's README.md names local files outside of its folder."""
    for name in data_files:
        if not is_its_own(source, name):
            raise DataError(
                f"{where(source)}: names {name!r}, a file outside of it; take the data set "
                "elsewhere"
            )


def is_its_own(source: Streamed, name: str) -> bool:
    """Whether a file that the data set names lies in its folder, or not on this machine."""
    place = name.rpartition("::")[2]
    folder = Path(source.dataset).resolve()
    return "://" in place or Path(place).resolve().is_relative_to(folder)


def _stream(source: Streamed) -> Any:
    import datasets

    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # errors reach the user as exceptions
    return datasets.load_dataset(
        source.dataset,
        source.config,
        split=source.split,
        revision=source.revision,
        streaming=True,
        trust_remote_code=False,
    )


def _tables(source: Streamed, shard: int, rows: int = parts.BATCH_ROWS) -> Iterator[pa.Table]:
    with _reported(source):
        stream = _stream(source)
        found = stream.shard(stream.num_shards, shard).with_format("arrow").iter(rows)
    while True:
        with _reported(source):
            table = next(found, None)
        if table is None:
            return
        yield table


def where(source: Streamed) -> str:
    """How messages call it."""
    return "/".join(
        ["hub:" + source.dataset, *([source.config] if source.config else []), source.split]
    )


@contextmanager
def _reported(source: Streamed) -> Iterator[None]:
    from datasets.exceptions import DatasetsError

    try:
        yield
    except (DataError, RecipeError):
        raise
    except (*files.DAMAGE, ValueError, DatasetsError) as error:
        raise DataError(
            f"{where(source)}: cannot be streamed ({files.one_line(error)}); check name, config, "
            "split and access"
        ) from None
