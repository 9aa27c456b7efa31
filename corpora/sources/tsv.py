"""TSV files: UTF-8, one row per line feed, fields separated by tabs, no quoting.

Bytes are split here because csv, pandas and `datasets` lose rows (texts "NA" and "null", a bare
carriage return, one leading quotation mark).
"""

import re
from collections import Counter
from collections.abc import Iterator

from configs.errors import RecipeError
from configs.schema.sources import TsvSource
from corpora.sources import content, files, lines
from corpora.sources.part import MAX_TEXT_BYTES, Part, Row

# The Tanaka corpus writes `A: …` and `…#ID=1_2`; no other text ends with the latter.
TANAKA = re.compile(rb"\s*#ID=\d+(?:_\d+)?\s*$")
MARK = ord("#")
INDEX = "index_line"  # Tanaka's `B: ` lines list the words of the sentence above them


def plan(source: TsvSource, number: int, path: str, first_row: int) -> Iterator[Part]:
    """Cuts one file into parts in one pass over its bytes.

    Raises RecipeError for a missing column, DataError for another format.
    """
    with files.opened(path, source.member) as stream:
        beginning = files.head_of(stream)
        content.refuse_encoding(beginning, path)
        content.refuse_markup(beginning, path, source.name)
        start = lines.start_of_text(stream)
        first = stream.readline(MAX_TEXT_BYTES) if source.header else b""
        head = stream.peek(1)
        if not head:
            return  # the caller reports the empty file
        header = _fields(first) if source.header else None
        start += len(first)
        fields = len(header) if header is not None else _usual_fields(head)
        text, en = (column(source.name, path, wanted, header, fields) for wanted in source.columns)
        found = lines.cuts(stream, start)
    for count, stop in enumerate(found.offsets):
        done = count * found.part_rows
        rows = min(found.part_rows, found.rows - done)
        yield Part(
            number,
            (path,),
            (start,),
            (stop,),
            first_row + done,
            rows,
            text=text,
            en=en,
            fields=fields,
        )
        start = stop


def read(source: TsvSource, part: Part) -> Iterator[Row]:
    text, en = int(part.text), int(part.en)
    for (line,) in lines.read([(part.paths[0], source.member)], part):
        if line is None:
            yield "too_long"
            continue
        fields = line.split(b"\t")
        if len(fields) != part.fields:
            yield INDEX if line.startswith(b"B: ") else "ragged"
        elif lines.TAG in line and (lines.is_header(fields[text]) or lines.is_header(fields[en])):
            yield lines.HEADER
        elif MARK in line and (marked := TANAKA.search(fields[en])):
            yield fields[text].removeprefix(b"A: "), fields[en][: marked.start()]
        else:
            yield fields[text], fields[en]


def _fields(line: bytes) -> list[bytes]:
    return line.removesuffix(b"\n").removesuffix(b"\r").split(b"\t")


def _usual_fields(head: bytes) -> int:
    """The most frequent number of fields per line in `head`."""
    some = head.split(b"\n")
    return Counter(line.count(b"\t") + 1 for line in some[:-1] or some).most_common(1)[0][0]


def column(
    source: str, path: str, wanted: str | int, header: list[bytes] | None, fields: int
) -> int:
    """The number of a column of the source of that name, named or numbered. Raises RecipeError."""
    if isinstance(wanted, int):
        if 0 <= wanted < fields:
            return wanted
        raise RecipeError(
            f"{path}: there is no column number {wanted}, the rows have {fields} fields, from 0; "
            f"correct source {source!r}"
        )
    if header is None:
        raise RecipeError(
            f"{path}: without a header line a column is a number, not {wanted!r}; correct source "
            f"{source!r}"
        )
    names = [one.decode("utf-8", "replace") for one in header]
    if names.count(wanted) == 1:
        return names.index(wanted)
    shown = ", ".join(names)[:200]
    raise RecipeError(
        f"{path}: {names.count(wanted)} columns are called {wanted!r} among {shown!r}; correct "
        f"source {source!r}"
    )
