"""A CSV file of picture and caption, with or without a header; a picture may stand in several
rows, as in SFCOCO.
"""

import csv
from collections.abc import Iterator
from pathlib import Path

from configs.errors import DataError, RecipeError, explained
from configs.schema.pictures import CsvPictures
from finetune.pictures.sources.captioned import (
    CaptionedPicture,
    Said,
    check_column,
    nothing,
    of_file,
)

USUAL_NAME = "captions.csv"
NO_PICTURE = "no_picture_named"


def read(source: CsvPictures) -> Iterator[CaptionedPicture]:
    """Pictures in the order they are first named. Raises DataError and RecipeError."""
    path = Path(source.path)
    path = path / USUAL_NAME if path.is_dir() else path
    if not path.is_file():
        raise DataError(f"{path}: there is no such file; correct the path in the recipe")
    root = Path(source.images) if source.images else path.parent / "images"
    if source.images is None and not root.is_dir():
        root = path.parent
    if not root.is_dir():
        raise DataError(f"{root}: there is no such folder; correct `images` in the recipe")
    listed, nameless = _listed(source, path)
    pictures = [of_file(root, name) for name in listed]
    for picture, said in zip(pictures, listed.values(), strict=True):
        picture.texts, picture.en = said.texts, said.en
        yield picture
    for number in nameless:
        yield CaptionedPicture(f"{path.name}: row {number}", nothing(NO_PICTURE))


def _listed(source: CsvPictures, path: Path) -> tuple[dict[str, Said], list[int]]:
    """Captions by the picture's name, and the numbers of rows that name none."""
    listed: dict[str, Said] = {}
    nameless = []
    with (
        explained(f"{path}: cannot be read as CSV", "correct the file, and write it as UTF-8"),
        open(path, encoding="utf-8-sig", newline="") as file,
    ):
        rows = csv.reader(file)
        header = next(rows, []) if source.header else []
        wanted = (source.image, source.caption, source.en)
        image, caption, en = (_number(column, header, path) for column in wanted)
        assert image is not None and caption is not None
        for number, row in enumerate(rows, 2 if source.header else 1):
            if not row:
                continue
            cells = dict(enumerate(row))
            if not (name := cells.get(image, "").strip()):
                nameless.append(number)
                continue
            listed.setdefault(name, Said()).add(
                cells.get(caption), cells.get(-1 if en is None else en)
            )
    if not listed:
        raise RecipeError(f"{path}: holds no row; correct the path or `header` in the recipe")
    return listed, nameless


def _number(column: str | int | None, header: list[str], path: Path) -> int | None:
    if not isinstance(column, str):
        return column
    check_column(column, header, path)
    return header.index(column)
