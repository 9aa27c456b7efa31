"""Rows of a data set that `datasets` streams: pictures in a column of its type Image."""

from collections.abc import Callable, Iterator
from typing import Any

from configs.schema.pictures import HubPictures
from corpora.captions.images import MAX_BYTES
from corpora.sources import files, hub
from finetune.pictures.sources.captioned import (
    MISSING,
    OUTSIDE,
    TOO_MANY_BYTES,
    CaptionedPicture,
    NotThere,
    check_column,
    texts_of,
)

ROWS = 32  # in memory at a time, pictures and all


def read(source: HubPictures) -> Iterator[CaptionedPicture]:
    """Every row in order. Raises DataError and RecipeError."""
    wanted = [source.image, source.caption, *([source.en] if source.en else [])]
    row = 0
    for table in hub.tables(source, ROWS):
        for column in wanted:
            check_column(column.partition(".")[0], table.schema.names, hub.where(source))
        outer = list(dict.fromkeys(column.partition(".")[0] for column in wanted))
        for values in table.select(outer).to_pylist():
            texts, en = (
                texts_of(_value(values, column)) if column else []
                for column in (source.caption, source.en)
            )
            yield CaptionedPicture(
                f"row {row}", _loader(source, _value(values, source.image)), texts, en
            )
            row += 1


def _value(values: dict[str, Any], column: str) -> Any:
    """Of COLUMN, or of COLUMN.FIELD."""
    outer, _, inner = column.partition(".")
    found = values[outer]
    return (found or {}).get(inner) if inner else found


def _loader(source: HubPictures, value: Any) -> Callable[[], bytes]:
    """Of bytes, or of what `datasets` calls an image: its bytes, or the path where they lie."""

    def load() -> bytes:
        data, path = (
            (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
        )
        if isinstance(data, bytes) and len(data) > MAX_BYTES:
            raise NotThere(TOO_MANY_BYTES)
        if isinstance(data, bytes):
            return data
        if not isinstance(path, str):
            raise NotThere(MISSING)
        if not hub.is_its_own(source, path):
            raise NotThere(OUTSIDE)
        with files.opened_raw(path) as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise NotThere(TOO_MANY_BYTES)
        return data

    return load
