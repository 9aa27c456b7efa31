"""Lists of tags: CSV, TSV, YAML and Parquet.

A list is small, the largest published one has 151,431 tags, so it is read in order, once to count
its rows. A row is a tag beside one of its names, in one of its spellings
(corpora/sources/tag_names.py): a line may give several, and at least a drop.

CSV is read line by line: no tag holds a line break, and a stray quotation mark then costs its own
line and not the rest of the file.
"""

import csv
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import pyarrow as pa

from configs.errors import DataError, RecipeError
from configs.schema import yaml12
from configs.schema.sources import TagsSource
from corpora.sources import content, files, lines, parquet, part, tag_names, tsv
from corpora.sources.part import Part, Row, cut

COMPRESSED = re.compile(r"\.(?:gz|zst|xz|bz2)$", re.IGNORECASE)
FORMATS = {".csv": "csv", ".tsv": "tsv", ".yaml": "yaml", ".yml": "yaml", ".parquet": "parquet"}
TAGS = "tags"  # the key of YAML's groups that holds them
TEXT, EN = "other_names", "title"  # columns of p1atdev/danbooru-ja-tag-pair-20241015

# a tag and its names, or the reason why the line has none
Entry = tuple[str, Sequence[str]] | str


def plan(source: TagsSource, number: int, path: str, first_row: int) -> Iterator[Part]:
    """Counts the rows of one list.

    Raises RecipeError for a missing column or an unknown format, DataError for another shape.
    """
    for start, stop in cut(sum(1 for _ in _rows(source, path)), part.STREAM_PART_ROWS):
        yield Part(number, (path,), (start,), (stop,), first_row + start, stop - start)


def read(source: TagsSource, part: Part) -> Iterator[Row]:
    return islice(_rows(source, part.paths[0]), part.start[0], part.stop[0])


def _rows(source: TagsSource, path: str) -> Iterator[Row]:
    for entry in _entries(source, path):
        if isinstance(entry, str):
            yield entry
            continue
        for pair in tag_names.pairs(*entry, source.most_names):
            # half a surrogate pair, which YAML can write, is counted as invalid when decoded
            yield pair if isinstance(pair, str) else _bytes(*pair)


def _bytes(name: str, tag: str) -> tuple[bytes, bytes]:
    return name.encode("utf-8", "surrogatepass"), tag.encode("utf-8", "surrogatepass")


def _entries(source: TagsSource, path: str) -> Iterator[Entry]:
    kind = source.format or FORMATS.get(_ending(source.member or path))
    if kind is None:
        raise RecipeError(
            f"{path}: its name does not end with {', '.join(FORMATS)}; say with `format` what "
            f"source {source.name!r} is"
        )
    if kind == "parquet":
        return _of_parquet(source, path)
    return _of_yaml(source, path) if kind == "yaml" else _of_lines(source, path, kind == "csv")


def _ending(name: str) -> str:
    return "." + COMPRESSED.sub("", name).rpartition(".")[2].lower()


def _of_lines(source: TagsSource, path: str, quoted: bool) -> Iterator[Entry]:
    with files.opened(path, source.member) as stream:
        head = files.head_of(stream)
        content.refuse_encoding(head, path)
        content.refuse_markup(head, path, source.name)
        if not head:
            return  # the caller reports the empty file
        reader = lines.Reader(stream, len(lines.BOM) if head.startswith(lines.BOM) else 0)
        first = reader.line() if source.header else None
        header = None if first is None else _fields(first, quoted)
        most = _most_fields(head, quoted) if header is None else len(header)
        named = (1 if source.text is None else source.text, 0 if source.en is None else source.en)
        text, en = (tsv.column(source.name, path, one, header, most) for one in named)
        while stream.peek(1):
            line = reader.line()
            yield "too_long" if line is None else _entry(_fields(line, quoted), text, en, source)


