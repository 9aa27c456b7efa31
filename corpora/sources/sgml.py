"""Test sets of WMT and IWSLT in SGML: one file per language, one `<seg id="…">` per text.

They look like XML but often are not (a bare `&`, ids without quotes), so the segments are found by
their tags. The two files must hold the same segments in the same order: a different `doc` or id
means two releases, and raises DataError.
"""

import html
import re
from collections.abc import Iterator
from itertools import zip_longest

from configs.errors import DataError
from corpora.sources import content, files
from corpora.sources.part import MAX_TEXT_BYTES, Row

DOC = re.compile(rb"<doc\b[^>]*?\bdocid\s*=\s*[\"']?([^\"'>]*)", re.I)
SEGMENT = re.compile(rb"<seg\b[^>]*>", re.I)
ID = re.compile(rb"\bid\s*=\s*[\"']?([^\"'>\s]*)", re.I)
END = re.compile(rb"</seg\s*>", re.I)

Place = tuple[str, str | None]  # a path, and an archive's member
# (document id, segment id) and text; None: too long
Segment = tuple[tuple[bytes, bytes], bytes | None]


def both(places: list[Place], heads: list[bytes]) -> bool:
    """Whether the two files are SGML. Raises DataError if only one is."""
    found = [content.root(head) in content.SGML for head in heads]
    if found[0] != found[1]:
        ours, other = (places[number][0] for number in (found.index(True), found.index(False)))
        raise DataError(
            f"{ours}: is SGML, and {other} is plain text; give both files as SGML, or both as text"
        )
    return found[0]


def rows(places: list[Place]) -> Iterator[Row]:
    """The segments of both files side by side. Raises DataError if they differ."""
    for text, en in zip_longest(*(_segments(*place) for place in places)):
        if text is None or en is None or text[0] != en[0]:
            shown = [_named(one) for one in (text, en)]
            raise DataError(
                f"{places[0][0]}: {shown[0]} stands beside {shown[1]} of {places[1][0]}; "
                "take two files of one release, unaltered"
            )
        yield "too_long" if text[1] is None or en[1] is None else (text[1], en[1])


def _segments(path: str, member: str | None) -> Iterator[Segment]:
    """A segment that spans lines is joined by spaces."""
    document, id, pieces = b"", b"", list[bytes]()
    inside = False
    with files.opened(path, member) as stream:
        while line := stream.readline(MAX_TEXT_BYTES):
            if not inside and (found := DOC.search(line)):
                document = found[1]
            while line:
                if not inside:
                    if not (found := SEGMENT.search(line)):
                        break
                    named = ID.search(found[0])
                    id, pieces, inside = named[1] if named else b"", [], True
                    line = line[found.end() :]
                end = END.search(line)
                pieces.append(line[: end.start()] if end else line)
                line = line[end.end() :] if end else b""
                if end:
                    inside = False
                    yield (document, id), _text(pieces)
                elif sum(map(len, pieces)) > MAX_TEXT_BYTES:
                    pieces = [b"\0" * MAX_TEXT_BYTES]  # only its length still matters
    if inside:
        raise DataError(
            f"{path}: ends within {_named(((document, id), b''))}; fetch the file again"
        )


def _text(pieces: list[bytes]) -> bytes | None:
    if sum(map(len, pieces)) >= MAX_TEXT_BYTES:
        return None
    text = b" ".join(piece.strip() for piece in pieces).strip()
    # undecodable bytes are kept: part.batches counts such a row as invalid_utf8
    return html.unescape(text.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")


def _named(segment: Segment | None) -> str:
    if segment is None:
        return "no segment"
    document, id = (one.decode("utf-8", "replace") for one in segment[0])
    return f"segment {id!r} of document {document!r}"
