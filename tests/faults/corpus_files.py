"""A small file of every kind of source, and the `corpora` section that reads it."""

import gzip
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from xml.sax.saxutils import escape

import pyarrow as pa
import pyarrow.parquet as pq

from configs.schema.corpora import Corpora

ROWS = [
    ("赤い丸がある", "there is a red circle"),
    ("青い四角", "a blue square & more"),
    ("NA", "null"),
    ('"引用', 'a "quote'),
    ("緑の星", "a green star"),
] * 8
UNIT = '<tu><tuv xml:lang="ja"><seg>{}</seg></tuv><tuv xml:lang="en"><seg>{}</seg></tuv></tu>'
SEGMENT = (
    '<doc><src lang="ja"><p><seg id="1">{}</seg></p></src><ref lang="en"><p><seg '
    'id="1">{}</seg></p></ref></doc>'
)


def make(folder: Path, rng: random.Random, damage: Callable[[Path], object]) -> Corpora:
    """Writes the files of one source anew, damages one of them, and returns the section."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    source = rng.choice([_tsv, _gzip, _parquet, _moses, _tmx, _wmt])(folder)
    damage(rng.choice(sorted(folder.iterdir())))
    named = {"name": "texts", "licence": "x", **source}
    return Corpora.model_validate(
        {"sources": [named], "language_id": {"model": "toyworld:language_id.ftz"}}
    )


def _tsv(folder: Path) -> dict[str, str]:
    (folder / "a.tsv").write_text(
        "ja\ten\n" + "".join(f"{ja}\t{en}\n" for ja, en in ROWS), encoding="utf-8"
    )
    return {"kind": "tsv", "path": str(folder / "a.tsv")}


def _gzip(folder: Path) -> dict[str, str]:
    (folder / "a.tsv.gz").write_bytes(
        gzip.compress(("ja\ten\n" + "".join(f"{ja}\t{en}\n" for ja, en in ROWS)).encode(), mtime=0)
    )
    return {"kind": "tsv", "path": str(folder / "a.tsv.gz")}


def _parquet(folder: Path) -> dict[str, str]:
    pq.write_table(
        pa.table({"ja": [ja for ja, _ in ROWS], "en": [en for _, en in ROWS]}),
        folder / "a.parquet",
        row_group_size=10,
    )
    return {"kind": "parquet", "path": str(folder / "a.parquet")}


def _moses(folder: Path) -> dict[str, str]:
    for name, column in (("ja", 0), ("en", 1)):
        (folder / f"a.{name}").write_text(
            "".join(f"{row[column]}\n" for row in ROWS), encoding="utf-8"
        )
    return {"kind": "moses", "text_path": str(folder / "a.ja"), "en_path": str(folder / "a.en")}


def _tmx(folder: Path) -> dict[str, str]:
    units = "".join(UNIT.format(*map(escape, row)) for row in ROWS)
    (folder / "a.tmx").write_text(
        f'<?xml version="1.0" encoding="utf-8"?><tmx><body>{units}</body></tmx>', encoding="utf-8"
    )
    return {"kind": "tmx", "path": str(folder / "a.tmx")}


def _wmt(folder: Path) -> dict[str, str]:
    documents = "".join(SEGMENT.format(*map(escape, row)) for row in ROWS)
    (folder / "a.xml").write_text(
        f'<?xml version="1.0" encoding="utf-8"?><dataset id="x">{documents}</dataset>',
        encoding="utf-8",
    )
    return {"kind": "wmt_test", "path": str(folder / "a.xml")}
