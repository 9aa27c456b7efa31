"""Parquet files: two text columns, or two fields of a struct (`translation.ja`, `translation.en`).
Planning reads only the footer.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq

from configs.errors import RecipeError
from configs.schema.sources import ParquetSource
from corpora.sources import content, files, part
from corpora.sources.part import Part, Row


def plan(source: ParquetSource, number: int, path: str, first_row: int) -> Iterator[Part]:
    """Cuts one file between row groups.

    Raises DataError for a damaged footer, RecipeError for a missing column.
    """
    with opened(path) as file:
        if not file.metadata.num_rows:
            return  # Spark writes such parts, sometimes without columns
        schema = file.schema_arrow
        text, en = (text_column(schema, wanted, path, source.name) for wanted in source.columns)
        for start, stop, rows in row_groups(file.metadata):
            yield Part(number, (path,), (start,), (stop,), first_row, rows, text=text, en=en)
            first_row += rows


def read(source: ParquetSource, part: Part) -> Iterator[Row]:
    with opened(part.paths[0]) as file:
        groups = range(part.start[0], part.stop[0])
        for rows in batches(file, part.paths[0], groups, [str(part.text), str(part.en)]):
            yield from zip(texts(rows, str(part.text)), texts(rows, str(part.en)), strict=True)


@contextmanager
def opened(path: str) -> Iterator[pq.ParquetFile]:
    """The open file. A local one is read page by page, so that a row group of gigabytes does not
    fill the memory; a remote one by row groups, in few requests.

    Raises DataError if the footer cannot be read.
    """
    remote = files.is_url(path)
    with files.opened_raw(path) as raw:
        if not remote:  # a remote file's head would cost another request
            content.refuse_other_files(
                b"" if (head := files.head_of(raw)).startswith(b"PAR1") else head, path
            )
            raw.seek(0)
        with files.reported(path, " as parquet"):
            file = pq.ParquetFile(
                raw, pre_buffer=remote, buffer_size=0 if remote else files.BUFFER_BYTES
            )
        yield file


def row_groups(footer: pq.FileMetaData) -> Iterator[tuple[int, int, int]]:
    """Runs of row groups that have at least PART_ROWS rows: first group, group after the last,
    rows.
    """
    start, rows = 0, 0
    for group in range(footer.num_row_groups):
        rows += footer.row_group(group).num_rows
        if rows >= part.PART_ROWS or (rows and group == footer.num_row_groups - 1):
            yield start, group + 1, rows
            start, rows = group + 1, 0


def batches(
    file: pq.ParquetFile, path: str, groups: range, columns: list[str]
) -> Iterator[pa.RecordBatch]:
    """The columns of some row groups, streamed. Raises DataError for a damaged page."""
    # One thread: the workers are parallel already, and decoding ahead fills the memory.
    found = iter(
        file.iter_batches(
            batch_size=part.BATCH_ROWS, row_groups=list(groups), columns=columns, use_threads=False
        )
    )
    while True:
        with files.reported(path, " as parquet"):
            batch = next(found, None)
        if batch is None:
            return
        yield batch


def text_column(schema: pa.Schema, wanted: str | int, where: str, source: str) -> str:
    """The full name (COLUMN or COLUMN.FIELD) of a column of texts. Raises RecipeError."""
    names = schema.names
    column = names[wanted] if isinstance(wanted, int) and 0 <= wanted < len(names) else wanted
    outer, _, inner = str(column).partition(".")
    kind = None
    if names.count(column) == 1:
        kind = schema.field(column).type
    elif inner and names.count(outer) == 1 and pa.types.is_struct(schema.field(outer).type):
        names = [*names, *(f"{outer}.{one.name}" for one in schema.field(outer).type)]
        kind = schema.field(outer).type.field(inner).type if names.count(str(column)) == 1 else None
    if kind is None:
        shown = ", ".join(names)[:200]
        raise RecipeError(
            f"{where}: there is no one column {wanted!r} among {shown!r}; correct source {source!r}"
        )
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if not (
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_string_view(kind)
        or pa.types.is_null(kind)
    ):
        raise RecipeError(
            f"{where}: column {column!r} holds {kind}, not text; correct source {source!r}"
        )
    return str(column)


def texts(rows: pa.RecordBatch, column: str) -> list[bytes | None]:
    """The texts as bytes: Parquet does not guarantee UTF-8, and Arrow would raise at the first
    invalid one.
    """
    if column in rows.schema.names:
        found = rows.column(column)
    else:
        outer, _, inner = column.partition(".")
        struct = rows.column(outer)
        # flatten() makes the fields of a null struct null
        found = struct.flatten()[struct.type.get_field_index(inner)]
    if pa.types.is_dictionary(found.type):
        found = found.dictionary_decode()
    result: list[bytes | None] = found.cast(pa.large_binary()).to_pylist()
    return result
