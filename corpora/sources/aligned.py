"""Two text files whose lines say the same, one in each language: OPUS's Moses format and WMT's plain test sets.

Two files, or an archive that holds both; out of an archive each side is streamed by itself.
"""

from collections.abc import Iterator

from configs.errors import DataError
from configs.sources import MosesSource, WmtTestSource
from corpora.sources import files, lines
from corpora.sources.part import Part, Row


def plan(source: MosesSource | WmtTestSource, number: int, paths: tuple[str, ...], first_row: int) -> Iterator[Part]:
    """Cuts one couple of files where both have as many lines behind them. Raises DataError when one has more lines than the other."""
    starts, found = [], []
    for path, member in _places(source, paths):
        with files.opened(path, member) as stream:
            starts.append(lines.start_of_text(stream))
            found.append(lines.cuts(stream, starts[-1]))
    ja, en = found
    if ja.rows != en.rows:
        raise DataError(
            f"{paths[0]}: {ja.rows} Japanese lines, but {en.rows} English ones (source {source.name!r}); take two files of one release, unaltered"
        )
    # where one side can be entered anywhere and the other cannot, the longer parts are multiples of the shorter
    rows = max(ja.part_rows, en.part_rows)
    assert rows % ja.part_rows == rows % en.part_rows == 0
    start = tuple(starts)
    for done in range(0, ja.rows, rows):
        stop = tuple(side.offsets[min((done + rows) // side.part_rows, len(side.offsets)) - 1] for side in found)
        yield Part(number, paths, start, stop, first_row + done, min(rows, ja.rows - done))
        start = stop


def read(source: MosesSource | WmtTestSource, part: Part) -> Iterator[Row]:
    for ja, en in lines.read(_places(source, part.paths), part):
        yield "too_long" if ja is None or en is None else (ja, en)


def _places(source: MosesSource | WmtTestSource, paths: tuple[str, ...]) -> list[tuple[str, str | None]]:
    if len(paths) == 2:
        return [(path, None) for path in paths]
    assert isinstance(source, MosesSource)
    return [(paths[0], source.ja_member), (paths[0], source.en_member)]
