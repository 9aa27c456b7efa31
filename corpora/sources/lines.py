"""Lines of one text file, or of two aligned ones: where to cut the file, and how to read it.

Only a line feed ends a line: U+2028, a bare carriage return and the like are text. A carriage
return before the line feed and a byte-order mark at the start are removed.
"""

import io
import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from configs.errors import DataError
from corpora.sources import files, part

CHUNK_BYTES = 1 << 20
BOM = b"\xef\xbb\xbf"
# IWSLT and WMT put such elements between the texts, each on a line of its own.
TAGS = (
    rb"url|keywords|speaker|talkid|title|description|reviewer|translator|doc|docid|srcset|refset"
    rb"|tstset|mteval"
)
HEADER_LINE = re.compile(
    rb"\s*(?:<(%s)\b[^>]*>.*</\1>|</?(?:%s)\b[^>]*>)\s*" % (TAGS, TAGS), re.I | re.S
)
TAG = ord("<")  # searched in every line: a number is seven times as fast as b"<"
HEADER = "header_line"  # drop reason


@dataclass(frozen=True)
class Cuts:
    """`offsets`: byte offsets after every `part_rows`-th line and after the last; `rows`: how many
    lines there are.
    """

    offsets: list[int]
    rows: int
    part_rows: int


def start_of_text(stream: io.BufferedReader) -> int:
    """Skips a byte-order mark; returns how many bytes it has."""
    return len(stream.read(len(BOM))) if stream.peek(len(BOM))[: len(BOM)] == BOM else 0


def is_header(line: bytes) -> bool:
    return b"<" in line[:20] and HEADER_LINE.fullmatch(line) is not None


def cuts(stream: io.BufferedReader, position: int) -> Cuts:
    """Counts the lines from `position`, the stream's current offset, to its end, without
    decoding.
    """
    part_rows = part.PART_ROWS if stream.seekable() else part.STREAM_PART_ROWS
    start, rows, last, offsets = position, 0, b"\n", list[int]()
    while chunk := stream.read(CHUNK_BYTES):
        count = chunk.count(b"\n")
        if rows // part_rows < (rows + count) // part_rows:
            ends = np.flatnonzero(np.frombuffer(chunk, np.uint8) == ord("\n"))
            offsets += (position + 1 + ends[part_rows - 1 - rows % part_rows :: part_rows]).tolist()
        rows, position, last = rows + count, position + len(chunk), chunk[-1:]
    rows += last != b"\n"  # the last line may lack its line feed
    if position > (offsets[-1] if offsets else start):
        offsets.append(position)
    return Cuts(offsets, rows, part_rows)


def read(places: list[tuple[str, str | None]], piece: part.Part) -> Iterator[list[bytes | None]]:
    """The lines of each file side by side, without line ends; None for one longer than
    MAX_TEXT_BYTES. A place is a path and an archive's member.

    Raises DataError if the lines do not end where they did at planning.
    """
    with ExitStack() as stack:
        readers = [
            Reader(stack.enter_context(files.opened(*place)), start)
            for place, start in zip(places, piece.start, strict=True)
        ]
        for _ in range(piece.rows):
            yield [reader.line() for reader in readers]
        for reader, (path, _), stop in zip(readers, places, piece.stop, strict=True):
            if reader.position != stop:
                raise DataError(
                    f"{path}: changed while it was being read; run again and leave it alone"
                )


class Reader:
    """Lines from a byte offset on; a stream that cannot seek is read up to there."""

    def __init__(self, stream: io.BufferedReader, position: int) -> None:
        self.stream, self.position = stream, position
        if stream.seekable():
            stream.seek(position)
        else:
            while position and (chunk := stream.read(min(CHUNK_BYTES, position))):
                position -= len(chunk)

    def line(self) -> bytes | None:
        line = self.stream.readline(part.MAX_TEXT_BYTES)
        self.position += len(line)
        if len(line) < part.MAX_TEXT_BYTES or line.endswith(b"\n"):
            return line.removesuffix(b"\n").removesuffix(b"\r")
        while line and not line.endswith(b"\n"):
            line = self.stream.readline(part.MAX_TEXT_BYTES)
            self.position += len(line)
        return None
