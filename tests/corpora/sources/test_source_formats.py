"""Moses, TMX, WMT's test sets, structs in parquet and the hub: the same hostile rows come out of
every format, or are counted.
"""

import gzip
import io
import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_sources import corpora, read_all, write

from configs.errors import DataError, RecipeError
from configs.schema.load import load_recipe
from corpora import sources
from corpora.sources import part

ROOT = Path(__file__).resolve().parents[3]
HOSTILE = [
    ("一", "one"),
    ("NA", "null"),
    ('"', 'quote"'),
    ("二\u2028二\rに\x85", "two\rtwo\x0c"),
    ("&amp;lt;br&gt; <b>", "a &lt; b"),
    ("", "a missing side is an empty text"),
    ("𠮷野家😀", "\ufeffinside"),
]
PAIRS = [(f"語{n}", f"word {n}") for n in range(100)]


def source(kind: str, **more: Any) -> dict[str, Any]:
    return {
        "kind": kind,
        "name": "t",
        "licence": "CC0",
        **{key: str(value) if isinstance(value, Path) else value for key, value in more.items()},
    }


def texts(settings: Any) -> list[tuple[str, str]]:
    return [(ja, en) for _, ja, en in read_all(settings)[0]]


def lines(side: int, rows: list[tuple[str, str]] = HOSTILE) -> bytes:
    return b"\xef\xbb\xbf" + "".join(row[side] + "\n" for row in rows).encode()


