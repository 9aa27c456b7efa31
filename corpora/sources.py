"""Where pairs come from: the scenes of toyworld, TSV files and parquet files.

In:  the recipe's `corpora.sources`. A TSV is UTF-8, one row a line feed, fields parted by tabs, nothing quoted: its bytes are split here,
     because csv, pandas and `datasets` lose rows (texts "NA" and "null", a bare carriage return, one leading quotation mark).
Out: `Part`s, pieces of a source that can be read alone, and their rows. Every row is counted: it becomes a pair or a counted drop.
"""

import glob
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from configs.command import DataError
from configs.files import file_sha256
from configs.schema import Corpora, FileSource, RecipeError, ToyworldSource
from corpora.pair import SPLITS, Input, Split
from corpora.toyworld import captions

PART_BYTES = 8 << 20  # of a TSV: some 60,000 rows, seconds of work, so little is done twice after an interruption
PART_ROWS = 50_000  # of a parquet file
BATCH_ROWS = 2048
MAX_LINE_BYTES = 1 << 20  # a longer line is dropped without ever being held in memory
TOYWORLD_LICENCE = "Apache-2.0"


@dataclass(frozen=True)
class Part:
    """Rows from `start` to `stop`: byte offsets of a TSV, row groups of a parquet file, rows of toyworld.

    `first_row` numbers the first of them within the source; `fields` is how many a row of a TSV has.
    """

    source: int
    path: str
    start: int
    stop: int
    first_row: int
    rows: int
    split: Split | Literal["by_text"]
    ja: int | str = 0
    en: int | str = 1
    fields: int = 2


@dataclass
class Batch:
    """Rows as read: those whose two texts could be read, and how many could not, by reason. Toyworld is one source a phrasing."""

    ids: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    ja: list[str] = field(default_factory=list)
    en: list[str] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)

    @property
    def rows(self) -> int:
        return len(self.ids) + self.dropped.total()

    def add(self, id: str, source: str, ja: bytes | None, en: bytes | None) -> None:
        """Decodes one row, or counts why it cannot be."""
        if ja is None or en is None:
            self.dropped["null"] += 1
            return
        try:
            row = id, source, ja.decode("utf-8"), en.decode("utf-8")
        except UnicodeDecodeError:
            self.dropped["invalid_utf8"] += 1
            return
        for column, value in zip((self.ids, self.sources, self.ja, self.en), row, strict=True):
            column.append(value)


def name(source: ToyworldSource | FileSource) -> str:
    return source.name if isinstance(source, FileSource) else "toyworld"


def licence(source: ToyworldSource | FileSource) -> str:
    return source.licence if isinstance(source, FileSource) else TOYWORLD_LICENCE


def inputs(corpora: Corpora) -> list[Input]:
    """Every file the sources name, with its digest. Raises DataError for one that is missing, RecipeError for two sources of one name."""
    names = Counter(map(name, corpora.sources))
    twice = [one for one, count in names.items() if count > 1]
    if twice:
        raise RecipeError(f"corpora.sources: {names[twice[0]]} sources are called {twice[0]!r}, their ids would clash; give each its own name")
    return [
        Input(source=source.name, path=path, bytes=Path(path).stat().st_size, sha256=file_sha256(Path(path)))
        for source in corpora.sources
        if isinstance(source, FileSource)
        for path in _paths(source)
    ]


def plan(corpora: Corpora) -> list[Part]:
    """Cuts every source into parts and counts its rows, without reading the texts. Held-out parts come first: of two equal rows the first is kept.

    Raises DataError for an empty or unreadable file and RecipeError for a column that is not there.
    """
    parts: list[Part] = []
    for number, source in enumerate(corpora.sources):
        if isinstance(source, ToyworldSource):
            parts.append(Part(number, "", 0, source.held_out_pairs, 0, source.held_out_pairs, "held_out"))
            parts.append(Part(number, "", 0, source.pairs, 0, source.pairs, "train"))
            continue
        first_row = 0
        for path in _paths(source):
            found = list((_plan_tsv if source.kind == "tsv" else _plan_parquet)(number, source, path, first_row))
            if not found:
                raise DataError(f"{path}: it holds no rows; take the file out of the recipe, or fetch it again")
            first_row += sum(part.rows for part in found)
            parts += found
    return sorted(parts, key=lambda part: part.split != "held_out")


