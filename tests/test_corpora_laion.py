"""LAION's metadata: the language column first, then texts; every row a caption or a counted drop."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from configs.errors import DataError
from configs.sources import LaionSource
from corpora.sources import laion, parquet, part


def source(path: Path | str, **more: str) -> LaionSource:
    return LaionSource(kind="laion", name="l", path=str(path), licence="CC BY 4.0", **more)


def read_all(chosen: LaionSource) -> tuple[list[dict[str, object]], Counter[str]]:
    parts = laion.plan(chosen)
    dropped = Counter[str]()
    batches = [batch for one in parts for batch in laion.captions(chosen, one, dropped)]
    assert all(batch.schema.equals(laion.SCHEMA) for batch in batches)
    rows = [row for batch in batches for row in batch.to_pylist()]
    for batch in batches:
        batch.validate(full=True)
    assert sum(one.rows for one in parts) == len(rows) + dropped.total()
    return rows, dropped


def as_text(values: list[bytes | None]) -> pa.Array:
    """Texts as a careless writer leaves them: any bytes."""
    return pa.array(values, pa.binary()).view(pa.string())


TEXTS = [b"NA", None, "改行\nと&amp;、\u2028".encode(), b"\xff", "写真.jpg".encode(), b"english", "住所".encode()]
TABLE = {
    "SAMPLE_ID": pa.array([1, None, 3, 4, 5, 6, 7], pa.int64()),
    "URL": as_text([b"http://a/1", b"u", b"u3", b"u", None, b"u", b"\xfe"]),
    "TEXT": as_text(TEXTS),
    "HEIGHT": pa.array([1] * 7),
    "WIDTH": pa.array([1] * 7),
    "LICENSE": pa.array(["?", None, "CC0", "?", "?", "?", "?"]),
    "LANGUAGE": pa.array(["ja", "ja", "ja", "ja", "ja", "en", "ja"]),
    "NSFW": pa.array(["UNLIKELY", None, None, "NSFW", "UNSURE", "UNLIKELY", None]),
    "similarity": pa.array([0.25, None, None, 0.1, 0.2, 0.3, 0.4], pa.float64()),
}
EXPECTED = [
    {"id": "l:0000000000", "ja": "NA", "url": "http://a/1", "licence": "CC BY 4.0", "similarity": 0.25, "nsfw": "UNLIKELY"},
    {"id": "l:0000000002", "ja": "改行\nと&amp;、\u2028", "url": "u3", "licence": "CC0", "similarity": None, "nsfw": None},
]


@pytest.mark.parametrize("lower", [False, True])
def test_captions_and_what_they_carry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lower: bool) -> None:
    table = pa.table({name.lower() if lower else name: column for name, column in TABLE.items()})
    pq.write_table(table, tmp_path / "a.parquet")
    pq.write_table(table, tmp_path / "b.parquet", row_group_size=2)
    for rows in (2, 1 << 20):
        monkeypatch.setattr(part, "PART_ROWS", rows)
        for name in ("a", "b"):
            found = read_all(source(tmp_path / f"{name}.parquet"))
            assert found == (EXPECTED, {"language_column": 1, "null": 2, "invalid_utf8": 2})
    both, _ = read_all(source(tmp_path / "*.parquet"))
    assert both[2] == {**EXPECTED[0], "id": "l:0000000007"}  # its number in the source, not in the file


def test_what_is_not_there_is_null_and_the_licence_the_sources(tmp_path: Path) -> None:
    pq.write_table(pa.table({name: TABLE[name] for name in ("TEXT", "URL", "LANGUAGE")}), tmp_path / "a.parquet")
    rows, _ = read_all(source(tmp_path / "a.parquet"))
    assert rows == [{**one, "licence": "CC BY 4.0", "similarity": None, "nsfw": None} for one in EXPECTED]
    assert [one["ja"] for one in read_all(source(tmp_path / "a.parquet", language="en"))[0]] == ["english"]


@pytest.mark.parametrize("statistics", [True, False])
@pytest.mark.parametrize("dictionary", [True, False])
def test_texts_of_other_languages_are_never_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, statistics: bool, dictionary: bool) -> None:
    languages = [None] * 3 + ["de", "en", "fr"] + ["en", "zh", "ja"] + ["ja\x00", "\U0010ffff", "j"]
    table = pa.table({"URL": ["u"] * 12, "TEXT": [f"文{n}" for n in range(12)], "LANGUAGE": languages})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=3, write_statistics=statistics, use_dictionary=dictionary)
    read: list[tuple[int, int]] = []
    batches = parquet.batches

    def recorded(file: pq.ParquetFile, path: str, groups: range, columns: list[str]) -> Iterator[pa.RecordBatch]:
        read.append((groups[0], len(columns)))
        return batches(file, path, groups, columns)

    monkeypatch.setattr(parquet, "batches", recorded)
    rows, dropped = read_all(source(tmp_path / "a.parquet"))
    assert [one["ja"] for one in rows] == ["文8"] and dropped["language_column"] == 11
    assert [group for group, columns in read if columns > 1] == [2]
    # "de" to "fr" cannot hold "ja"; the others' language columns must be looked at
    assert [group for group, columns in read if columns == 1] == ([0, 2, 3] if statistics else [0, 1, 2, 3])


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such file, or it holds no rows"):
        laion.plan(source(tmp_path / "*.parquet"))
    pq.write_table(pa.table({"URL": ["u"], "TEXT": ["t"]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet: has no column LANGUAGE among URL, TEXT"):
        laion.plan(source(tmp_path / "a.parquet"))
    pq.write_table(pa.table(TABLE), tmp_path / "a.parquet")
    parts = laion.plan(source(tmp_path / "a.parquet"))
    pq.write_table(pa.table(TABLE).slice(1), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="changed while it was being read"):
        list(laion.captions(source(tmp_path / "a.parquet"), parts[0], Counter()))
    content = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(content[:-9])
    with pytest.raises(DataError, match=r"a\.parquet: cannot be read as parquet"):
        laion.plan(source(tmp_path / "a.parquet"))
    (tmp_path / "a.parquet").write_bytes(content[:4] + b"\xff" * 300 + content[304:])
    with pytest.raises(DataError, match=r"a\.parquet: cannot be read as parquet"):
        read_all(source(tmp_path / "a.parquet"))