def packed(path: Path, members: dict[str, bytes]) -> Path:
    """The members as a zip or a tar archive, by the path's suffix."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                archive.writestr(name, content)
    else:
        with tarfile.open(path, "w:gz" if path.suffix in (".gz", ".tgz") else "w") as archive:
            for name, content in members.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    return path


def test_moses_from_two_files_and_from_an_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ja, en = lines(0), lines(1) + b"\xff\xfe\n"
    ja += "壊れ\n".encode()
    two = source(
        "moses",
        text_path=write(tmp_path / "a.ja", ja),
        en_path=write(tmp_path / "a.en.gz", gzip.compress(en)),
    )
    members = {
        "README": b"x",
        "LICENSE": b"y",
        "B.en-ja.en": en,
        "B.en-ja.ja": ja,
        "B.en-ja.ids": b"z",
    }
    forms = [two, source("moses", path=packed(tmp_path / "B.zip", members))]
    forms.append(
        source(
            "moses",
            path=packed(
                tmp_path / "B.tgz", {f"b/{name}": content for name, content in members.items()}
            ),
            text_member="b/*.ja",
        )
    )
    for rows in (1000, 3):
        monkeypatch.setattr(part, "PART_ROWS", rows)
        monkeypatch.setattr(part, "STREAM_PART_ROWS", rows * 2)
        for form in forms:
            found, dropped = read_all(corpora(form))
            assert [(one, two) for _, one, two in found] == HOSTILE and dropped == {
                "invalid_utf8": 1
            }
            assert [id for id, _, _ in found] == [f"t:{n:09d}" for n in range(len(HOSTILE))]


def test_moses_sides_that_do_not_fit(tmp_path: Path) -> None:
    ja, en = write(tmp_path / "a.ja", b"1\n2\n3"), write(tmp_path / "a.en", b"1\n2\n")
    with pytest.raises(DataError, match=r"a\.ja: 3 Japanese lines, but 2 English ones"):
        sources.plan(corpora(source("moses", text_path=ja, en_path=en)))
    write(tmp_path / "b.ja", b"1\n2\n3")
    with pytest.raises(DataError, match="2 Japanese files, but 1 English ones"):
        sources.plan(corpora(source("moses", text_path=tmp_path / "*.ja", en_path=en)))
    with pytest.raises(
        DataError,
        match=r"o\.zip: 2 of its files match '\*\.ja', not one; it holds a\.ja, b\.ja; say which "
        r"with `member`",
    ):
        sources.plan(
            corpora(source("moses", path=packed(tmp_path / "o.zip", {"a.ja": b"", "b.ja": b""})))
        )
    with pytest.raises(
        DataError, match=r"o\.tar: none of its files matches '\*\.ja'; it holds a\.en"
    ):
        sources.plan(corpora(source("moses", path=packed(tmp_path / "o.tar", {"a.en": b""}))))
    long = source(
        "moses",
        text_path=write(tmp_path / "l.ja", b"x" * (part.MAX_TEXT_BYTES + 1) + b"\n2\n"),
        en_path=en,
    )
    assert read_all(corpora(long)) == ([("t:000000001", "2", "2")], {"too_long": 1})


def xml(text: str) -> str:
    """A carriage return and kin must be written as references; form feed and kin no XML may
    hold.
    """
    return escape(text, {"\r": "&#13;", "\x85": "&#x85;"})


def tmx(rows: list[tuple[str, str]], more: str = "") -> str:
    units = "".join(
        f'<tu tuid="{n}"><prop type="x">p</prop><tuv xml:lang="de"><seg>nein</seg></tuv>'
        f'<tuv xml:lang="en-US"><note>n</note><seg>{xml(en)}</seg></tuv>'
        f'<tuv xml:lang="JA_jp"><seg>{xml(ja)}</seg></tuv><tuv '
        'xml:lang="ja"><seg>later</seg></tuv></tu>\n'
        for n, (ja, en) in enumerate(rows)
    )
    head = (
        '<?xml version="1.0" encoding="UTF-8" ?>\n<!DOCTYPE tmx SYSTEM "tmx14.dtd">\n<tmx '
        'version="1.4"><header srclang="en"/><body>\n'
    )
    return f"{head}{units}{more}</body></tmx>\n"


XML_ROWS = [(ja.replace("\x0c", ""), en.replace("\x0c", "")) for ja, en in HOSTILE]


def test_tmx_is_flattened_and_every_unit_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    markup = (
        '<tu><tuv xml:lang="ja"><seg>前<bpt i="1">&lt;b></bpt><hi>太<hi>字</hi></hi><ept '
        'i="1">&lt;/b></ept>\t後\n&nbsp;</seg></tuv>'
        '<tuv lang="en"><seg><![CDATA[<i>]]> &#x1F600; end<ph>{0}</ph></seg></tuv></tu>'
        '<tu><tuv xml:lang="ja"><seg>片方</seg></tuv></tu><tu/>'
        f'<tu><tuv xml:lang="ja"><seg>{"長" * part.MAX_TEXT_BYTES}</seg></tuv><tuv '
        'xml:lang="en"><seg>long</seg></tuv></tu>'
    )
    content = tmx(XML_ROWS, markup)
    expected = [*XML_ROWS, ("前太字\t後\n\xa0", "<i> 😀 end")]
    files = [
        write(tmp_path / "a.tmx", content.encode()),
        write(tmp_path / "a.tmx.gz", gzip.compress(content.encode())),
    ]
    files.append(write(tmp_path / "bom.tmx", content.replace("UTF-8", "UTF-16").encode("utf-16")))
    for rows in (1000, 3):
        monkeypatch.setattr(part, "STREAM_PART_ROWS", rows)
        for path in files:
            found, dropped = read_all(corpora(source("tmx", path=path)))
            assert [(ja, en) for _, ja, en in found] == expected and dropped == {
                "missing_side": 2,
                "too_long": 1,
            }
    inside = packed(tmp_path / "t.zip", {"en-ja.tmx": content.encode(), "README": b""})
    assert texts(corpora(source("tmx", path=inside, member="*.tmx"))) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (tmx(XML_ROWS)[:-30].encode(), "no well-formed XML"),
        (
            tmx([("a", "b")]).replace("nein", "\xff").encode("latin-1"),
            r"no well-formed XML \(not well-formed \(invalid token\): line 4",
        ),
        (tmx([("a\x0b", "b")]).encode(), "no well-formed XML"),
        (tmx([("a", "b")]).replace("UTF-8", "Shift_JIS").encode(), "convert it to UTF-8"),
        (
            tmx([("a", "b")])
            .replace('SYSTEM "tmx14.dtd"', '[<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]')
            .encode(),
            "line 2 declares the entity 'a'; XML from strangers may not",
        ),
        (b"", "no well-formed XML"),
        (tmx([]).encode(), "holds no rows"),
    ],
)
def test_a_tmx_that_cannot_be_used(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        sources.plan(corpora(source("tmx", path=write(tmp_path / "a.tmx", content))))
    assert "a.tmx: " in str(caught.value) and "\n" not in str(caught.value)


def test_wmt_xml_joins_by_id_and_plain_files_by_line(tmp_path: Path) -> None:
    def segments(side: int) -> str:
        return "".join(f'<seg id="{n}">{xml(row[side])}</seg>' for n, row in enumerate(XML_ROWS))

    content = f"""<?xml version='1.0' encoding='utf-8'?>