def read(source: ToyworldSource | FileSource, part: Part) -> Iterator[Batch]:
    """The rows of one part, in order, in batches of at most BATCH_ROWS. Raises DataError when the file is not what it was at planning."""
    if isinstance(source, ToyworldSource):
        batches = _read_toyworld(source, part)
    else:
        batches = _read_tsv(source, part) if source.kind == "tsv" else _read_parquet(source, part)
    rows = 0
    for batch in batches:
        rows += batch.rows
        yield batch
    if rows != part.rows:
        raise DataError(f"{part.path}: changed while it was being read ({rows} rows where {part.rows} were counted); run again and leave it alone")


def files(source: ToyworldSource | FileSource) -> list[str]:
    """The files of a source that are there now: its path, or what its glob matches, in alphabetical order."""
    if isinstance(source, ToyworldSource):
        return []
    found = [source.path] if Path(source.path).is_file() else sorted(glob.glob(source.path, recursive=True))
    return [path for path in found if Path(path).is_file()]


def _paths(source: FileSource) -> list[str]:
    paths = files(source)
    if not paths:
        raise DataError(f"{source.path}: there is no such file (source {source.name!r}); fetch it, or correct the path in the recipe")
    return paths


def _read_toyworld(source: ToyworldSource, part: Part) -> Iterator[Batch]:
    assert part.split in SPLITS
    captioned = captions.pairs(part.rows, part.split, source.seed)
    for start in range(0, part.rows, BATCH_ROWS):
        found = list(islice(captioned, BATCH_ROWS))
        ids = [f"toyworld:{part.split}:{row:06d}" for row in range(start, start + len(found))]
        yield Batch(ids, [f"toyworld_{one.phrasing}" for one in found], [one.ja for one in found], [one.en for one in found])


def _plan_tsv(number: int, source: FileSource, path: str, first_row: int) -> Iterator[Part]:
    with _open(path) as file:
        start = 3 if file.read(3) == b"\xef\xbb\xbf" else 0  # a byte-order mark is no text
        file.seek(start)
        header = _fields(file.readline(MAX_LINE_BYTES)) if source.header else None
        start = file.tell()
        head = file.read(MAX_LINE_BYTES).split(b"\n")
        if head == [b""]:
            return  # no bytes, no rows: the caller says so
        file.seek(start)
        whole_lines = head[:-1] or head
        fields = len(header) if header is not None else Counter(line.count(b"\t") + 1 for line in whole_lines).most_common(1)[0][0]
        ja, en = (_tsv_column(source, path, wanted, header, fields) for wanted in (source.ja, source.en))
        rows, position, last = 0, start, b"\n"
        while chunk := file.read(min(MAX_LINE_BYTES, PART_BYTES)):
            position += len(chunk)
            line_feeds, last = chunk.count(b"\n"), chunk[-1:]
            rows += line_feeds
            if line_feeds and position - start >= PART_BYTES:
                cut = position - len(chunk) + chunk.rfind(b"\n") + 1
                yield Part(number, path, start, cut, first_row, rows, "by_text", ja, en, fields)
                start, first_row, rows = cut, first_row + rows, 0
        if position > start:
            rows += last != b"\n"  # the last line may lack its line feed
            yield Part(number, path, start, position, first_row, rows, "by_text", ja, en, fields)


def _tsv_column(source: FileSource, path: str, wanted: str | int, header: list[bytes] | None, fields: int) -> int:
    if isinstance(wanted, int):
        if 0 <= wanted < fields:
            return wanted
        raise RecipeError(f"{path}: there is no column number {wanted}, the rows have {fields} fields, from 0; correct source {source.name!r}")
    if header is None:
        raise RecipeError(f"{path}: without a header line a column is a number, not {wanted!r}; correct source {source.name!r}")
    names = [one.decode("utf-8", "replace") for one in header]
    if names.count(wanted) == 1:
        return names.index(wanted)
    shown = ", ".join(names)[:200]
    raise RecipeError(f"{path}: {names.count(wanted)} columns are called {wanted!r} among {shown!r}; correct source {source.name!r}")


