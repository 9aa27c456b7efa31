"""Reading files: every row becomes a pair or a counted drop, whatever its bytes are."""

import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from configs.errors import DataError, RecipeError
from configs.schema.corpora import Corpora
from configs.schema.sources import MOST_CONCEPTS
from corpora import sources
from corpora.emojiworld import captions as emojiworld
from corpora.emojiworld import concepts
from corpora.sources import part


def corpora(*listed: dict[str, Any]) -> Corpora:
    return Corpora.model_validate({"sources": list(listed), "language_id": {"model": "unused"}})


def tsv(path: Path | str, **more: Any) -> dict[str, Any]:
    return {"kind": "tsv", "name": "t", "path": str(path), "licence": "CC0", **more}


def read_all(settings: Corpora) -> tuple[list[tuple[str, str, str]], Counter[str]]:
    rows, dropped = [], Counter[str]()
    parts = sources.plan(settings)
    for one in parts:
        for batch in sources.read(settings.sources[one.source], one):
            rows += list(zip(batch.ids, batch.text, batch.en, strict=True))
            dropped.update(reason for _, reason in batch.dropped)
    assert sum(one.rows for one in parts) == len(rows) + dropped.total()
    return rows, dropped


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_nasty_rows_are_kept_or_counted(tmp_path: Path) -> None:
    lines = [
        b"\xef\xbb\xbfja\ten\r",  # byte-order mark, CRLF
        "一\tone\r".encode(),
        b"NA\tnull",
        b'"\tquote"',  # a leading quotation mark swallows a file elsewhere
        "二\u2028二\rに\ttwo\rtwo".encode(),
        b"",
        b"\t",
        b"only one field",
        b"a\tb\tc",
        b"\xff\xfe\tbad",
        b"ok\t\xed\xa0\x80",  # half of a surrogate pair
        b"x" * (part.MAX_TEXT_BYTES + 7) + b"\ty",
        b"last\tline",
    ]
    rows, dropped = read_all(corpora(tsv(write(tmp_path / "a.tsv", b"\n".join(lines)))))
    assert rows == [
        ("t:000000000", "一", "one"),
        ("t:000000001", "NA", "null"),
        ("t:000000002", '"', 'quote"'),
        ("t:000000003", "二\u2028二\rに", "two\rtwo"),
        ("t:000000005", "", ""),
        ("t:000000011", "last", "line"),
    ]
    assert dropped == {"ragged": 3, "invalid_utf8": 2, "too_long": 1}


def reference(content: bytes) -> tuple[list[tuple[str, str]], int]:
    """The same format, read in the plainest way: all at once."""
    lines = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")[1:]
    lines = lines[:-1] if lines and not lines[-1] else lines
    pairs = []
    for line in lines:
        fields = line.removesuffix(b"\r").split(b"\t")
        try:
            if len(fields) == 2:
                pairs.append((fields[0].decode(), fields[1].decode()))
        except UnicodeDecodeError:
            pass
    return pairs, len(lines)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                b"a",
                "語".encode(),
                b"\t",
                b"\n",
                b"\r",
                b"\r\n",
                b'"',
                b"\xff",
                b"\x00",
                "\u2028".encode(),
                b"\n\n",
            ]
        ),
        max_size=60,
    )
)
@example([b"\n"])
@example([b"a", b"\t", b"a", b"\n"] * 20)
@example([b"a"] * 40 + [b"\n", b"a", b"\t", b"a"])  # a first line longer than a part
def test_small_parts_and_short_limits_lose_nothing(
    tmp_path_factory: pytest.TempPathFactory, tokens: list[bytes]
) -> None:
    content = b"ja\ten\n" + b"".join(tokens)
    path = write(tmp_path_factory.mktemp("tsv") / "a.tsv", content)
    expected, count = reference(content)
    for part_rows in (1, 3, 1 << 20):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(part, "PART_ROWS", part_rows)
            if count == 0:
                with pytest.raises(DataError, match="holds no rows"):
                    sources.plan(corpora(tsv(path)))
                continue
            rows, dropped = read_all(corpora(tsv(path)))
        assert [(ja, en) for _, ja, en in rows] == expected
        assert len(rows) + dropped.total() == count
        assert len({id for id, _, _ in rows}) == len(rows)