def _fields(line: bytes, quoted: bool) -> list[bytes]:
    """None of them for a line whose quotation marks do not match."""
    if not quoted:
        return line.split(b"\t")
    try:
        # Latin-1 keeps every byte, so a broken text costs its own line
        (fields,) = csv.reader([line.decode("latin-1")], strict=True)
    except (csv.Error, ValueError):
        return []
    return [field.encode("latin-1") for field in fields]


def _most_fields(head: bytes, quoted: bool) -> int:
    some = head.split(b"\n")
    return max(len(_fields(line.removesuffix(b"\r"), quoted)) for line in some[:-1] or some)


def _entry(fields: list[bytes], text: int, en: int, source: TagsSource) -> Entry:
    if len(fields) <= max(text, en):
        return "ragged"
    return _decoded(fields[en], [fields[text]], source.separator)


def _decoded(tag: bytes | None, names: Sequence[bytes | None], separator: str = "") -> Entry:
    """`separator`: between names in one text; "": there is none."""
    if tag is None:
        return "null"
    try:
        found = [name.decode("utf-8") for name in names if name is not None]
        if separator:
            found = [one for name in found for one in name.split(separator)]
        return tag.decode("utf-8"), found
    except UnicodeDecodeError:
        return "invalid_utf8"


def _of_parquet(source: TagsSource, path: str) -> Iterator[Entry]:
    with parquet.opened(path) as file:
        if not file.metadata.num_rows:
            return
        schema = file.schema_arrow
        listed = pa.schema(
            [one.with_type(one.type.value_type) if _is_list(one.type) else one for one in schema]
        )
        named = (
            TEXT if source.text is None else source.text,
            EN if source.en is None else source.en,
        )
        text = parquet.text_column(listed, named[0], path, source.name)
        en = parquet.text_column(schema, named[1], path, source.name)
        groups = range(file.metadata.num_row_groups)
        for batch in parquet.batches(file, path, groups, [text, en]):
            names, separator = _lists(batch, text, source.separator)
            for tag, own in zip(parquet.texts(batch, en), names, strict=True):
                yield _decoded(tag, own, separator)


def _is_list(kind: pa.DataType) -> bool:
    types = pa.types
    return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)


def _lists(
    batch: pa.RecordBatch, column: str, separator: str
) -> tuple[list[list[bytes | None]], str]:
    """A list of texts a row, and what separates the names in each: nothing in lists."""
    if column not in batch.schema.names or not _is_list(batch.schema.field(column).type):
        return [[text] for text in parquet.texts(batch, column)], separator
    found = batch.column(column).cast(pa.large_list(pa.large_binary())).to_pylist()
    return [one or [] for one in found], ""


def _of_yaml(source: TagsSource, path: str) -> Iterator[Entry]:
    with files.opened(path, source.member) as stream:
        content.refuse_encoding(files.head_of(stream), path)
        lines.start_of_text(stream)
        text = stream.read(4 * yaml12.LONGEST + 1).decode("utf-8", "replace")
    try:
        tree = yaml12.read(text)
    except ValueError as error:
        raise DataError(f"{path}: not valid YAML{error}; correct it, or fetch it again") from None
    groups = list(_groups(tree))
    if not groups:
        raise DataError(
            f"{path}: holds no key `{TAGS}` with TAG: NAME below it (source {source.name!r}); "
            "take a file of group tags, or another `format`"
        )
    for group in groups:
        for tag, name in group.items():
            yield _of_group(tag, name, source.separator)


def _groups(tree: Any) -> Iterator[dict[Any, Any]]:
    """The mappings below a key `tags`, at any depth, or the mappings that a list there holds."""
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(_listed(tree)):
        if key == TAGS:
            yield from (one for one in (value, *_listed(value)) if isinstance(one, dict))
        else:
            yield from _groups(value)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _of_group(tag: Any, name: Any, separator: str) -> Entry:
    names = name if isinstance(name, list) else [name]
    if name is None or tag is None:
        return "null"
    if not isinstance(tag, str) or not all(isinstance(one, str) for one in names):
        return "not_text"
    return tag, names if names is name else [one for text in names for one in text.split(separator)]
