"""Captions of laion2B-multi or Re-LAION: Japanese texts and the URLs of their pictures, no English.

In:  metadata as Parquet: URL, TEXT (or CAPTION), LANGUAGE; optionally LICENSE, similarity and
     ratings; letter case does not matter. Ratings are NSFW, UNSAFE (labels, booleans or
     probabilities) and PUNSAFE (a probability); datasets made from LAION store them as many types.
Out: Arrow batches of SCHEMA. Rows of other languages are dropped first (`language_column`), before
     any text is read: whole row groups by their statistics or language column, the rest by a mask.
     Texts are unchanged: with newlines, entities and file names.
"""

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from configs.errors import DataError
from configs.schema.sources import LaionSource
from corpora.sources import files, laion_columns, parquet
from corpora.sources.part import Part

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("url", pa.string(), nullable=False),
        pa.field("licence", pa.string(), nullable=False),
        pa.field("similarity", pa.float32()),
        pa.field("nsfw", pa.string()),  # the label, in capitals
        pa.field("unsafe_probability", pa.float32()),
    ]
)
NEEDED = ("url", "text", "language")
RATINGS = ("nsfw", "unsafe", "punsafe")
OPTIONAL = ("license", "similarity", *RATINGS)


def plan(source: LaionSource) -> list[Part]:
    """Cuts the files between row groups; reads only their footers.

    Raises DataError for a missing or damaged file, or one with other columns.
    """
    parts: list[Part] = []
    first_row = 0
    for path in files.found(source.path):
        with parquet.opened(path) as file:
            _columns(file, path)
            for start, stop, rows in parquet.row_groups(file.metadata):
                parts.append(Part(0, (path,), (start,), (stop,), first_row, rows))
                first_row += rows
    if not parts:
        raise DataError(
            f"{source.path}: there is no such file, or it holds no rows (source {source.name!r}); "
            "fetch it, or correct the path"
        )
    return parts


def check_ratings(source: LaionSource) -> None:
    """Raises DataError for a file that cannot tell unsafe pictures: no column of RATINGS, or only
    nulls.
    """
    for path in files.found(source.path):
        with parquet.opened(path) as file:
            rated = [
                name for lower_name, name in _columns(file, path).items() if lower_name in RATINGS
            ]
            if file.metadata.num_rows and all(_is_empty(file, name) for name in rated):
                state = (
                    f"only nulls in {', '.join(rated)}"
                    if rated
                    else f"no column {', '.join(RATINGS).upper()}"
                )
                raise DataError(
                    f"{path}: {state}, so unsafe pictures cannot be told; add ratings, or keep all "
                    "with captions.unsafe=[]"
                )


def captions(source: LaionSource, part: Part) -> Iterator[tuple[pa.RecordBatch, dict[str, int]]]:
    """The part's captions in order, as batches of SCHEMA, each with its number of dropped rows by
    reason. Raises DataError.

    A row's id is its number in the source; its licence is its own if it has one, else the source's.
    """
    path, row, end = part.paths[0], part.first_row, part.first_row + part.rows
    with parquet.opened(path) as file:
        columns = _columns(file, path)
        for group in range(part.start[0], min(part.stop[0], file.num_row_groups)):
            rows = file.metadata.row_group(group).num_rows
            if not _may_hold(file, path, group, columns["language"], _language(source)):
                yield pa.RecordBatch.from_pylist([], SCHEMA), {"language_column": rows}
                row += rows
                continue
            for batch in parquet.batches(
                file, path, range(group, group + 1), list(columns.values())
            ):
                yield _clean(batch.rename_columns(list(columns)), source, row)
                row += batch.num_rows
    if row != end:
        raise DataError(f"{path}: changed while it was being read; run again and leave it alone")


