"""Two line-aligned text files, one per language: OPUS's Moses format and WMT's plain test sets.

They are two files or two members of one archive, each streamed by itself. Two SGML files, as in
WMT's older test sets, are aligned by their segments instead (corpora/sources/sgml.py).
"""

from collections.abc import Iterator
from itertools import islice

from configs.errors import DataError
from configs.schema.sources import MosesSource, WmtTestSource
from corpora.sources import content, files, lines, pairing, part, sgml
from corpora.sources.part import Part, Row, cut


def plan(
    source: MosesSource | WmtTestSource, number: int, paths: tuple[str, ...], first_row: int
) -> Iterator[Part]:
    """Cuts one couple of files at equal line numbers, or by rows if both are SGML.

    Raises DataError if the line counts differ, a file is not UTF-8, or an archive's two members are
    from different corpora.
    """
    places = _places(source, paths)
    starts, heads, found = [], [], []
    names: list[str] = []
    for path, member in places:
        with files.opened(path, member) as stream:
            heads.append(files.head_of(stream))
            content.refuse_encoding(heads[-1], path)
            names += filter(None, [files.member_name(stream)])
            starts.append(lines.start_of_text(stream))
            found.append(lines.cuts(stream, starts[-1]))
    if names:
        assert isinstance(source, MosesSource)
        pairing.check_members(paths[0], source.members, names)
    if sgml.both(places, heads):
        for first, last in cut(sum(1 for _ in sgml.rows(places)), part.STREAM_PART_ROWS):
            yield Part(number, paths, (first,), (last,), first_row + first, last - first)
        return
    for (path, _), head in zip(places, heads, strict=True):
        content.refuse_markup(head, path, source.name)
    text, en = found
    if text.rows != en.rows:
        raise DataError(
            f"{paths[0]}: {text.rows} {source.text_language.name} lines, but {en.rows} English "
            f"ones (source {source.name!r}); take two files of one release, unaltered"
        )
    # A seekable file's parts are shorter than a stream's, whose length is a multiple of theirs.
    rows = max(text.part_rows, en.part_rows)
    assert rows % text.part_rows == rows % en.part_rows == 0
    start = tuple(starts)
    for done in range(0, text.rows, rows):
        stop = tuple(
            side.offsets[min((done + rows) // side.part_rows, len(side.offsets)) - 1]
            for side in found
        )
        yield Part(number, paths, start, stop, first_row + done, min(rows, text.rows - done))
        start = stop


def read(source: MosesSource | WmtTestSource, piece: Part) -> Iterator[Row]:
    places = _places(source, piece.paths)
    if len(piece.start) == 1:  # SGML
        yield from islice(sgml.rows(places), piece.start[0], piece.stop[0])
        return
    for text, en in lines.read(places, piece):
        if text is None or en is None:
            yield "too_long"
        elif (lines.TAG in text or lines.TAG in en) and (
            lines.is_header(text) or lines.is_header(en)
        ):
            yield lines.HEADER
        else:
            yield text, en


def _places(
    source: MosesSource | WmtTestSource, paths: tuple[str, ...]
) -> list[tuple[str, str | None]]:
    if len(paths) == 2:
        return [(path, None) for path in paths]
    assert isinstance(source, MosesSource)
    return [(paths[0], member) for member in source.members]
