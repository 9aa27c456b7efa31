"""Shards as img2dataset and webdataset write them: tar files of pictures with JSON or text."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from tarfile import TarFile, TarInfo
from typing import Any

from configs.errors import explained
from configs.schema.pictures import ShardPictures
from corpora.captions import images
from finetune.pictures.sources.captioned import (
    MISSING,
    TOO_MANY_BYTES,
    CaptionedPicture,
    nothing,
    texts_of,
)

RANGE = re.compile(r"\{(\d{1,9})\.\.(\d{1,9})\}")
ENDINGS = (*images.PICTURES, "gif", "bmp")


def read(source: ShardPictures) -> Iterator[CaptionedPicture]:
    """Every sample, shard by shard, then those a shard's table says could not be fetched: the
    reason is its status. Raises DataError.
    """
    found = [shard for pattern in patterns(source.path) for shard in images.shards(pattern)]
    for shard in map(Path, found):
        with images.opened(shard) as file:
            for key, parts in images.samples(file):
                yield _sample(source, file, shard.name, key, parts)
        for failed in images.failures(shard):
            yield CaptionedPicture(f"{shard.name}/{failed.key}", nothing(str(failed.reason)))


def patterns(path: str) -> list[str]:
    """The globs that a path with a range of numbers stands for, as webdataset writes it:
    `{00000..00099}.tar`. Each of them must match.
    """
    if (span := RANGE.search(path)) is None:
        return [path]
    first, last = span.groups()
    numbers = [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]
    start, end = path[: span.start()], path[span.end() :]
    return [one for number in numbers for one in patterns(f"{start}{number}{end}")]


def _sample(
    source: ShardPictures, file: TarFile, shard: str, key: str, parts: dict[str, TarInfo]
) -> CaptionedPicture:
    read_now = {"json", "txt", *([source.en] if source.en else [])} - set(ENDINGS)
    words = {
        ending: images.content(file, parts[ending]) for ending in sorted(read_now & parts.keys())
    }
    said = images.said_of(key, words)
    status = said.get("status", "success")
    member = next((parts[ending] for ending in ENDINGS if ending in parts), None)
    if status != "success":
        load = nothing(str(status))
    elif member is None:
        load = nothing(MISSING)
    elif member.size > images.MAX_BYTES:
        load = nothing(TOO_MANY_BYTES)
    else:
        load = _loader(file, member)
    texts = texts_of(said.get(source.caption)) or _lines(words.get("txt"))
    en = texts_of(said.get(source.en)) or _lines(words.get(source.en)) if source.en else []
    return CaptionedPicture(f"{shard}/{key}", load, texts, en)


def _loader(file: TarFile, member: TarInfo) -> Callable[[], bytes]:
    def load() -> bytes:
        with explained(f"{file.name!s}: damaged", "download the shard again"):
            return images.content(file, member)

    return load


def _lines(text: Any) -> list[str]:
    return texts_of(text.decode("utf-8", "replace").splitlines()) if text else []
