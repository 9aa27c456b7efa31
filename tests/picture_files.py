"""Small pictures with captions, written as every kind of source that finetune.pictures reads, and a
recipe for them.
"""

import csv
import io
import json
import tarfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from configs.schema.recipe import Recipe

BUCKETS = {"step": 8, "min_side": 16, "max_side": 64}  # for the resolution 32


class Captioned(NamedTuple):
    name: str
    data: bytes
    texts: list[str]
    en: list[str]


def encoded(image: Image.Image, kind: str = "PNG", **settings: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return file.getvalue()


def noise(size: tuple[int, int], seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(pixels)


def examples(count: int = 6) -> list[Captioned]:
    """Pictures of different sizes with one to three captions in each language."""
    sizes = [(40, 40), (60, 30), (30, 60), (90, 40), (33, 47), (64, 64)]
    return [
        Captioned(
            f"絵{number}.png",
            encoded(noise(sizes[number % len(sizes)], number)),
            [f"絵、その{number}の{caption}" for caption in range(1 + number % 3)],
            [f"picture {number}, {caption}" for caption in range(1 + number % 3)],
        )
        for number in range(count)
    ]


def recipe(run: Path, sources: list[dict[str, Any]], base: str = "toyworld:base", **more: Any):
    """A recipe whose buckets are small; `more`: other keys of its `pictures`."""
    tree = {
        "name": "pictures",
        "run": str(run),
        "corpora": {
            "sources": [{"kind": "toyworld", "pairs": 10, "held_out_pairs": 2}],
            "language_id": {"model": "x"},
        },
        "vocab_init": {"tokenizer": "toyworld:spiece.model", "sentence_encoder": "x"},
        "distill": {
            "base": base,
            "objective": {"pooled": 1.0},
            "steps": 200,
            "batch_size": 4,
            "learning_rate": 1e-3,
        },
        "pictures": {"resolution": 32, "buckets": BUCKETS, "sources": sources} | more,
    }
    return Recipe.model_validate(tree)


def write_files(folder: Path, pictures: list[Captioned]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for one in pictures:
        (folder / one.name).write_bytes(one.data)


def folder_of_json(folder: Path, pictures: list[Captioned]) -> dict[str, Any]:
    write_files(folder, pictures)
    lines = [{"file_name": one.name, "ja": one.texts, "en": one.en} for one in pictures]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (folder / "metadata.jsonl").write_text(text, encoding="utf-8")
    return {"kind": "folder", "path": str(folder), "caption": "ja", "en": "en"}


def folder_of_csv(folder: Path, pictures: list[Captioned]) -> dict[str, Any]:
    write_files(folder, pictures)
    _write_csv(folder / "metadata.csv", [("file_name", "text", "english"), *_rows(pictures)])
    return {"kind": "folder", "path": str(folder), "en": "english"}


def folder_of_texts(folder: Path, pictures: list[Captioned]) -> dict[str, Any]:
    """It has no place for English."""
    write_files(folder, pictures)
    for one in pictures:
        (folder / one.name).with_suffix(".txt").write_text("\n".join(one.texts), encoding="utf-8")
    return {"kind": "folder", "path": str(folder)}


def csv_without_header(folder: Path, pictures: list[Captioned]) -> dict[str, Any]:
    write_files(folder / "images", pictures)
    _write_csv(folder / "captions.csv", _rows(pictures))
    return {"kind": "csv", "path": str(folder), "header": False, "en": 2}


def csv_with_header(folder: Path, pictures: list[Captioned]) -> dict[str, Any]:
    write_files(folder, pictures)
    rows = [(text, en, name) for name, text, en in _rows(pictures)]
    _write_csv(folder / "table.csv", [("ja", "en", "file"), *rows])
    columns = {"image": "file", "caption": "ja", "en": "en"}
    return {"kind": "csv", "path": str(folder / "table.csv")} | columns


def shards(folder: Path, pictures: list[Captioned]) -> dict[str, Any]:
    folder.mkdir(parents=True)
    for shard in range(2):
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as file:
            for number, one in enumerate(pictures):
                if number * 2 // len(pictures) == shard:
                    said = json.dumps({"caption": one.texts, "english": one.en}).encode()
                    for ending, data in (("png", one.data), ("json", said)):
                        member = tarfile.TarInfo(f"{number:09d}.{ending}")
                        member.size = len(data)
                        file.addfile(member, io.BytesIO(data))
    return {"kind": "shards", "path": str(folder / "*.tar"), "en": "english"}


def hub(folder: Path, pictures: list[Captioned]) -> dict[str, Any]:
    folder.mkdir(parents=True)
    columns = {
        "picture": [{"bytes": one.data, "path": one.name} for one in pictures],
        "ja": [one.texts for one in pictures],
        "en": [one.en for one in pictures],
    }
    pq.write_table(pa.table(columns), folder / "train.parquet")
    columns = {"image": "picture", "caption": "ja", "en": "en"}
    return {"kind": "hub", "name": str(folder)} | columns


def coco(folder: Path, pictures: list[Captioned]) -> dict[str, Any]:
    write_files(folder / "train2014", pictures)
    numbered = list(enumerate(pictures, 100))
    images = [{"id": number, "file_name": one.name} for number, one in numbered]
    for name, texts in (("ja", Captioned.texts), ("en", Captioned.en)):
        annotations = [
            {"image_id": number, "id": caption, "caption": text}
            for number, one in numbered
            for caption, text in enumerate(texts.__get__(one))
        ]
        tree = {"images": images, "annotations": annotations}
        (folder / f"{name}.json").write_text(json.dumps(tree), encoding="utf-8")
    paths = {"captions": folder / "ja.json", "en": folder / "en.json"}
    paths |= {"images": folder / "train2014"}
    return {"kind": "coco"} | {key: str(path) for key, path in paths.items()}


WRITERS = (
    folder_of_json,
    folder_of_csv,
    folder_of_texts,
    csv_without_header,
    csv_with_header,
    shards,
    hub,
    coco,
)


def _rows(pictures: list[Captioned]) -> list[tuple[str, str, str]]:
    """A row a caption."""
    return [
        (one.name, text, en) for one in pictures for text, en in zip(one.texts, one.en, strict=True)
    ]


def _write_csv(path: Path, rows: list[tuple[str, str, str]]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
