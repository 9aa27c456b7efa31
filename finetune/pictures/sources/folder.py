"""A folder of pictures: with metadata.jsonl or metadata.csv as imagefolder has it, or with a text
file of the same name beside each picture.
"""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from configs.errors import DataError, explained
from configs.schema.pictures import FolderPictures
from finetune.pictures.sources.captioned import (
    CaptionedPicture,
    Said,
    check_column,
    located,
    of_file,
)

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")


def read(source: FolderPictures) -> Iterator[CaptionedPicture]:
    """The pictures that the metadata lists, in its order, then those it does not list, by name.

    Raises DataError and RecipeError.
    """
    root = Path(source.path)
    if not root.is_dir():
        raise DataError(f"{root}: there is no such folder; correct the path in the recipe")
    there = sorted(
        path.relative_to(root).as_posix()
        for path in root.rglob("*")
        if path.suffix.lower() in ENDINGS and not path.name.startswith(".")
    )
    listed = _listed(source, root)
    if listed is None:
        yield from (_beside(root, name) for name in there)
        return
    pictures = [of_file(root, name) for name in listed]  # all names are looked at before the first
    for picture, said in zip(pictures, listed.values(), strict=True):
        picture.texts, picture.en = said.texts, said.en
        yield picture
    known = {located(root, name) for name in listed}
    yield from (of_file(root, name) for name in there if root / name not in known)


def _beside(root: Path, name: str) -> CaptionedPicture:
    picture, text = of_file(root, name), (root / name).with_suffix(".txt")
    if text.is_file() and text.resolve().is_relative_to(root.resolve()):
        said = Said()
        with explained(f"{text}: is no text", "write it as UTF-8"):
            said.add(text.read_text(encoding="utf-8-sig").splitlines())
        picture.texts = said.texts
    return picture


def _listed(source: FolderPictures, root: Path) -> dict[str, Said] | None:
    """Captions by the picture's name; None where the folder has no metadata."""
    for name, rows in (("metadata.jsonl", _json_rows), ("metadata.csv", _csv_rows)):
        path = root / name
        if not path.is_file():
            continue
        listed: dict[str, Said] = {}
        for number, row in enumerate(rows(path)):
            if not number:
                for column in (source.image, source.caption, source.en):
                    if column is not None:
                        check_column(column, row, path)
            file = row.get(source.image)
            if not isinstance(file, str) or not file:
                raise DataError(
                    f"{path}: row {number + 1} names no picture in {source.image!r}; correct it"
                )
            said = listed.setdefault(file, Said())
            said.add(row.get(source.caption), row.get(source.en) if source.en else None)
        return listed
    return None


def _json_rows(path: Path) -> Iterator[dict[str, Any]]:
    with (
        explained(f"{path}: cannot be read as JSON lines", "correct the file"),
        open(path, encoding="utf-8-sig") as file,
    ):
        for line in file:
            if line.strip():
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError(f"a line holds a {type(row).__name__}, no object")
                yield row


def _csv_rows(path: Path) -> Iterator[dict[str, Any]]:
    with (
        explained(f"{path}: cannot be read as CSV", "correct the file"),
        open(path, encoding="utf-8-sig", newline="") as file,
    ):
        yield from csv.DictReader(file)
