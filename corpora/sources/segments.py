"""Streaming XML: expat calls a reader and builds no tree, so memory holds one unit of text.

A file that declares entities is refused, so none can expand into gigabytes; nothing outside the
file is fetched. XML has no half-broken rows: invalid UTF-8 or a missing end tag ends the file with
a one-line error that gives its position.
"""

import html
import re
from collections import Counter
from collections.abc import Iterator
from typing import Protocol
from xml.parsers import expat

from configs.errors import DataError
from configs.languages import ENGLISH_NAMES, LANGUAGES
from corpora.sources import files
from corpora.sources.part import MAX_TEXT_BYTES, Row

CHUNK_BYTES = 1 << 16
# tools write ISO 639-2 codes, country codes and language names
CODES = {name: one.code for one in LANGUAGES.values() for name in one.names} | dict.fromkeys(
    ENGLISH_NAMES, "en"
)


class SegmentReader(Protocol):
    """Collects rows as they become complete, and counts the texts of each language."""

    code: str  # of the student's language
    rows: list[Row]
    languages: Counter[str]

    def start(self, tag: str, attributes: dict[str, str]) -> None: ...

    def end(self, tag: str) -> None: ...

    def text(self, text: str) -> None: ...


class Text:
    """The characters between two tags, as UTF-8."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.length = 0

    def add(self, text: str) -> None:
        piece = text.encode()
        self.length += len(piece)
        if self.length <= MAX_TEXT_BYTES:
            self.pieces.append(piece)

    def whole(self) -> bytes | None:
        """None if it is longer than MAX_TEXT_BYTES."""
        return b"".join(self.pieces) if self.length <= MAX_TEXT_BYTES else None


def language(attributes: dict[str, str]) -> str:
    """`ja` for `ja-JP`, `JA_jp`, `jpn`, `Japanese` and `ja`; another language's code in lower case,
    "" if there is none.
    """
    code = attributes.get("xml:lang") or attributes.get("lang") or ""
    primary = re.split(r"[-_ (.]", code.strip(), maxsplit=1)[0].lower()
    return CODES.get(primary, primary)


def row(text: Text | None, en: Text | None) -> Row:
    if text is None or en is None:
        return "missing_side"
    texts = text.whole(), en.whole()
    return "too_long" if None in texts else texts


def read(path: str, member: str | None, reader: SegmentReader) -> Iterator[Row]:
    """The reader's rows, in file order.

    Raises DataError for malformed XML, and at the end if no row had both languages.
    """
    rows = complete = 0

    def refuse(name: str, *_: object) -> None:
        raise DataError(
            f"{path}: line {parser.CurrentLineNumber} declares the entity {name!r}; XML from "
            "strangers may not, take that line out"
        )

    def skipped(name: str, is_parameter: bool) -> None:
        if not is_parameter:
            reader.text(html.unescape(f"&{name};"))  # such as &nbsp;, from an external DTD

    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = (
        reader.start,
        reader.end,
        reader.text,
    )
    parser.EntityDeclHandler, parser.SkippedEntityHandler = refuse, skipped
    with files.opened(path, member) as stream:
        while True:
            chunk = stream.read(CHUNK_BYTES)
            try:
                parser.Parse(chunk, not chunk)
            except DataError:
                raise
            # ValueError, LookupError: an encoding that expat cannot read
            except (expat.ExpatError, ValueError, LookupError) as error:
                raise DataError(
                    f"{path}: no well-formed XML ({files.one_line(error)}); fetch the file again, "
                    "or convert it to UTF-8"
                ) from None
            rows += len(reader.rows)
            complete += sum(one != "missing_side" for one in reader.rows)
            yield from reader.rows
            reader.rows.clear()
            if not chunk:
                break
    if rows and not complete:
        there = ", ".join(
            f"{code or 'none'} ({count:,})" for code, count in reader.languages.most_common(8)
        )
        raise DataError(
            f"{path}: none of its {rows:,} units has both {reader.code} and en; its "
            f"languages are {there}"
        )
