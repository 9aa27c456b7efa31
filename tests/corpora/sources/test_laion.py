"""LAION's metadata: the language column first, then texts; every row a caption or a counted
drop.
"""

from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from configs.errors import DataError
from configs.schema.load import load_recipe
from configs.schema.sources import LaionSource
from corpora.captions.clean import unsafe_reason
from corpora.sources import laion, parquet, part

ROOT = Path(__file__).resolve().parents[3]


def source(path: Path | str, **more: str) -> LaionSource:
    return LaionSource(kind="laion", name="l", path=str(path), licence="CC BY 4.0", **more)


def read_all(chosen: LaionSource) -> tuple[list[dict[str, object]], Counter[str]]:
    parts = laion.plan(chosen)
    dropped = Counter[str]()
    batches = []
    for one in parts:
        for batch, unread in laion.captions(chosen, one):
            batches.append(batch)
            dropped.update(unread)
    assert all(batch.schema.equals(laion.SCHEMA) for batch in batches)
    rows = [row for batch in batches for row in batch.to_pylist()]
    for batch in batches:
        batch.validate(full=True)
    assert sum(one.rows for one in parts) == len(rows) + dropped.total()
    return rows, dropped


def as_text(values: list[bytes | None]) -> pa.Array:
    """Texts as a careless writer leaves them: any bytes."""
    return pa.array(values, pa.binary()).view(pa.string())


TEXTS = [
    b"NA",
    None,
    "改行\nと&amp;、\u2028".encode(),
    b"\xff",
    "写真.jpg".encode(),
    b"english",
    "住所".encode(),
]
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
NOT_RATED = {"nsfw": None, "unsafe_probability": None}
EXPECTED = [
    {
        "id": "l:0000000000",
        "text": "NA",
        "url": "http://a/1",
        "licence": "CC BY 4.0",
        "similarity": 0.25,
    }
    | NOT_RATED
    | {"nsfw": "UNLIKELY"},
    {
        "id": "l:0000000002",
        "text": "改行\nと&amp;、\u2028",
        "url": "u3",
        "licence": "CC0",
        "similarity": None,
    }
    | NOT_RATED,
]


@pytest.mark.parametrize("lower", [False, True])
def test_captions_and_what_they_carry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lower: bool
) -> None:
    table = pa.table({name.lower() if lower else name: column for name, column in TABLE.items()})
    pq.write_table(table, tmp_path / "a.parquet")
    pq.write_table(table, tmp_path / "b.parquet", row_group_size=2)
    for rows in (2, 1 << 20):
        monkeypatch.setattr(part, "PART_ROWS", rows)
        for name in ("a", "b"):
            found = read_all(source(tmp_path / f"{name}.parquet"))
            assert found == (EXPECTED, {"language_column": 1, "null": 2, "invalid_utf8": 2})
    both, _ = read_all(source(tmp_path / "*.parquet"))
    assert both[2] == {
        **EXPECTED[0],
        "id": "l:0000000007",
    }  # its number in the source, not in the file


def test_what_is_not_there_is_null_and_the_licence_the_sources(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({name: TABLE[name] for name in ("TEXT", "URL", "LANGUAGE")}),
        tmp_path / "a.parquet",
    )
    rows, _ = read_all(source(tmp_path / "a.parquet"))
    assert rows == [
        {**one, "licence": "CC BY 4.0", "similarity": None, "nsfw": None} for one in EXPECTED
    ]
    assert [one["text"] for one in read_all(source(tmp_path / "a.parquet", language="en"))[0]] == [
        "english"
    ]


def derived(path: Path, **columns: pa.Array) -> LaionSource:
    """A set made from LAION's: three rows, and columns in whatever type its maker gave them."""
    usual = {"url": ["a", "b", "c"], "TEXT": ["一", "二", "三"], "Language": ["ja"] * 3}
    pq.write_table(pa.table(usual | columns), path)
    return source(path)


@pytest.mark.parametrize(
    ("columns", "labels", "probabilities"),
    [
        ({"punsafe": pa.array([0.99, None, 0.01])}, [None] * 3, [0.99, None, 0.01]),
        ({"PUNSAFE": pa.array(["0.99", "None", "0.01"])}, [None] * 3, [0.99, None, 0.01]),
        (
            {"punsafe": pa.array([Decimal("0.99"), None, Decimal("0.01")])},
            [None] * 3,
            [0.99, None, 0.01],
        ),
        ({"NSFW": pa.array([True, None, False])}, ["NSFW", None, "UNLIKELY"], [None] * 3),
        ({"unsafe": pa.array([1, None, 0])}, [None] * 3, [1.0, None, 0.0]),
        (
            {"Nsfw": pa.array(["nsfw", " ", "unlikely"]).dictionary_encode()},
            ["NSFW", None, "UNLIKELY"],
            [None] * 3,
        ),
        ({"unsafe": pa.array(["unsafe", "?", "safe"])}, ["NSFW", None, "UNLIKELY"], [None] * 3),
        ({"NSFW": pa.array(["Likely", "n/a", "false"])}, ["LIKELY", None, "UNLIKELY"], [None] * 3),
        (
            {"NSFW": ["UNLIKELY"] * 3, "unsafe": [True, False, False]},
            ["NSFW", "UNLIKELY", "UNLIKELY"],
            [None] * 3,
        ),
    ],
)
def test_ratings_of_any_type_and_spelling(
    tmp_path: Path,
    columns: dict[str, pa.Array],
    labels: list[str | None],
    probabilities: list[float | None],
) -> None:
    chosen = derived(tmp_path / "a.parquet", **columns)
    laion.check_ratings(chosen)
    rows, dropped = read_all(chosen)
    assert [row["nsfw"] for row in rows] == labels and not dropped.total()
    assert [row["unsafe_probability"] for row in rows] == [
        None if one is None else pytest.approx(one) for one in probabilities
    ]


