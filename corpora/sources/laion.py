"""Captions of laion2B-multi or Re-LAION: Japanese texts and the addresses of their pictures, no English. No pairs yet.

In:  metadata parquet files: URL, TEXT, LANGUAGE; SAMPLE_ID, LICENSE, NSFW and similarity where there are such columns, in any case of letters.
Out: Arrow batches of SCHEMA. Rows of other languages are dropped first (`language_column`): whole row groups by their statistics or their language
     column alone, the rest by a mask, before any text is looked at. Texts are as they were: with newlines, entities and file names in them.
"""

from collections import Counter
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from configs.errors import DataError
from configs.sources import LaionSource
from corpora.sources import files, parquet
from corpora.sources.part import Part

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("ja", pa.string(), nullable=False),
        pa.field("url", pa.string(), nullable=False),
        pa.field("licence", pa.string(), nullable=False),
        pa.field("similarity", pa.float32()),
        pa.field("nsfw", pa.string()),
    ]
)
NEEDED = ("url", "text", "language")
OPTIONAL = ("license", "similarity", "nsfw")


def plan(source: LaionSource) -> list[Part]:
    """Cuts the files between row groups, from their footers alone. Raises DataError for a file that is missing, damaged or of other columns."""
    parts: list[Part] = []
    first_row = 0
    for path in files.found(source.path):
        with parquet.opened(path) as file:
            _columns(file, path)
            for start, stop, rows in parquet.row_groups(file.metadata):
                parts.append(Part(0, (path,), (start,), (stop,), first_row, rows))
                first_row += rows
    if not parts:
        raise DataError(f"{source.path}: there is no such file, or it holds no rows (source {source.name!r}); fetch it, or correct the path")
    return parts


def captions(source: LaionSource, part: Part, dropped: Counter[str]) -> Iterator[pa.RecordBatch]:
    """The part's captions in order, as batches of SCHEMA; counts in `dropped`, by reason, every row that gives none. Raises DataError.

    A row's id is its number in the source; its licence is the row's own where it names one, else the source's.
    """
    path, row, end = part.paths[0], part.first_row, part.first_row + part.rows
    with parquet.opened(path) as file:
        columns = _columns(file, path)
        for group in range(part.start[0], min(part.stop[0], file.num_row_groups)):
            rows = file.metadata.row_group(group).num_rows
            if not _may_hold(file, path, group, columns["language"], source.language):
                dropped["language_column"] += rows
                row += rows
                continue
            for batch in parquet.batches(file, path, range(group, group + 1), list(columns.values())):
                yield _clean(batch.rename_columns(list(columns)), source, row, dropped)
                row += batch.num_rows
    if row != end:
        raise DataError(f"{path}: changed while it was being read; run again and leave it alone")


def _columns(file: pq.ParquetFile, path: str) -> dict[str, str]:
    """Our names of the columns to the file's. Raises DataError."""
    names = {name.lower(): name for name in file.schema_arrow.names}
    missing = [name.upper() for name in NEEDED if name not in names]
    if missing:
        raise DataError(f"{path}: has no column {missing[0]} among {', '.join(names.values())[:200]}; is it LAION's metadata?")
    # in the file's order, in which Arrow gives them
    return {low: name for low, name in names.items() if low in NEEDED + OPTIONAL}


def _may_hold(file: pq.ParquetFile, path: str, group: int, column: str, language: str) -> bool:
    """Whether some row of the group is of the language: by the column's statistics, or by the column, which a dictionary makes tiny."""
    footer = file.metadata.row_group(group)
    chunks = [footer.column(number) for number in range(footer.num_columns)]
    statistics = next(chunk.statistics for chunk in chunks if chunk.path_in_schema == column)
    if statistics is not None and statistics.has_min_max and not _text(statistics.min) <= language <= _text(statistics.max):
        return False
    return any(pc.any(_is(batch.column(0), language)).as_py() for batch in parquet.batches(file, path, range(group, group + 1), [column]))


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _is(column: pa.Array, language: str) -> pa.Array:
    """Where the column holds the language; compared as bytes, for a text may be no UTF-8."""
    return pc.fill_null(pc.equal(_bytes(column), pa.scalar(language.encode(), pa.large_binary())), False)


def _bytes(column: pa.Array) -> pa.Array:
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return column.cast(pa.large_binary())


def _clean(batch: pa.RecordBatch, source: LaionSource, first_row: int, dropped: Counter[str]) -> pa.RecordBatch:
    """The rows of the language whose text and address can be read."""
    numbers = pa.array(range(first_row, first_row + batch.num_rows), pa.int64())
    rows = batch.append_column("number", numbers).filter(_is(batch.column("language"), source.language))
    dropped["language_column"] += batch.num_rows - rows.num_rows
    present = pc.and_(rows.column("text").is_valid(), rows.column("url").is_valid())
    dropped["null"] += pc.sum(pc.invert(present)).as_py() or 0
    rows = rows.filter(present)
    texts = {name: _decoded(rows.column(name)) for name in ("text", "url", "license", "nsfw") if name in rows.schema.names}
    readable = pc.and_(texts["text"].is_valid(), texts["url"].is_valid())
    dropped["invalid_utf8"] += pc.sum(pc.invert(readable)).as_py() or 0
    nothing = pa.nulls(rows.num_rows, pa.string())
    licences = texts.get("license", nothing)
    named = pc.fill_null(pc.not_equal(licences, "?"), False)  # LAION's word for "not known"
    columns = [
        pa.array([f"{source.name}:{number:010d}" for number in rows.column("number").to_pylist()], pa.string()),
        texts["text"],
        texts["url"],
        pc.if_else(named, licences, source.licence),
        rows.column("similarity").cast(pa.float32()) if "similarity" in rows.schema.names else pa.nulls(rows.num_rows, pa.float32()),
        texts.get("nsfw", nothing),
    ]
    return pa.RecordBatch.from_arrays(columns, names=SCHEMA.names).filter(readable).cast(SCHEMA)


def _decoded(column: pa.Array) -> pa.Array:
    """As text, null where the bytes are no UTF-8, which parquet does not forbid."""
    found = _bytes(column)
    try:
        return found.cast(pa.string())
    except pa.ArrowInvalid:
        return pa.array([_valid(one) for one in found.to_pylist()], pa.string())


def _valid(text: bytes | None) -> str | None:
    try:
        return None if text is None else text.decode("utf-8")
    except UnicodeDecodeError:
        return None
