"""What every kind of source is cut into and read as.

In:  a format's rows: the bytes of both texts, or the reason they cannot be read.
Out: `Part`, a piece of a source that can be read alone; `RowBatch`, rows numbered and decoded,
     every one a pair or a counted drop.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from corpora.pair import Split

# of a file that can be entered anywhere: seconds of work, so little is done twice after an
# interruption
PART_ROWS = 50_000
# Of a stream that can only be read from its start (compressed, in an archive, XML): each part reads
# over what lies before it. Measured on one core: 1.7 million rows of gzip or 90,000 units of TMX
# are read over in a second, 9,000 rows cleaned. So the 21 million rows of JParaCrawl take 42 parts
# of a minute, a tenth more work than one part would be, and all workers share them.
STREAM_PART_ROWS = 500_000
BATCH_ROWS = 2048
BATCH_BYTES = 8 << 20  # a batch ends early here, so that rows of a megabyte do not pile up
MAX_TEXT_BYTES = 1 << 20  # a longer line or text is dropped without ever being held in memory

Row = (
    tuple[bytes | None, bytes | None] | str
)  # the Japanese and the English text (None: null), or the reason to drop the row


@dataclass(frozen=True)
class Part:
    """Rows `first_row` to `first_row + rows` of a source, all of one file (`paths` holds two where
    a text file a language makes one source).

    `start` and `stop` are in the format's own measure: a byte offset a path for lines, row groups
    of a parquet file, rows of a file of XML or of a hub's shard. `text` and `en` are columns;
    `fields` is how many a row of a TSV has.
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
    """Rows as read: those whose two texts could be read, and id and reason of those that could not.

    Toyworld is one source a phrasing.
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
    """The first row and the row after the last of each part of `total` rows."""
    for start in range(0, total, part_rows):
        yield start, min(start + part_rows, total)
