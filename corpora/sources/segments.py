"""XML, streamed: expat calls a reader, no tree is built, so memory holds one unit of text at a time.

Entities that a file declares itself are refused, so none can expand into gigabytes; nothing outside the file is ever fetched. XML has no half-broken
rows: a byte that is no UTF-8 or no end tag ends the file, told in one line with its place.
"""

import html
from collections.abc import Iterator
from typing import Protocol
from xml.parsers import expat

from configs.errors import DataError
from corpora.sources import files
from corpora.sources.part import MAX_TEXT_BYTES, Row

CHUNK_BYTES = 1 << 16


class Reader(Protocol):
    """Rows as they become complete."""

    rows: list[Row]

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
        """None if it is too long to be a caption."""
        return b"".join(self.pieces) if self.length <= MAX_TEXT_BYTES else None


def language(attributes: dict[str, str]) -> str:
    """`ja` of `ja-JP`, `JA_jp` or `ja`."""
    code = attributes.get("xml:lang") or attributes.get("lang") or ""
    return code.replace("_", "-").partition("-")[0].lower()


def row(ja: Text | None, en: Text | None) -> Row:
    if ja is None or en is None:
        return "missing_side"
    texts = ja.whole(), en.whole()
    return "too_long" if None in texts else texts


def read(path: str, member: str | None, reader: Reader) -> Iterator[Row]:
    """The reader's rows, in the order of the file. Raises DataError where the file is no well-formed XML."""

    def refuse(name: str, *_: object) -> None:
        raise DataError(f"{path}: line {parser.CurrentLineNumber} declares the entity {name!r}; XML from strangers may not, take that line out")

    def skipped(name: str, is_parameter: bool) -> None:
        if not is_parameter:
            reader.text(html.unescape(f"&{name};"))  # &nbsp; of a DTD that lies elsewhere

    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = reader.start, reader.end, reader.text
    parser.EntityDeclHandler, parser.SkippedEntityHandler = refuse, skipped
    with files.opened(path, member) as stream:
        while True:
            chunk = stream.read(CHUNK_BYTES)
            try:
                parser.Parse(chunk, not chunk)
            except DataError:
                raise
            except (expat.ExpatError, ValueError, LookupError) as error:  # the last two: an encoding expat cannot read
                raise DataError(f"{path}: no well-formed XML ({files.one_line(error)}); fetch the file again, or convert it to UTF-8") from None
            yield from reader.rows
            reader.rows.clear()
            if not chunk:
                return