def test_a_file_is_cut_into_parts_that_are_read_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.tsv", b"".join(f"{n}\tv{n}\n".encode() for n in range(1000)))
    monkeypatch.setattr(part, "PART_ROWS", 90)
    chosen = corpora(tsv(path, header=False, text=0, en=1))
    parts = sources.plan(chosen)
    assert len(parts) > 5 and sum(one.rows for one in parts) == 1000
    (batch,) = sources.read(chosen.sources[0], parts[3])
    assert batch.text == [
        str(n) for n in range(parts[3].first_row, parts[3].first_row + parts[3].rows)
    ]
    assert [path.read_bytes()[one.start[0] : one.stop[0]].count(b"\n") for one in parts] == [
        one.rows for one in parts
    ]


def test_columns_by_name_or_number_and_files_by_glob(tmp_path: Path) -> None:
    write(tmp_path / "1.tsv", "id\t英\t日\n7\ttwo\t二\n".encode())
    write(tmp_path / "2.tsv", "日\t英\nさん\tthree\n".encode())
    rows, _ = read_all(corpora(tsv(tmp_path / "*.tsv", text="日", en="英")))
    assert rows == [("t:000000000", "二", "two"), ("t:000000001", "さん", "three")]
    # most rows have three fields, so the first is the ragged one; a number counts columns with a
    # header line too
    ragged = write(tmp_path / "r.txt", b"title\n1\tja\ten\n2\tja\ten\n")
    rows, dropped = read_all(corpora(tsv(ragged, header=False, text=1, en=2)))
    assert len(rows) == 2 and dropped == {"ragged": 1}
    assert read_all(corpora(tsv(tmp_path / "1.tsv", text=2, en=1)))[0] == [
        ("t:000000000", "二", "two")
    ]


