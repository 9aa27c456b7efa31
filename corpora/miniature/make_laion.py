"""Writes a synthetic laion2B-multi: metadata in its schema, with typical faults, and pictures as
img2dataset would have downloaded them.

    python -m corpora.miniature.make_laion FOLDER --rows 1000000

Out: `FOLDER/metadata/part-00000.parquet`... with `rows` rows in all, a tenth of them Japanese;
     `FOLDER/images/00000.tar`..., each with its table, for the Japanese rows;
     `FOLDER/expected.json`: how many rows should be dropped, by reason, and how many show another
     picture than their caption says. The same arguments give the same bytes.
"""

import argparse
import io
import json
import random
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from tqdm import tqdm

from configs.files import whole_folder, write_json
from corpora.toyworld import captions, renderer
from corpora.toyworld.scenes import Scene

FILE_ROWS, GROUP_ROWS, SHARD_ROWS = 200_000, 20_000, 10_000
JAPANESE = 0.1
# Faults of the Japanese rows, by the drop reason they should get, and their shares. The other rows
# are sound, or come with another picture.
DIRT = {
    "null": 0.02,
    "invalid_utf8": 0.02,
    "NSFW": 0.01,
    "UNSURE": 0.02,
    "file_name": 0.03,
    "address": 0.03,
    "markup": 0.02,
    "no_japanese_script": 0.05,
    "too_long": 0.01,
    "damaged_image": 0.02,
    "failed_to_download": 0.1,
    "equal_caption": 0.05,
}
ANOTHER_PICTURE = 0.15
SCHEMA = pa.schema(
    [
        ("SAMPLE_ID", pa.int64()),
        ("URL", pa.string()),
        ("TEXT", pa.string()),
        ("HEIGHT", pa.int32()),
        ("WIDTH", pa.int32()),
        ("LICENSE", pa.string()),
        ("LANGUAGE", pa.string()),
        ("NSFW", pa.string()),
        ("similarity", pa.float64()),
    ]
)


@dataclass
class LaionRow:
    """One row of the metadata. `expected`: the reason to drop it; `shown`: the scene of its
    picture.
    """

    number: int
    text: bytes | None
    language: str | None
    nsfw: str | None = "UNLIKELY"
    expected: str | None = None
    shown: Scene | None = None
    fits: bool = False

    @property
    def url(self) -> str:
        return f"https://example.org/{self.number}.jpg"


def rows(count: int, seed: int) -> Iterator[LaionRow]:
    rng = random.Random(seed)
    captioned = captions.pairs(count, "train", seed)
    last = None
    for number in range(count):
        if rng.random() >= JAPANESE:
            yield LaionRow(
                number,
                f"caption {number}".encode(),
                rng.choice(["de", "fr", "zh", "ko", "ru", None]),
                expected="language_column",
            )
            continue
        caption = next(captioned)
        (kind,) = rng.choices(
            [*DIRT, "another_picture", "sound"],
            [*DIRT.values(), ANOTHER_PICTURE, 1 - sum(DIRT.values()) - ANOTHER_PICTURE],
        )
        if kind == "equal_caption" and last is not None:
            caption = last
        row = LaionRow(
            number,
            _text(kind, caption.text, rng),
            "ja",
            rng.choice(["UNLIKELY", "UNLIKELY", None]),
            None,
            caption.scene,
        )
        if kind in ("NSFW", "UNSURE"):
            row.nsfw = kind
        if kind == "another_picture":
            row.shown = next(captioned).scene
        elif kind != "sound":
            row.expected = kind
        else:
            last = caption
        row.fits = kind == "sound"
        yield row


def _text(kind: str, ja: str, rng: random.Random) -> bytes | None:
    texts: dict[str, bytes | None] = {
        "null": None,
        "invalid_utf8": ja.encode()[:-1],
        "file_name": f"{ja} IMG_{rng.randrange(10**4)}.jpg".encode(),
        "address": f"{ja} https://example.org/{rng.randrange(10**4)}".encode(),
        "markup": f"<a href=x>{ja}</a>".encode(),
        "no_japanese_script": f"product {rng.randrange(10**6)}".encode(),
        "too_long": (ja * 60).encode(),
    }
    plain = rng.choice([ja, ja, f"\n{ja} ", ja.replace("、", "&#12289;"), f"\u200b{ja}\u3000"])
    return texts.get(kind, plain.encode())