def test_a_file_that_cannot_tell_unsafe_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        DataError,
        match=r"no column NSFW, UNSAFE, PUNSAFE, so unsafe .* keep all with captions\.unsafe=\[\]",
    ):
        laion.check_ratings(derived(tmp_path / "a.parquet"))
    for nothing in (
        pa.nulls(3),
        pa.array([None] * 3, pa.string()),
        pa.array([None] * 3, pa.float32()),
    ):
        with pytest.raises(DataError, match="only nulls in"):
            laion.check_ratings(derived(tmp_path / "a.parquet", punsafe=nothing))


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["0.5", "None", "nan"]),
        pa.array([Decimal("0.5"), None, None], pa.decimal128(6, 4)),
        pa.array([0.5, None, float("inf")], pa.float64()),
        pa.array([0.5, None, None], pa.float16()),
        pa.array(["0.5", "", "?"]).dictionary_encode(),
    ],
)
def test_similarities_of_any_type(tmp_path: Path, column: pa.Array) -> None:
    rows, _ = read_all(derived(tmp_path / "a.parquet", similarity=column))
    assert [row["similarity"] for row in rows] == [0.5, None, None]


def test_other_columns_of_other_types(tmp_path: Path) -> None:
    rows, _ = read_all(
        derived(tmp_path / "a.parquet", LICENSE=pa.nulls(3), HEIGHT=[1.5] * 3, similarity=[1, 0, 1])
    )
    assert [(row["licence"], row["similarity"]) for row in rows] == [
        ("CC BY 4.0", one) for one in (1.0, 0.0, 1.0)
    ]
    rows, _ = read_all(derived(tmp_path / "a.parquet", LICENSE=[1, 2, 3]))
    assert [row["licence"] for row in rows] == ["1", "2", "3"]
    pq.write_table(
        pa.table({"url": ["u"], "caption": ["猫"], "language": ["ja"]}), tmp_path / "a.parquet"
    )
    assert read_all(source(tmp_path / "a.parquet"))[0][0]["text"] == "猫"
    with pytest.raises(DataError, match="column TEXT holds int64, not text"):
        laion.plan(derived(tmp_path / "a.parquet", TEXT=pa.array([1, 2, 3])))


@pytest.mark.parametrize(
    ("label", "probability", "reason"),
    [
        ("NSFW", None, "NSFW"),
        ("UNSURE", None, "UNSURE"),
        ("UNLIKELY", None, None),
        ("UNLIKELY", 0.99, "unsafe_probability"),
        (None, 0.05, None),
        (None, None, None),
        ("LIKELY", 0.05, "unknown_rating"),
    ],
)
def test_unsafe_rows_are_dropped_by_their_rating(
    label: str | None, probability: float | None, reason: str | None
) -> None:
    captions = load_recipe(ROOT / "configs" / "toyworld.yaml").captions
    assert captions is not None
    assert unsafe_reason(label, probability, captions) == reason
    assert unsafe_reason(label, probability, captions.model_copy(update={"unsafe": []})) is None
    only = captions.model_copy(update={"unsafe": ["nsfw"]})
    assert unsafe_reason(label, None, only) == ("NSFW" if label == "NSFW" else None)


@pytest.mark.parametrize("statistics", [True, False])
@pytest.mark.parametrize("dictionary", [True, False])
def test_texts_of_other_languages_are_never_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, statistics: bool, dictionary: bool
) -> None:
    languages = [None] * 3 + ["de", "en", "fr"] + ["en", "zh", "ja"] + ["ja\x00", "\U0010ffff", "j"]
    table = pa.table(
        {"URL": ["u"] * 12, "TEXT": [f"文{n}" for n in range(12)], "LANGUAGE": languages}
    )
    pq.write_table(
        table,
        tmp_path / "a.parquet",
        row_group_size=3,
        write_statistics=statistics,
        use_dictionary=dictionary,
    )
    read: list[tuple[int, int]] = []
    batches = parquet.batches

    def recorded(
        file: pq.ParquetFile, path: str, groups: range, columns: list[str]
    ) -> Iterator[pa.RecordBatch]:
        read.append((groups[0], len(columns)))
        return batches(file, path, groups, columns)

    monkeypatch.setattr(parquet, "batches", recorded)
    rows, dropped = read_all(source(tmp_path / "a.parquet"))
    assert [one["text"] for one in rows] == ["文8"] and dropped["language_column"] == 11
    assert [group for group, columns in read if columns > 1] == [2]
    # "de" to "fr" cannot hold "ja"; the others' language columns must be looked at
    assert [group for group, columns in read if columns == 1] == (
        [0, 2, 3] if statistics else [0, 1, 2, 3]
    )


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
        list(laion.captions(source(tmp_path / "a.parquet"), parts[0]))
    content = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(content[:-9])
    with pytest.raises(DataError, match=r"a\.parquet: cannot be read as parquet"):
        laion.plan(source(tmp_path / "a.parquet"))
    (tmp_path / "a.parquet").write_bytes(content[:4] + b"\xff" * 300 + content[304:])
    with pytest.raises(DataError, match=r"a\.parquet: cannot be read as parquet"):
        read_all(source(tmp_path / "a.parquet"))