<dataset id="wmttest2023.en-ja"><collection id="general">
<doc origlang="en" id="one"><src lang="en"><p>{segments(1)}</p></src>
<ref lang="ja" translator="refA"><p>{segments(0)}</p></ref>
<ref lang="ja" translator="refB"><p><seg id="0">second</seg></p></ref>
<hyp system="S" lang="ja"><p><seg id="0">hypothesis</seg></p></hyp></doc>
<doc id="two"><src lang="ja-JP"><p><seg id="1">壱</seg><seg id="2">弐</seg></p></src>
<ref lang="en"><seg id="2">two</seg><seg id="3">?</seg></ref></doc>
</collection></dataset>"""
    found, dropped = read_all(
        corpora(source("wmt_test", path=write(tmp_path / "w.xml", content.encode())))
    )
    assert [(ja, en) for _, ja, en in found] == [*XML_ROWS, ("弐", "two")] and dropped == {
        "missing_side": 2
    }
    plain = source(
        "wmt_test",
        text_path=write(tmp_path / "w.ja", lines(0)),
        en_path=write(tmp_path / "w.en", lines(1)),
    )
    assert texts(corpora(plain)) == HOSTILE


def test_parquet_fields_of_a_struct(tmp_path: Path) -> None:
    ja = pa.array([b"NA", b"\xff", "三".encode(), None, b"x"], pa.binary()).view(pa.string())
    struct = pa.StructArray.from_arrays(
        [pa.array(["null", "b", None, "d", "e"]), ja],
        ["en", "ja"],
        mask=pa.array([False] * 4 + [True]),
    )
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"id": range(5), "translation": struct}), path, row_group_size=2)
    chosen = corpora(source("parquet", path=path, text="translation.ja", en="translation.en"))
    assert read_all(chosen) == ([("t:000000000", "NA", "null")], {"invalid_utf8": 1, "null": 3})
    with pytest.raises(
        RecipeError,
        match=r"no one column 'translation.jp' among 'id, translation, translation.en, "
        r"translation.ja'",
    ):
        sources.plan(corpora(source("parquet", path=path, text="translation.jp")))
    write(path, path.read_bytes()[:-20])
    with pytest.raises(DataError, match="cannot be read as parquet"):
        sources.plan(chosen)


def test_the_hub_streams_a_folder_file_by_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "dataset"
    folder.mkdir()
    rows = [*HOSTILE, *PAIRS]
    for number in range(3):
        some = [
            {"translation": {"ja": ja, "en": None if ja == "語5" else en}}
            for ja, en in rows[number::3]
        ]
        (folder / f"train-{number}.jsonl").write_text(
            "".join(json.dumps(one) + "\n" for one in some), encoding="utf-8"
        )
    expected = [row for number in range(3) for row in rows[number::3] if row[0] != "語5"]
    chosen = corpora(source("hub", dataset=folder))
    for part_rows in (20, 1000):
        monkeypatch.setattr(part, "STREAM_PART_ROWS", part_rows)
        monkeypatch.setattr(part, "BATCH_ROWS", 7)
        found, dropped = read_all(chosen)
        assert [(ja, en) for _, ja, en in found] == expected and dropped == {"null": 1}
    assert len({id for id, _, _ in found}) == len(expected)
    (before,) = sources.inputs(chosen)
    assert before.path == f"hub:{folder}/train" and sources.inputs(chosen) == [before]
    with pytest.raises(DataError, match=r"hub:.*/tets: cannot be streamed \(Bad split"):
        sources.plan(corpora(source("hub", dataset=folder, split="tets")))
    with pytest.raises(RecipeError, match="no one column 'ja' among 'translation'"):
        sources.plan(corpora(source("hub", dataset=folder, text="ja")))
    write(folder / "train-1.jsonl", b'{"translation": {"ja": "a", ')
    assert sources.inputs(chosen) != [before]
    with pytest.raises(DataError, match="cannot be streamed") as caught:
        sources.plan(chosen)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("listed", "line"),
    [
        (
            "{kind: tsw, name: x}",
            "corpora.sources.0.kind: there is no kind 'tsw'; did you mean 'tsv'?",
        ),
        (
            "{name: x}",
            "corpora.sources.0.kind: missing; the kinds are toyworld, emojiworld, tsv, parquet, "
            "moses, tmx, wmt_test, hub, tags",
        ),
        (
            "{kind: moses, name: x, licence: y}",
            "source 'x' takes either path or both text_path and en_path, not none of them; change "
            "one",
        ),
        (
            "{kind: wmt_test, name: x, licence: y, path: a, en_path: b}",
            "either path or both text_path and en_path, not path and en_path",
        ),
        (
            "{kind: hub, name: x, licence: y, datset: b}",
            "corpora.sources.0.dataset: missing, and it has no default; add it (1 more",
        ),
        (
            "{kind: tmx, name: x, licence: y, path: a, membr: b}",
            "sources.0.membr: there is no such key (its value is 'b'); did you mean 'member'?",
        ),
        (
            "{kind: parquet, name: x, licence: y, path: [a]}",
            "corpora.sources.0.path: Input should be a valid string, not ['a']; correct the value",
        ),
    ],
)
def test_a_source_written_wrongly_is_one_line(listed: str, line: str) -> None:
    with pytest.raises(RecipeError) as error:
        load_recipe(ROOT / "configs" / "toyworld.yaml", [f"corpora.sources=[{listed}]"])
    assert line in str(error.value) and len(str(error.value).splitlines()) == 1