def write(folder: Path, count: int, seed: int) -> None:
    """Writes everything whole or not at all. Raises DataError if the folder exists."""
    expected: Counter[str] = Counter()
    with whole_folder(folder) as partial:
        for name in ("metadata", "images"):
            (partial / name).mkdir()
        block: list[LaionRow] = []
        pictured: list[LaionRow] = []
        shards = files = 0
        for row in tqdm(rows(count, seed), total=count, unit="rows", unit_scale=True, desc="laion"):
            expected[row.expected or ("fits" if row.fits else "shows_something_else")] += 1
            block.append(row)
            if row.shown is not None and row.text is not None:
                pictured.append(row)
            if len(block) == FILE_ROWS:
                _write_metadata(partial / "metadata" / f"part-{files:05d}.parquet", block)
                block, files = [], files + 1
            if len(pictured) == SHARD_ROWS:
                _write_shard(partial / "images" / f"{shards:05d}.tar", pictured)
                pictured, shards = [], shards + 1
        if block:
            _write_metadata(partial / "metadata" / f"part-{files:05d}.parquet", block)
        if pictured:
            _write_shard(partial / "images" / f"{shards:05d}.tar", pictured)
        write_json(partial / "expected.json", dict(sorted(expected.items())))


def _write_metadata(path: Path, block: list[LaionRow]) -> None:
    rng = np.random.default_rng(block[0].number)
    similarity = rng.uniform(0.2, 0.4, len(block))
    # a view does not validate UTF-8
    texts = pa.array([row.text for row in block], pa.binary()).view(pa.string())
    columns: dict[str, Any] = {
        "SAMPLE_ID": [row.number for row in block],
        "URL": [row.url for row in block],
        "TEXT": texts,
        "HEIGHT": [renderer.SIDE] * len(block),
        "WIDTH": [renderer.SIDE] * len(block),
        "LICENSE": ["?"] * len(block),
        "LANGUAGE": [row.language for row in block],
        "NSFW": [row.nsfw for row in block],
        "similarity": pa.array(similarity, mask=rng.random(len(block)) < 0.01),
    }
    pq.write_table(pa.table(columns, schema=SCHEMA), path, row_group_size=GROUP_ROWS)


def _write_shard(path: Path, pictured: list[LaionRow]) -> None:
    """A tar file of the pictures that could be downloaded; beside it a table of all rows."""
    table: dict[str, list[object]] = {name: [] for name in ("key", "url", "caption", "status")}
    shown = renderer.render(
        [row.shown for row in pictured if row.shown], np.random.default_rng(pictured[0].number)
    )
    with tarfile.open(path, "w") as file:
        for place, (row, pixels) in enumerate(zip(pictured, shown, strict=True)):
            assert row.text is not None
            status = "failed_to_download" if row.expected == "failed_to_download" else "success"
            said = {
                "key": f"{place:09d}",
                "url": row.url,
                "caption": row.text.decode("utf-8", "replace"),
                "status": status,
            }
            for name, value in said.items():
                table[name].append(value)
            if status == "success":
                jpeg = _jpeg(pixels)
                parts = {
                    "jpg": jpeg[: len(jpeg) // 2] if row.expected == "damaged_image" else jpeg,
                    "txt": said["caption"].encode(),
                }
                for ending, content in {**parts, "json": json.dumps(said).encode()}.items():
                    member = tarfile.TarInfo(f"{said['key']}.{ending}")
                    member.size = len(content)
                    file.addfile(member, io.BytesIO(content))
    pq.write_table(pa.table(table), path.with_suffix(".parquet"))


def _jpeg(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=95, subsampling=0)
    return file.getvalue()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m corpora.miniature.make_laion",
        description="Writes a synthetic laion2B-multi and its pictures.",
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    write(arguments.folder, arguments.rows, arguments.seed)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
