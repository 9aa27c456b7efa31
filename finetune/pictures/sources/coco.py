"""COCO's caption format: one JSON file of `images` and `annotations` beside a folder of pictures.
STAIR Captions and YJ Captions have it.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from configs.errors import DataError, explained
from configs.schema.pictures import CocoPictures
from finetune.pictures.sources.captioned import (
    MISSING,
    CaptionedPicture,
    nothing,
    of_file,
    texts_of,
)

LARGEST = 2_000_000_000  # bytes; STAIR's training file has about 100 million
FORMAT = "no COCO captions"
WAY_OUT = "give a file with `images` (id, file_name) and `annotations` (image_id, caption)"


def read(source: CocoPictures) -> Iterator[CaptionedPicture]:
    """Pictures in the file's order, then image ids that have captions and no picture.

    Raises DataError.
    """
    path, root = Path(source.captions), Path(source.images)
    if not root.is_dir():
        raise DataError(f"{root}: there is no such folder; correct `images` in the recipe")
    tree = _tree(path)
    texts = _captions(path, tree)
    en = _captions(Path(source.en), _tree(Path(source.en))) if source.en else {}
    with explained(f"{path}: {FORMAT}", WAY_OUT):
        listed = {one["id"]: of_file(root, str(one["file_name"])) for one in tree["images"]}
    for number, picture in listed.items():
        picture.texts, picture.en = texts.get(number, []), en.get(number, [])
        yield picture
    for number in texts:
        if number not in listed:
            yield CaptionedPicture(f"image id {number}", nothing(MISSING))


def _tree(path: Path) -> dict[str, Any]:
    with explained(f"{path}: {FORMAT}", WAY_OUT):
        if (size := path.stat().st_size) > LARGEST:
            raise ValueError(f"{size:,} bytes, {LARGEST:,} at most")
        tree = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(tree, dict):
            raise ValueError(f"holds a {type(tree).__name__}, no object")
        return tree


def _captions(path: Path, tree: dict[str, Any]) -> dict[Any, list[str]]:
    """By image id."""
    found: dict[Any, list[str]] = {}
    with explained(f"{path}: {FORMAT}", WAY_OUT):
        for one in tree["annotations"]:
            found.setdefault(one["image_id"], []).extend(texts_of(one["caption"]))
    return found