def test_a_line_of_64_megabytes_is_never_held(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", b"ja\ten\na\tb\n" + b"z" * (64 << 20) + b"\nc\td\n")
    tracemalloc.start()
    rows, dropped = read_all(corpora(tsv(path)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(rows) == 2 and dropped == {"too_long": 1}
    assert peak < 12 << 20, f"{peak} bytes"


def test_long_lines_are_given_on_before_they_pile_up(tmp_path: Path) -> None:
    """2048 rows of half a megabyte each would be a gigabyte in one batch."""
    path = write(tmp_path / "a.tsv", b"ja\ten\n" + (b"z" * (1 << 19) + b"\tb\n") * 40)
    chosen = corpora(tsv(path))
    sizes = [
        sum(map(len, batch.text))
        for one in sources.plan(chosen)
        for batch in sources.read(chosen.sources[0], one)
    ]
    assert sum(sizes) == 40 << 19 and max(sizes) < 2 * part.BATCH_BYTES


def test_parquet_nulls_and_bad_bytes_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ja = pa.array([b"NA", None, "三".encode(), b"\xff", "五".encode()], pa.binary()).view(
        pa.string()
    )
    path = tmp_path / "a.parquet"
    pq.write_table(
        pa.table(
            {
                "TEXT": ja,
                "score": [1, 2, 3, 4, 5],
                "en": pa.array(["null", "b", None, "d", "e"]).dictionary_encode(),
            }
        ),
        path,
        row_group_size=2,
    )
    chosen = corpora({**tsv(path), "kind": "parquet", "text": "TEXT"})
    expected = (
        [("t:000000000", "NA", "null"), ("t:000000004", "五", "e")],
        Counter({"null": 2, "invalid_utf8": 1}),
    )
    assert read_all(chosen) == expected
    monkeypatch.setattr(part, "PART_ROWS", 1)
    assert [one.rows for one in sources.plan(chosen)] == [2, 2, 1]
    assert read_all(chosen) == expected


def test_emojiworld_is_a_source_of_its_own_beside_toyworld() -> None:
    listed = [
        {"kind": "emojiworld", "pairs": 30, "held_out_pairs": 4, "concepts": 100},
        {"kind": "toyworld", "pairs": 3, "held_out_pairs": 2},
    ]
    rows, dropped = read_all(corpora(*listed))
    made = emojiworld.pairs(30, "train", 0, 100)
    assert [row[0] for row in rows[:6]] == [
        *(f"emojiworld:held_out:{n:06d}" for n in range(4)),
        *(f"toyworld:held_out:{n:06d}" for n in range(2)),
    ]
    assert [row[1:] for row in rows[6:36]] == [(one.text, one.en) for one in made]
    assert len(rows) == 39 and not dropped
    everything = concepts.everything()
    assert len([one for one in everything if one.group != "pictures"]) == MOST_CONCEPTS
    with pytest.raises(ValueError, match="less than or equal to 910"):
        corpora({"kind": "emojiworld", "pairs": 3, "held_out_pairs": 4, "concepts": 911})


def test_toyworld_gives_held_out_scenes_first_and_numbers_its_rows() -> None:
    rows, dropped = read_all(
        corpora({"kind": "toyworld", "pairs": 2100, "held_out_pairs": 3, "seed": 4})
    )
    assert not dropped and [id for id, _, _ in rows[:4]] == [
        f"toyworld:held_out:{n:06d}" for n in range(3)
    ] + ["toyworld:train:000000"]
    assert len(rows) == 2103 and rows[-1][0] == "toyworld:train:002099"


@pytest.mark.parametrize(
    ("content", "more", "kind", "message"),
    [
        (b"", {}, DataError, "holds no rows"),
        (b"", {"header": False, "text": 0, "en": 1}, DataError, "holds no rows"),
        (b"\xef\xbb\xbf", {}, DataError, "holds no rows"),
        (b"ja\ten\n", {}, DataError, "holds no rows"),
        (b"ja\tde\na\tb\n", {}, RecipeError, "0 columns are called 'en' among 'ja, de'"),
        (b"ja\ten\ten\na\tb\tc\n", {}, RecipeError, "2 columns are called 'en'"),
        (
            b"a\tb\n",
            {"header": False},
            RecipeError,
            "without a header line a column is a number, not 'ja'",
        ),
        (
            b"a\tb\n",
            {"header": False, "text": 0, "en": 2},
            RecipeError,
            "no column number 2, the rows have 2 fields",
        ),
        (b"ja\ten\na\tb\n", {"text": -1}, RecipeError, "no column number -1"),
    ],
)
def test_a_tsv_that_cannot_be_used(
    tmp_path: Path, content: bytes, more: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message) as caught:
        sources.plan(corpora(tsv(write(tmp_path / "a.tsv", content), **more)))
    assert "a.tsv" in str(caught.value) and "\n" not in str(caught.value)


def test_a_parquet_file_that_cannot_be_used(tmp_path: Path) -> None:
    def plan(path: Path, **more: Any) -> None:
        chosen = corpora({**tsv(path), "kind": "parquet", **more})
        for one in sources.plan(chosen):
            list(sources.read(chosen.sources[0], one))

    with pytest.raises(DataError, match="cannot be read as parquet"):
        plan(write(tmp_path / "not.parquet", b"ja\ten\n"))
    pq.write_table(pa.table({"ja": ["a"] * 999, "en": range(999)}), tmp_path / "a.parquet")
    with pytest.raises(RecipeError, match="column 'en' holds int64, not text"):
        plan(tmp_path / "a.parquet")
    with pytest.raises(RecipeError, match="no one column 'x' among 'ja, en'"):
        plan(tmp_path / "a.parquet", en="x")
    pq.write_table(
        pa.table({"ja": pa.array([], pa.string()), "en": pa.array([], pa.string())}),
        tmp_path / "empty.parquet",
    )
    with pytest.raises(DataError, match="holds no rows"):
        plan(tmp_path / "empty.parquet")
    content = bytearray((tmp_path / "a.parquet").read_bytes())
    content[4:40] = b"\xff" * 36  # the first page; the footer is sound
    with pytest.raises(DataError, match="cannot be read as parquet"):
        plan(write(tmp_path / "page.parquet", bytes(content)), en="ja")


def test_missing_files_and_names_used_twice(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such file \(source 't'\)"):
        sources.inputs(corpora(tsv(tmp_path / "*.tsv")))
    path = write(tmp_path / "a.tsv", b"ja\ten\na\tb\n")
    with pytest.raises(RecipeError, match="2 sources are called 't'"):
        sources.inputs(corpora(tsv(path), tsv(path)))
    (found,) = sources.inputs(corpora(tsv(path)))
    assert found.bytes == 10 and found.path == str(path)


@pytest.mark.parametrize("later", [b"ja\ten\na\tb\n", b"ja\ten\na\tb\nlonger\tline\n"])
def test_a_file_that_changes_under_our_hands_is_an_error(tmp_path: Path, later: bytes) -> None:
    path = write(tmp_path / "a.tsv", b"ja\ten\na\tb\nc\td\n")
    chosen = corpora(tsv(path))
    (only,) = sources.plan(chosen)
    path.write_bytes(later)
    with pytest.raises(DataError, match="changed while it was being read"):
        list(sources.read(chosen.sources[0], only))
