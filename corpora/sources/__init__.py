"""Corpus sources: our own worlds, TSV, Moses, TMX, WMT's test sets, Parquet, lists of tags, the
Hugging Face Hub. One file per format; this one dispatches.

In:  the recipe's `corpora.sources` (configs/schema/sources.py).
Out: `Part`s, each readable by a worker alone, and their rows in order. Every row is counted: it
     becomes a pair or a drop with a reason.

Planning counts the rows before any text is decoded: from the footer of a Parquet file, by line
feeds in a text file, in one streaming pass over a compressed or XML file or a dataset of the Hub
(1.7 million rows of gzip a second, 90,000 units of TMX; take the Moses files of a larger corpus).
So no worker or interruption changes a row's id, the progress bar knows its total, and a file that
changes meanwhile is noticed.
"""

from collections import Counter
from collections.abc import Iterator
from itertools import islice

from tqdm import tqdm

from configs.errors import DataError, RecipeError
from configs.schema.corpora import Corpora
from configs.schema.sources import (
    HubSource,
    MosesSource,
    ParquetSource,
    Source,
    TagsSource,
    TmxSource,
    TsvSource,
    WmtTestSource,
    WorldSource,
)
from corpora.pair import Input
from corpora.sources import (
    aligned,
    files,
    hub,
    pairing,
    parquet,
    part,
    tags,
    tmx,
    tsv,
    wmt_test,
    world,
)
from corpora.sources.part import Part, Row, RowBatch, batches, cut

WORLDS_LICENCE = "Apache-2.0"
FEWEST_SWAPPED = 3  # rows; fewer are no evidence that the columns are swapped


def name(source: Source) -> str:
    return source.kind if isinstance(source, WorldSource) else source.name


def licence(source: Source) -> str:
    return WORLDS_LICENCE if isinstance(source, WorldSource) else source.licence


def inputs(corpora: Corpora) -> list[Input]:
    """Every file of the sources, with its digest.

    Raises DataError for a missing file, RecipeError for two sources of one name.
    """
    names = Counter(map(name, corpora.sources))
    twice = [one for one, count in names.items() if count > 1]
    if twice:
        raise RecipeError(
            f"corpora.sources: {names[twice[0]]} sources are called {twice[0]!r}, their ids would "
            "clash; give each its own name"
        )
    result: list[Input] = []
    for source in corpora.sources:
        if isinstance(source, HubSource):
            result.append(hub.identity(source))
        else:
            listed = [path for file_set in _file_sets(source) for path in file_set]
            result += [
                Input(
                    source=name(source),
                    path=path,
                    bytes=files.size(path),
                    sha256=files.digest(path),
                )
                for path in listed
            ]
    return result


def plan(corpora: Corpora) -> list[Part]:
    """Splits every source into parts and counts their rows, without decoding texts. Held-out parts
    come first: of two equal rows the first is kept.

    Raises DataError for an empty or unreadable file, RecipeError for a missing column.
    """
    parts: list[Part] = []
    with tqdm(desc="count", unit="rows", unit_scale=True, leave=False) as bar:
        for number, source in enumerate(corpora.sources):
            first_row, parts_before = 0, len(parts)
            for file_set in (
                [()] if isinstance(source, WorldSource | HubSource) else _file_sets(source)
            ):
                new_parts = []
                for new_part in _plan(source, number, file_set, first_row):
                    new_parts.append(new_part)
                    bar.update(new_part.rows)
                first_row += sum(new_part.rows for new_part in new_parts)
                parts += new_parts
            # an empty file among others is normal: Spark writes one per task
            if len(parts) == parts_before:
                raise DataError(
                    f"{' '.join(_given(source)) or name(source)}: it holds no rows; take it out of "
                    "the recipe, or fetch it again"
                )
            if not isinstance(source, WorldSource):
                _refuse_exchanged(
                    source,
                    next(
                        batches(
                            source.name,
                            parts[parts_before].first_row,
                            _rows(source, parts[parts_before]),
                        )
                    ),
                )
    return sorted(parts, key=lambda part: part.split != "held_out")