def _fields(line: bytes) -> list[bytes]:
    return line.removesuffix(b"\n").removesuffix(b"\r").split(b"\t")


def _read_tsv(source: FileSource, part: Part) -> Iterator[Batch]:
    ja, en = int(part.ja), int(part.en)
    with _open(part.path) as file:
        file.seek(part.start)
        batch, size = Batch(), 0
        for row in range(part.first_row, part.first_row + part.rows):
            line = file.readline(MAX_LINE_BYTES)
            size += len(line)
            if len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
                while line and not line.endswith(b"\n"):
                    line = file.readline(MAX_LINE_BYTES)
                batch.dropped["too_long"] += 1
            else:
                fields = _fields(line)
                if len(fields) == part.fields:
                    batch.add(f"{source.name}:{row:09d}", source.name, fields[ja], fields[en])
                else:
                    batch.dropped["ragged"] += 1
            if batch.rows == BATCH_ROWS or size > PART_BYTES:
                yield batch
                batch, size = Batch(), 0
        yield batch
        if file.tell() != part.stop:
            raise DataError(f"{part.path}: changed while it was being read; run again and leave it alone")


def _plan_parquet(number: int, source: FileSource, path: str, first_row: int) -> Iterator[Part]:
    with _open_parquet(path) as file:
        schema = file.schema_arrow
        ja, en = (_parquet_column(source, path, wanted, schema) for wanted in (source.ja, source.en))
        start, rows = 0, 0
        for group in range(file.num_row_groups):
            rows += file.metadata.row_group(group).num_rows
            if rows >= PART_ROWS or (rows and group == file.num_row_groups - 1):
                yield Part(number, path, start, group + 1, first_row, rows, "by_text", ja, en)
                start, first_row, rows = group + 1, first_row + rows, 0


def _parquet_column(source: FileSource, path: str, wanted: str | int, schema: pa.Schema) -> str:
    names = schema.names
    column = names[wanted] if isinstance(wanted, int) and 0 <= wanted < len(names) else wanted
    if not isinstance(column, str) or names.count(column) != 1:
        shown = ", ".join(names)[:200]
        raise RecipeError(f"{path}: there is no one column {wanted!r} among {shown!r}; correct source {source.name!r}")
    kind = schema.field(column).type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind) or pa.types.is_null(kind)):
        raise RecipeError(f"{path}: column {column!r} holds {kind}, not text; correct source {source.name!r}")
    return column


def _read_parquet(source: FileSource, part: Part) -> Iterator[Batch]:
    row = part.first_row
    with _open_parquet(part.path) as file:
        groups = list(range(part.start, part.stop))
        batches = _damage_reported(part.path, file.iter_batches(batch_size=BATCH_ROWS, row_groups=groups, columns=[part.ja, part.en]))
        for rows in batches:
            batch = Batch()
            # as bytes: parquet does not promise that its texts are UTF-8, and Arrow would raise at the first that is not
            for ja, en in zip(_as_bytes(rows.column(part.ja)), _as_bytes(rows.column(part.en)), strict=True):
                batch.add(f"{source.name}:{row:09d}", source.name, ja, en)
                row += 1
            yield batch


def _as_bytes(column: pa.Array) -> list[bytes | None]:
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    result: list[bytes | None] = column.cast(pa.large_binary()).to_pylist()
    return result


def _open(path: str) -> Any:
    try:
        return open(path, "rb")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the file") from None


def _open_parquet(path: str) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise _damaged(path, error) from None


def _damage_reported(path: str, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    try:
        yield from batches
    except (OSError, pa.ArrowException) as error:
        raise _damaged(path, error) from None


def _damaged(path: str, error: Exception) -> DataError:
    return DataError(f"{path}: cannot be read as parquet ({str(error).splitlines()[0][:200]}); fetch the file again")