def _columns(file: pq.ParquetFile, path: str) -> dict[str, str]:
    """Maps our names of the columns to the file's. Raises DataError."""
    names = {name.lower(): name for name in file.schema_arrow.names}
    if "text" not in names and "caption" in names:
        names = {"text" if low == "caption" else low: name for low, name in names.items()}
    missing = [name.upper() for name in NEEDED if name not in names]
    if missing:
        raise DataError(
            f"{path}: has no column {missing[0]} among {', '.join(names.values())[:200]}; is it "
            "LAION's metadata?"
        )
    for low in NEEDED:
        kind = file.schema_arrow.field(names[low]).type
        if not laion_columns.is_text(kind):
            raise DataError(
                f"{path}: column {names[low]} holds {kind}, not text; is it LAION's metadata?"
            )
    # in the file's order, as Arrow returns them
    return {low: name for low, name in names.items() if low in NEEDED + OPTIONAL}


def _is_empty(file: pq.ParquetFile, name: str) -> bool:
    """Whether the column is all null, as far as the footer tells."""
    if pa.types.is_null(file.schema_arrow.field(name).type):
        return True
    footer = file.metadata
    groups = [footer.row_group(number) for number in range(footer.num_row_groups)]
    chunks = [group.column(number) for group in groups for number in range(group.num_columns)]
    found = [chunk.statistics for chunk in chunks if chunk.path_in_schema == name]
    return all(
        one is not None and one.has_null_count and one.null_count > 0 and one.num_values == 0
        for one in found
    )


def _may_hold(file: pq.ParquetFile, path: str, group: int, column: str, language: str) -> bool:
    """Whether a row of the group may be of the language: by the column's statistics, else by
    reading the column, which is tiny as a dictionary.
    """
    footer = file.metadata.row_group(group)
    chunks = [footer.column(number) for number in range(footer.num_columns)]
    statistics = next(chunk.statistics for chunk in chunks if chunk.path_in_schema == column)
    if (
        statistics is not None
        and statistics.has_min_max
        and not _text(statistics.min) <= language <= _text(statistics.max)
    ):
        return False
    return any(
        pc.any(_is(batch.column(0), language)).as_py()
        for batch in parquet.batches(file, path, range(group, group + 1), [column])
    )


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _language(source: LaionSource) -> str:
    return source.language or source.text_language.code


def _is(column: pa.Array, language: str) -> pa.Array:
    """(rows,) bool: where the column holds the language. Compared as bytes: texts may be invalid
    UTF-8.
    """
    return pc.fill_null(
        pc.equal(laion_columns.as_bytes(column), pa.scalar(language.encode(), pa.large_binary())),
        False,
    )


def _clean(
    batch: pa.RecordBatch, source: LaionSource, first_row: int
) -> tuple[pa.RecordBatch, dict[str, int]]:
    """The rows of the language whose text and URL are readable, and the number of others by
    reason.
    """
    numbers = pa.array(range(first_row, first_row + batch.num_rows), pa.int64())
    rows = batch.append_column("number", numbers).filter(
        _is(batch.column("language"), _language(source))
    )
    dropped = {"language_column": batch.num_rows - rows.num_rows}
    present = pc.and_(rows.column("text").is_valid(), rows.column("url").is_valid())
    dropped["null"] = pc.sum(pc.invert(present)).as_py() or 0
    rows = rows.filter(present)
    decoded = laion_columns.as_text
    texts = {
        name: decoded(rows.column(name))
        for name in ("text", "url", "license")
        if name in rows.schema.names
    }
    labels, probabilities = laion_columns.ratings(
        rows.select([name for name in RATINGS if name in rows.schema.names])
    )
    readable = pc.and_(texts["text"].is_valid(), texts["url"].is_valid())
    dropped["invalid_utf8"] = pc.sum(pc.invert(readable)).as_py() or 0
    nothing = pa.nulls(rows.num_rows, pa.string())
    licences = texts.get("license", nothing)
    named = pc.fill_null(pc.not_equal(licences, "?"), False)  # "?" is LAION's "unknown"
    columns = [
        pa.array(
            [f"{source.name}:{number:010d}" for number in rows.column("number").to_pylist()],
            pa.string(),
        ),
        texts["text"],
        texts["url"],
        pc.if_else(named, licences, source.licence),
        laion_columns.as_numbers(rows.column("similarity"))
        if "similarity" in rows.schema.names
        else pa.nulls(rows.num_rows, pa.float32()),
        labels,
        probabilities,
    ]
    found = pa.RecordBatch.from_arrays(columns, names=SCHEMA.names).filter(readable).cast(SCHEMA)
    return found, dropped