def read(source: Source, part: Part) -> Iterator[RowBatch]:
    """The rows of one part, in order, in batches of at most BATCH_ROWS.

    Raises DataError if the file has changed since planning.
    """
    rows = 0
    for batch in (
        world.read(source, part)
        if isinstance(source, WorldSource)
        else batches(source.name, part.first_row, _rows(source, part))
    ):
        rows += batch.rows
        yield batch
    if rows != part.rows:
        where = " ".join(part.paths) or name(source)
        raise DataError(
            f"{where}: changed while it was being read ({rows} rows where {part.rows} were "
            "counted); run again and leave it alone"
        )


def local_paths(source: Source) -> list[str]:
    """The source's local files that exist now, those of a glob in alphabetical order."""
    return [
        path for given in _given(source) if not files.is_url(given) for path in files.found(given)
    ]


def _given(source: Source) -> list[str]:
    """The paths as written in the recipe: two for a source of two text files."""
    if isinstance(source, WorldSource | HubSource):
        return []
    if (
        isinstance(source, MosesSource | WmtTestSource)
        and source.text_path is not None
        and source.en_path is not None
    ):
        return [source.text_path, source.en_path]
    assert source.path is not None
    return [source.path]


def _file_sets(source: Source) -> list[tuple[str, ...]]:
    """The files that are read together: single files, or couples of aligned text files.

    Raises DataError if there are none, or if they cannot be paired.
    """
    found = [files.found(given) for given in _given(source)]
    for given, matches in zip(_given(source), found, strict=True):
        if not matches:
            raise DataError(
                f"{given}: there is no such file (source {name(source)!r}); fetch it, or correct "
                "the path in the recipe"
            )
    if len(found) < 2:
        return [(path,) for matches in found for path in matches]
    text_glob, en_glob = _given(source)
    language = source.text_language.name
    return pairing.couples((text_glob, en_glob), (found[0], found[1]), name(source), language)


def _refuse_exchanged(source: Source, batch: RowBatch) -> None:
    """Raises RecipeError if the English and the other language's column are swapped."""
    script, language = source.text_language.script, source.text_language.name
    swapped = sum(
        script.search(en) is not None and script.search(text) is None
        for text, en in zip(batch.text, batch.en, strict=True)
    )
    if swapped >= FEWEST_SWAPPED and swapped >= 0.8 * len(batch.text):
        shown = f"{batch.text[0][:20]!r} is read as {language} and {batch.en[0][:20]!r} as English"
        raise RecipeError(
            f"source {name(source)!r}: {language} and English are exchanged: {shown}; exchange the "
            "two in the recipe"
        )


def _plan(source: Source, number: int, paths: tuple[str, ...], first_row: int) -> Iterator[Part]:
    if isinstance(source, WorldSource):
        yield from world.plan(source, number)
    elif isinstance(source, HubSource):
        yield from hub.plan(source, number)
    elif isinstance(source, TsvSource):
        yield from tsv.plan(source, number, paths[0], first_row)
    elif isinstance(source, ParquetSource):
        yield from parquet.plan(source, number, paths[0], first_row)
    elif isinstance(source, TagsSource):
        yield from tags.plan(source, number, paths[0], first_row)
    elif isinstance(source, MosesSource) or len(paths) == 2:
        assert not isinstance(source, TmxSource)
        yield from aligned.plan(source, number, paths, first_row)
    else:
        # XML can only be read from its start; this counting pass also finds damage early
        for start, stop in cut(sum(1 for _ in _xml(source, paths[0])), part.STREAM_PART_ROWS):
            yield Part(number, paths, (start,), (stop,), first_row + start, stop - start)


def _rows(source: Source, part: Part) -> Iterator[Row]:
    if isinstance(source, HubSource):
        return hub.read(source, part)
    if isinstance(source, TsvSource):
        return tsv.read(source, part)
    if isinstance(source, ParquetSource):
        return parquet.read(source, part)
    if isinstance(source, TagsSource):
        return tags.read(source, part)
    if isinstance(source, MosesSource) or len(part.paths) == 2:
        assert isinstance(source, MosesSource | WmtTestSource)
        return aligned.read(source, part)
    assert isinstance(source, TmxSource | WmtTestSource)
    return islice(_xml(source, part.paths[0]), part.start[0], part.stop[0])


def _xml(source: TmxSource | WmtTestSource, path: str) -> Iterator[Row]:
    return tmx.read(source, path) if isinstance(source, TmxSource) else wmt_test.read(source, path)
