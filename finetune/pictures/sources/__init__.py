"""Any source of captioned pictures, one file a format."""

from collections.abc import Iterator
from pathlib import PurePosixPath

from configs.schema.pictures import (
    AnyPictures,
    CocoPictures,
    CsvPictures,
    FolderPictures,
    HubPictures,
    ShardPictures,
    ToyworldPictures,
)
from finetune.pictures.sources import coco, csv_table, folder, hub_rows, tars, toyworld
from finetune.pictures.sources.captioned import CaptionedPicture


def read(source: AnyPictures) -> Iterator[CaptionedPicture]:
    """Every picture, always in the same order. Raises DataError and RecipeError."""
    match source:
        case FolderPictures():
            yield from folder.read(source)
        case CsvPictures():
            yield from csv_table.read(source)
        case ShardPictures():
            yield from tars.read(source)
        case HubPictures():
            yield from hub_rows.read(source)
        case CocoPictures():
            yield from coco.read(source)
        case ToyworldPictures():
            yield from toyworld.read(source)


def labels(sources: list[AnyPictures]) -> list[str]:
    """What rows and tables call the sources: kind and last name, no folder of this machine."""
    names = []
    for number, source in enumerate(sources):
        match source:
            case FolderPictures() | CsvPictures() | ShardPictures():
                name = PurePosixPath(source.path).name
            case HubPictures():
                name = source.name if source.name.count("/") == 1 else source.name.split("/")[-1]
            case CocoPictures():
                name = PurePosixPath(source.captions).name
            case ToyworldPictures():
                name = source.world
        label = f"{source.kind}:{name}"
        names.append(f"{label}#{number}" if label in names else label)
    return names
