"""The folder of pairs: what is written is read back, and whatever happened to it since is
noticed.
"""

import itertools
import json
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from configs import files
from configs.errors import DataError
from corpora import pair
from corpora.pair import (
    Pair,
    PairsManifest,
    ShardWriter,
    StageCounts,
    read_batches,
    read_manifest,
    read_pairs,
    write_manifest,
)


def pairs(count: int) -> list[Pair]:
    return [
        Pair(f"s:{row}", f"赤い丸{row}", f"red circle {row}", "s", "CC0", 0.5, 1.0)
        for row in range(count)
    ]


def table(rows: list[Pair]) -> pa.Table:
    return pa.Table.from_pylist([row._asdict() for row in rows], schema=pair.SCHEMA)


def write(folder: Path, train: int = 7, held_out: int = 2, shard_rows: int = 3) -> Path:
    folder.mkdir()
    shards = {}
    for split, count in (("train", train), ("held_out", held_out)):
        writer = ShardWriter(folder, split, shard_rows)
        writer.write(table(pairs(count)))
        shards[split] = writer.close()
    rows = train + held_out
    stages = [StageCounts(name="read", rows_in=rows + 1, dropped={"ragged": 1}, rows_out=rows)]
    write_manifest(
        folder,
        PairsManifest(
            format=2, fingerprint="f", settings={}, inputs=[], stages=stages, splits=shards
        ),
    )
    return folder


def test_pairs_come_back_in_order_and_as_many_as_asked_for(tmp_path: Path) -> None:
    folder = write(tmp_path / "pairs")
    assert sorted(path.name for path in folder.iterdir()) == [
        "held_out-00000.parquet",
        "manifest.json",
        "train-00000.parquet",
        "train-00001.parquet",
        "train-00002.parquet",
    ]
    assert list(read_pairs(folder, "train")) == pairs(7)
    assert list(read_pairs(folder, "train", limit=4)) == pairs(4)
    assert list(read_pairs(str(folder), "held_out", limit=99)) == pairs(2)
    batches = list(read_batches(folder, "train", columns=["text"], batch_rows=2))
    assert [batch.num_rows for batch in batches] == [2, 1, 2, 1, 1] and batches[0].schema.names == [
        "text"
    ]


def test_a_split_without_rows_is_empty_and_no_error(tmp_path: Path) -> None:
    assert list(read_pairs(write(tmp_path / "pairs", held_out=0), "held_out")) == []


@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(0, 20), max_size=6), shard_rows=st.integers(1, 25))
def test_the_bytes_do_not_depend_on_how_the_rows_were_batched(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int], shard_rows: int
) -> None:
    rows = table(pairs(20))
    one, many = (
        ShardWriter(tmp_path_factory.mktemp("shards"), "train", shard_rows) for _ in range(2)
    )
    one.write(rows)
    edges = [0, *sorted(cuts), 20]
    for start, stop in itertools.pairwise(edges):
        many.write(rows.slice(start, stop - start))
    assert one.close() == many.close()
    assert sum(shard.rows for shard in one.shards) == 20


def test_one_flipped_bit_is_noticed(tmp_path: Path) -> None:
    folder = write(tmp_path / "pairs")
    path = folder / "train-00001.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    rows = read_pairs(folder, "train")
    assert [next(rows) for _ in range(3)] == pairs(3)  # the shard before it is sound
    with pytest.raises(DataError, match=r"train-00001.*SHA-256.*damaged.*corpora\.prepare"):
        next(rows)


def test_what_is_missing_is_told_before_the_first_row(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no pairs yet.*corpora\.prepare"):
        read_pairs(tmp_path / "nowhere", "train")
    with pytest.raises(DataError, match=r"manifest.json.*cannot be read"):
        read_pairs(tmp_path, "train")
    folder = write(tmp_path / "pairs")
    (folder / "train-00002.parquet").unlink()
    with pytest.raises(DataError, match=r"train-00002.*missing"):
        read_pairs(folder, "held_out")
    (folder / "train-00002.parquet").write_bytes(b"short")
    with pytest.raises(DataError, match=r"train-00002.*5 bytes long"):
        read_pairs(folder, "train")


@pytest.mark.parametrize(
    "change",
    [
        {"format": 0},
        {"stages": []},
        {"stages": [{"name": "read", "rows_in": 9, "dropped": {}, "rows_out": 8}]},
        {"rogue": 1},
    ],
)
def test_a_manifest_that_does_not_add_up_is_refused(
    tmp_path: Path, change: dict[str, object]
) -> None:
    path = write(tmp_path / "pairs") / "manifest.json"
    path.write_text(
        json.dumps(json.loads(path.read_text(encoding="utf-8")) | change), encoding="utf-8"
    )
    with pytest.raises(DataError, match="damaged, or not of this version") as caught:
        read_manifest(path.parent)
    assert "\n" not in str(caught.value)


def test_a_truncated_manifest_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "pairs") / "manifest.json"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="damaged"):
        read_manifest(path.parent)


@given(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9))
def test_no_stage_can_lose_a_row(rows_in: int, dropped: int, rows_out: int) -> None:
    if rows_in == dropped + rows_out:
        assert (
            StageCounts(
                name="s", rows_in=rows_in, dropped={"r": dropped}, rows_out=rows_out
            ).rows_out
            == rows_out
        )
    else:
        with pytest.raises(ValidationError):
            StageCounts(name="s", rows_in=rows_in, dropped={"r": dropped}, rows_out=rows_out)


def test_stages_must_join() -> None:
    stages = [
        StageCounts(name="a", rows_in=3, dropped={}, rows_out=3),
        StageCounts(name="b", rows_in=2, dropped={"r": 2}, rows_out=0),
    ]
    with pytest.raises(ValidationError, match="3 rows left stage a, 2 came into b"):
        PairsManifest(
            format=2, fingerprint="", settings={}, inputs=[], stages=stages, splits={"train": []}
        )


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with pytest.raises(RuntimeError), files.whole(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError("interrupted")
    assert list(tmp_path.iterdir()) == []
    with files.whole(path) as temporary:
        temporary.write_text("all")
        assert not path.exists()
    assert path.read_text() == "all" and list(tmp_path.iterdir()) == [path]
