"""The units that all kinds of sources are read in.

In:  a format's rows: the bytes of both texts, or the reason why they cannot be read.
Out: `Part`, a slice of a source that one worker reads alone; `RowBatch`, numbered and decoded rows,
     each a pair or a counted drop.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from corpora.pair import Split

# For seekable files: seconds of work, so an interruption costs little.
PART_ROWS = 50_000
# For streams that can only be read from their start (compressed, in an archive, XML): each part
# skips all rows before it. A core skips 1.7 million rows of gzip or 90,000 units of TMX a second,
# and cleans 9,000 rows. So the 21 million rows of JParaCrawl make 42 parts of a minute each, for
# all workers to share, at a tenth more work than one part.
STREAM_PART_ROWS = 500_000
BATCH_ROWS = 2048
BATCH_BYTES = 8 << 20  # a batch ends early here, so that rows of a megabyte do not fill the memory
MAX_TEXT_BYTES = 1 << 20  # longer texts are dropped without being held in memory

# texts in the student's language and in English (None: null), or the reason to drop the row
Row = tuple[bytes | None, bytes | None] | str


@dataclass(frozen=True)
class Part:
    """Rows `first_row` to `first_row + rows` of a source, all from one file (`paths` has two for
    aligned text files).

    `start` and `stop` are in the format's unit: a byte offset per path for lines, row groups for
    Parquet, rows for XML, (shard, row) for the Hub. `text` and `en` are columns; `fields` is the
    number of fields of a TSV row.
    """

    source: int
    paths: tuple[str, ...]
    start: tuple[int, ...]
    stop: tuple[int, ...]
    first_row: int
    rows: int
    split: Split | Literal["by_text"] = "by_text"
    text: int | str = 0
    en: int | str = 1
    fields: int = 1


@dataclass
class RowBatch:
    """Rows as read: ids and texts of the readable ones; id and reason of the others.

    Toyworld has one source name per phrasing.
    """

    ids: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    en: list[str] = field(default_factory=list)
    dropped: list[tuple[str, str]] = field(default_factory=list)

    @property
    def rows(self) -> int:
        return len(self.ids) + len(self.dropped)


def row_id(source: str, number: int) -> str:
    return f"{source}:{number:09d}"


def batches(source: str, first_row: int, rows: Iterable[Row]) -> Iterator[RowBatch]:
    """Numbers and decodes the rows of a part, in batches of at most BATCH_ROWS rows and about
    BATCH_BYTES bytes.
    """
    batch, size = RowBatch(), 0
    for number, row in enumerate(rows, first_row):
        id = row_id(source, number)
        if isinstance(row, str):
            batch.dropped.append((id, row))
        elif row[0] is None or row[1] is None:
            batch.dropped.append((id, "null"))
        else:
            size += len(row[0]) + len(row[1])
            try:
                text, en = row[0].decode("utf-8"), row[1].decode("utf-8")
            except UnicodeDecodeError:
                batch.dropped.append((id, "invalid_utf8"))
            else:
                for column, value in zip(
                    (batch.ids, batch.sources, batch.text, batch.en),
                    (id, source, text, en),
                    strict=True,
                ):
                    column.append(value)
        if batch.rows == BATCH_ROWS or size > BATCH_BYTES:
            yield batch
            batch, size = RowBatch(), 0
    yield batch


def cut(total: int, part_rows: int) -> Iterator[tuple[int, int]]:
    """First row, and row after the last, of each part of `total` rows."""
    for start in range(0, total, part_rows):
        yield start, min(start + part_rows, total)
