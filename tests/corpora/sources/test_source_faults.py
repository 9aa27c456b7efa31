"""Files as people really have them: read rightly, or refused in one line that says what they
are.
"""

import gzip
import io
import struct
import tarfile
import unicodedata
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_source_formats import ROOT, packed, source, texts
from test_sources import corpora, read_all, tsv, write

from configs.errors import DataError, RecipeError
from corpora import pipeline, prepare, sources
from corpora.sources import part

ROWS = [
    ("赤い丸があります", "There is a red circle"),
    ("青い四角があります", "There is a blue square"),
    ("緑の三角が左にあります", "A green triangle & a star are on the left"),
    ("大きな犬が公園で走る", "A big dog runs in the park"),
]
JA, EN = ("\n".join(side) + "\n" for side in zip(*ROWS, strict=True))
TSV = "".join(f"{ja}\t{en}\n" for ja, en in ROWS).encode()
PLAIN = {"header": False, "text": 0, "en": 1}
MAC = b"\0\5\x16\7\0\2\0\0Mac OS X        " + b"\0" * 40


def moses(
    path: Path, ja: str | bytes = JA, en: str | bytes = EN, kind: str = "moses", suffix: str = ""
) -> dict[str, Any]:
    ja_path, en_path = (
        write(path / f"c.{name}{suffix}", text.encode() if isinstance(text, str) else text)
        for name, text in (("ja", ja), ("en", en))
    )
    return source(kind, text_path=ja_path, en_path=en_path)


def refused(chosen: dict[str, Any], kind: type[Exception] = DataError) -> str:
    with pytest.raises(kind) as caught:
        read_all(corpora(chosen))
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- formats whose marks must not reach the pairs


def sgml(texts: list[str], head: str, ids: str = '"{}"', broken: bool = False) -> str:
    escaped = [text if broken else text.replace("&", "&amp;") for text in texts]
    between = "\n" if broken else ""
    segments = "".join(
        f"<seg id={ids.format(n)}>{between}{text}{between}</seg>\n"
        for n, text in enumerate(escaped, 1)
    )
    return (
        f'{head}\n<doc docid="d1" genre="talk">\n<url>x</url>\n<title>A '
        f"title</title>\n<p>\n{segments}</p></doc>\n"
    )


HEADS = [
    ('<srcset setid="s" srclang="ja">', '<refset setid="s" trglang="en">'),
    (
        '<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE srcset SYSTEM "x.dtd">\n<srcset>',
        '<?xml version="1.0"?><refset>',
    ),
    ('<?xml version="1.0"?>\n<mteval>\n<srcset>', "<mteval>\n<refset>"),
]


@pytest.mark.parametrize("kind", ["wmt_test", "moses"])
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(("ids", "broken"), [('"{}"', False), ("{}", True)])
def test_sgml_gives_its_segments(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    head: tuple[str, str],
    ids: str,
    broken: bool,
) -> None:
    sides = [sgml([row[side] for row in ROWS], head[side], ids, broken) for side in (0, 1)]
    chosen = corpora(moses(tmp_path, *sides, kind=kind, suffix=".sgm"))
    for rows in (1000, 3):
        monkeypatch.setattr(part, "STREAM_PART_ROWS", rows)
        assert texts(chosen) == ROWS


def test_sgml_of_two_releases_or_beside_plain_text(tmp_path: Path) -> None:
    ja, en = (sgml([row[side] for row in ROWS], HEADS[0][side]) for side in (0, 1))
    other = en.replace('id="3"', 'id="9"')
    assert "segment '3' of document 'd1' stands beside segment '9'" in refused(
        moses(tmp_path, ja, other, "wmt_test")
    )
    shorter = en.replace('<seg id="4">', "")
    assert "segment '4' of document 'd1' stands beside no segment" in refused(
        moses(tmp_path, ja, shorter, "wmt_test")
    )
    lines = "\n".join(["a line"] * ja.count("\n")) + "\n"
    assert "is SGML, and" in refused(moses(tmp_path, ja, lines, "wmt_test"))
    assert "ends within segment '4'" in refused(
        moses(tmp_path, ja[: ja.rindex("</seg>")], en, "wmt_test")
    )


HEADERS = [
    "<url>x</url>",
    "<keywords>話, k</keywords>",
    "<speaker>山田</speaker>",
    "<talkid>1</talkid>",
    "<title>星の話: stars</title>",
]
HEADERS += [
    "<description>話します。 I talk.</description>",
    "<reviewer></reviewer>",
    '<translator href="http://x">山田</translator>',
]
HEADERS += ['<doc docid="1" genre="lectures">', "</doc>"]


def test_the_header_lines_of_talks_are_dropped_by_name(tmp_path: Path) -> None:
    ja, en = (("\n".join(HEADERS) + "\n" + text) * 2 for text in (JA, EN))
    found, dropped = read_all(corpora(moses(tmp_path, ja, en)))
    assert [(ja, en) for _, ja, en in found] == ROWS * 2 and dropped == {
        "header_line": 2 * len(HEADERS)
    }
    rows = (
        "".join(f"{line}\t{line}\n" for line in HEADERS).encode()
        + TSV
        + "<b>太字</b>です\t<title> is a tag\n".encode()
    )
    found, dropped = read_all(corpora(tsv(write(tmp_path / "a.tsv", rows), **PLAIN)))
    assert len(found) == 5 and dropped == {
        "header_line": len(HEADERS)
    }  # a text that only mentions a tag is one


def test_the_marks_of_tanaka_are_taken_out(tmp_path: Path) -> None:
    lines = (
        "".join(
            f"A: {ja}\t{en}#ID={n}_{n + 7}\nB: 赤い(よみ) 丸\n" for n, (ja, en) in enumerate(ROWS)
        )
        + "A: はい\tB: yes #3\n"
    )
    found, dropped = read_all(
        corpora(tsv(write(tmp_path / "examples.utf", lines.encode()), **PLAIN))
    )
    assert [(ja, en) for _, ja, en in found] == [*ROWS, ("A: はい", "B: yes #3")] and dropped == {
        "index_line": 4
    }


# --- what a Mac adds


def test_what_a_mac_adds_to_archives_and_folders_is_not_read(tmp_path: Path) -> None:
    members = {
        "./._c.ja": MAC,
        "__MACOSX/._c.ja": MAC,
        "__MACOSX/x.ja": MAC,
        "./c.ja": JA.encode(),
        "./._c.en": MAC,
    }
    members |= {"__MACOSX/x.en": MAC, "./c.en": EN.encode(), ".DS_Store": b"\0\0\0\1Bud1"}
    for name in ("c.tar.gz", "c.tar", "c.zip"):
        for more in ({}, {"text_member": "c.ja", "en_member": "c.en"}):
            assert (
                texts(corpora(source("moses", path=packed(tmp_path / name, members), **more)))
                == ROWS
            )
    assert (
        texts(
            corpora(
                tsv(packed(tmp_path / "sole.zip", {"__MACOSX/._a.tsv": MAC, "a.tsv": TSV}), **PLAIN)
            )
        )
        == ROWS
    )
    folder = tmp_path / "unpacked" / "__MACOSX"
    folder.mkdir(parents=True)
    write(folder / "a.tsv", MAC)
    write(folder.parent / "a.tsv", TSV)
    write(folder.parent / "._a.tsv", MAC)
    for pattern in ("unpacked/**/*.tsv", "unpacked/[._a]*.tsv"):
        assert texts(corpora(tsv(tmp_path / pattern, **PLAIN))) == ROWS
    memory = fsspec.filesystem("memory")
    memory.pipe({"/mac/a.tsv": TSV, "/mac/._a.tsv": MAC, "/mac/__MACOSX/b.tsv": MAC})
    assert texts(corpora(tsv("memory://mac/**/*.tsv", **PLAIN))) == ROWS
    memory.rm("/mac", recursive=True)
    assert "attributes macOS keeps" in refused(tsv(folder.parent / "._a.tsv", **PLAIN))


# --- codes, encodings, downloads that are no data


def memory_of(ja: str, en: str, rows: list[tuple[str, str]] = ROWS[:2]) -> bytes:
    units = "".join(
        f'<tu><tuv xml:lang="{ja}"><seg>{one}</seg></tuv><tuv '
        f'xml:lang="{en}"><seg>{two}</seg></tuv></tu>'
        for one, two in rows
    )
    return f'<?xml version="1.0"?><tmx version="1.4"><header/><body>{units}</body></tmx>'.encode()


@pytest.mark.parametrize(
    ("ja", "en"),
    [
        ("jpn", "eng"),
        ("ja-JP", "en-US"),
        ("JA", "EN"),
        ("JA_JP", "en_gb"),
        ("jp", "ENG"),
        ("Japanese", "English (US)"),
    ],
)
def test_every_code_of_the_two_languages(tmp_path: Path, ja: str, en: str) -> None:
    assert (
        texts(corpora(source("tmx", path=write(tmp_path / "a.tmx", memory_of(ja, en))))) == ROWS[:2]
    )
    xml = (
        f'<dataset><doc id="1"><src lang="{en}"><seg id="1">a</seg></src><ref lang="{ja}"><seg '
        'id="1">一</seg></ref></doc></dataset>'
    )
    assert texts(corpora(source("wmt_test", path=write(tmp_path / "a.xml", xml.encode())))) == [
        ("一", "a")
    ]


def test_a_memory_of_other_languages_is_refused_with_their_names(tmp_path: Path) -> None:
    said = refused(source("tmx", path=write(tmp_path / "a.tmx", memory_of("fr", "en"))))
    assert "none of its 2 units has both ja and en; its languages are fr (2), en (2)" in said


@pytest.mark.parametrize(
    ("encoding", "name"),
    [
        ("cp932", "Shift-JIS"),
        ("euc_jp", "EUC-JP"),
        ("iso2022_jp", "ISO-2022-JP"),
        ("utf-16-le", "UTF-16LE"),
        ("utf-16-be", "UTF-16BE"),
        ("utf-16", "UTF-16"),
    ],
)
def test_another_encoding_is_named(tmp_path: Path, encoding: str, name: str) -> None:
    said = refused(moses(tmp_path, JA.encode(encoding), EN.encode(encoding)))
    assert f"is {name}" in said and "iconv -f" in said
    assert f"is {name}" in refused(
        tsv(write(tmp_path / "a.tsv", TSV.decode().encode(encoding)), **PLAIN)
    )
    packed(tmp_path / "a.zip", {"c.ja": gzip.compress(JA.encode(encoding)), "c.en": EN.encode()})
    assert f"is {name}" in refused(source("moses", path=tmp_path / "a.zip"))


def test_some_broken_rows_are_counted_not_refused(tmp_path: Path) -> None:
    rows = TSV + "".join(f"{ja}\t{en}\n" for ja, en in ROWS).encode("cp932") + b"caf\xe9\tcaf\xe9\n"
    found, dropped = read_all(corpora(tsv(write(tmp_path / "a.tsv", rows), **PLAIN)))
    assert len(found) == 4 and dropped == {"invalid_utf8": 5}
    stray = TSV + f"<html>{JA[:5]}\tone\n".encode() + "日本\tJIS\n".encode("iso2022_jp")
    assert len(texts(corpora(tsv(write(tmp_path / "a.tsv", stray), **PLAIN)))) == 6
    assert texts(corpora(moses(tmp_path, "<html>一\n二\n", "<html>one\ntwo\n"))) == [
        ("<html>一", "<html>one"),
        ("二", "two"),
    ]
    latin = "".join(f"{en}\tcafé, naïve {n}\n" for n, (_, en) in enumerate(ROWS)).encode("latin-1")
    assert read_all(corpora(tsv(write(tmp_path / "a.tsv", latin), **PLAIN)))[1] == {
        "invalid_utf8": 4
    }


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"
PAGE = (
    b'\n<!DOCTYPE html>\n<html lang="en"><head><title>404</title></head><body>Not '
    b"found</body></html>\n"
)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (POINTER, "is a Git LFS pointer, not the file itself"),
        (PAGE, "is a web page, not data"),
        (b"<html><body>Sign in</body></html>", "is a web page, not data"),
        (
            b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>',
            "a server's error message",
        ),
        (b'{"error": "Repository not found"}', "a server's error message"),
        (b"%PDF-1.4\n", "is a PDF document"),
        (MAC, "attributes macOS keeps"),
    ],
)
def test_a_download_that_is_no_data_is_named(tmp_path: Path, content: bytes, what: str) -> None:
    path = write(tmp_path / "a", content)
    forms = [
        tsv(path, **PLAIN),
        moses(tmp_path, content, content),
        source("tmx", path=path),
        source("parquet", path=path),
    ]
    forms += [
        tsv(packed(tmp_path / "a.zip", {"a.tsv": content}), **PLAIN),
        source("wmt_test", path=path),
    ]
    for form in forms:
        assert what in refused(form), form["kind"]


def test_another_kind_of_file_than_the_recipe_says(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tmx", memory_of("ja", "en"))
    assert "is XML with the root <tmx>" in refused(
        tsv(path, **PLAIN)
    ) and "kind tmx reads it" in refused(tsv(path, **PLAIN))
    assert "kind wmt_test reads it" in refused(moses(tmp_path, "<dataset>", "<dataset>"))
    pq.write_table(pa.table({"ja": ["一"], "en": ["one"]}), tmp_path / "a.parquet")
    assert "is parquet" in refused(tsv(tmp_path / "a.parquet"))
    assert "Office document" in refused(
        tsv(packed(tmp_path / "a.zip", {"[Content_Types].xml": b"", "xl/a.xml": b""}))
    )


def test_exchanged_columns_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", TSV)
    said = refused(tsv(path, header=False, text=1, en=0), RecipeError)
    assert (
        "source 't': Japanese and English are exchanged: 'There is a red circl' is read as Japanese"
        in said
    )
    assert "exchanged" in refused(moses(tmp_path, EN, JA), RecipeError)
    pq.write_table(
        pa.table({"ja": [en for _, en in ROWS], "en": [ja for ja, _ in ROWS]}),
        tmp_path / "a.parquet",
    )
    assert "exchanged" in refused(source("parquet", path=tmp_path / "a.parquet"), RecipeError)
    mixed = TSV + "".join(f"{en}\t{ja}\n" for ja, en in ROWS[:3]).encode()
    assert len(texts(corpora(tsv(write(path, mixed), **PLAIN)))) == 7


# --- names


def two_globs(folder: Path, ja: str = "*.ja", en: str = "*.en") -> dict[str, Any]:
    return source("moses", text_path=folder / ja, en_path=folder / en)


def test_files_of_two_globs_are_paired_by_name(tmp_path: Path) -> None:
    for name, side in (
        ("b.ja", "一"),
        ("a.ja-en.ja", "二"),
        ("b.en", "one"),
        ("a.ja-en.en", "two"),
    ):
        write(tmp_path / name, f"{side}\n".encode())
    assert texts(corpora(two_globs(tmp_path))) == [("二", "two"), ("一", "one")]
    # sorted by name, Japanese and English come in different orders
    for name, side in (
        ("en_2.txt", "two"),
        ("f_eng.txt", "one"),
        ("jpn_2.txt", "二"),
        ("f_jpn.txt", "一"),
    ):
        write(tmp_path / name, f"{side}\n".encode())
    named = two_globs(tmp_path, "*jpn*.txt", "*en*.txt")
    assert texts(corpora(named)) == [("一", "one"), ("二", "two")]
    for language, side in (("japanese", "日本"), ("english", "Japan")):
        (tmp_path / language).mkdir()
        write(tmp_path / language / f"part-1.{language}.txt", f"{side}\n".encode())
    assert texts(corpora(two_globs(tmp_path, "b.j*", "b.e?"))) == [("一", "one")]
    assert texts(corpora(two_globs(tmp_path, "japanese/part-*.txt", "english/part-*.txt"))) == [
        ("日本", "Japan")
    ]
    memory = fsspec.filesystem("memory")
    for name, side in (("z.ja", "一"), ("y.ja", "二"), ("y.en", "two"), ("z.en", "one")):
        memory.pipe(f"/pairs/{name}", f"{side}\n".encode())
    assert texts(
        corpora(source("moses", text_path="memory://pairs/*.ja", en_path="memory://pairs/*.en"))
    ) == [("二", "two"), ("一", "one")]
    memory.rm("/pairs", recursive=True)


def test_a_file_without_a_partner_is_refused_by_name(tmp_path: Path) -> None:
    for name in ("a.ja", "b.ja", "a.en", "c.en"):
        write(tmp_path / name, b"1\n")
    said = refused(two_globs(tmp_path))
    assert (
        "b.ja" in said and "c.en" in said and "a.ja" not in said and "fetch what is missing" in said
    )
    (tmp_path / "b.ja").unlink()
    assert "2 English ones" in refused(two_globs(tmp_path)) and "c.en" in refused(
        two_globs(tmp_path)
    )
    (tmp_path / "a.en").unlink()  # one file each, of two corpora
    assert "a.ja" in refused(two_globs(tmp_path))
    assert texts(corpora(two_globs(tmp_path, "a.ja", "c.en"))) == [
        ("1", "1")
    ]  # named: the user knows
    for name in ("a.jp.txt", "a.ja.txt", "a.en.txt"):
        write(tmp_path / name, b"1\n")
    assert "one name but for the language" in refused(two_globs(tmp_path, "a.j*.txt", "a.e*.txt"))


def test_members_of_an_archive_are_one_corpus(tmp_path: Path) -> None:
    members = {"a.ja": JA.encode(), "b.en": EN.encode(), "b.ja": JA.encode(), "a.en": EN.encode()}
    path = packed(tmp_path / "two.tar", members)
    assert "a.ja and b.en are not one corpus by their names" in refused(source("moses", path=path))
    assert texts(corpora(source("moses", path=path, text_member="b.ja", en_member="b.en"))) == ROWS


@pytest.mark.parametrize("name", ["c.zip", "c.tar", "c.tgz"])
def test_a_literal_name_with_brackets_wins_over_the_pattern(tmp_path: Path, name: str) -> None:
    members = {
        "v train.ja": b"wrong\n",
        "[v] train.ja": JA.encode(),
        "[v] train.en": EN.encode(),
        "v train.en": b"wrong\n",
    }
    path = packed(tmp_path / name, members)
    assert (
        texts(
            corpora(
                source("moses", path=path, text_member="[v] train.ja", en_member="[v] train.en")
            )
        )
        == ROWS
    )
    assert (
        texts(corpora(source("moses", path=path, text_member="[[]v] *.ja", en_member="[[]v] *.en")))
        == ROWS
    )
    assert texts(
        corpora(source("moses", path=path, text_member="[uv] train.ja", en_member="[uv] train.en"))
    ) == [("wrong", "wrong")]


def test_a_literal_folder_with_brackets_wins_over_the_pattern(tmp_path: Path) -> None:
    for folder in ("[v1] *corpus", "v corpus"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "[a].tsv", TSV)
    assert texts(corpora(tsv(tmp_path / "[v1] *corpus" / "*.tsv", **PLAIN))) == ROWS
    assert texts(corpora(tsv(tmp_path / "[v1] *corpus" / "[a].tsv", **PLAIN))) == ROWS
    assert texts(corpora(tsv(tmp_path / "[uv] *" / "*.tsv", **PLAIN))) == ROWS


def test_an_archive_is_known_by_its_content(tmp_path: Path) -> None:
    folder = tmp_path / "wmt.tar.gz_files"
    folder.mkdir()
    for name in ("c.tsv", "c.tar.tsv", "c.tgz"):
        assert texts(corpora(tsv(write(folder / name, TSV), **PLAIN))) == ROWS
    packed(tmp_path / "a.tar", {"c.tsv": TSV}).rename(tmp_path / "plain.tsv")
    assert "with `member`" in refused(tsv(tmp_path / "plain.tsv", **PLAIN))


@pytest.mark.parametrize("suffix", ["zip", "tar", "tar.gz"])
def test_compressed_members_are_decompressed(tmp_path: Path, suffix: str) -> None:
    members = {
        "c.tsv.gz": gzip.compress(TSV),
        "c.ja.gz": gzip.compress(JA.encode()),
        "c.en.zst": pa.compress(EN.encode(), "zstd", asbytes=True),
    }
    path = packed(tmp_path / f"c.{suffix}", members)
    assert texts(corpora(tsv(path, member="*.tsv.gz", **PLAIN))) == ROWS
    assert (
        texts(corpora(source("moses", path=path, text_member="*.ja.gz", en_member="*.en.zst")))
        == ROWS
    )
    inner = packed(tmp_path / "inner.tgz", {"c.tsv": TSV}).read_bytes()
    outer = packed(tmp_path / f"outer.{suffix}", {"inner.tgz": inner})
    assert "inner.tgz is an archive inside the archive" in refused(
        tsv(outer, member="*.tgz", **PLAIN)
    )


@pytest.mark.parametrize(
    "write_empty",
    [
        lambda path: pq.write_table(
            pa.table({"ja": pa.array([], pa.string()), "en": pa.array([], pa.string())}), path
        ),
        lambda path: pq.write_table(pa.table({}), path),
    ],
)
def test_an_empty_part_beside_others_is_no_fault(
    tmp_path: Path, write_empty: Callable[[Path], None]
) -> None:
    write_empty(tmp_path / "part-0.parquet")
    chosen = source("parquet", path=tmp_path / "*.parquet")
    assert "holds no rows" in refused(chosen)
    pq.write_table(
        pa.table({"ja": [ja for ja, _ in ROWS], "en": [en for _, en in ROWS]}),
        tmp_path / "part-1.parquet",
    )
    write_empty(tmp_path / "part-2.parquet")
    assert texts(corpora(chosen)) == ROWS
    write(tmp_path / "1.tsv", b"")
    write(tmp_path / "2.tsv", TSV)
    assert texts(corpora(tsv(tmp_path / "*.tsv", **PLAIN))) == ROWS


def zip_of_windows(path: Path, members: dict[str, bytes], encoding: str) -> Path:
    """Names in a code page, and no flag that says so: zipfile writes none, so equally long names
    are exchanged in the bytes.
    """
    names = {name: name.encode(encoding) for name in members}
    stand_ins = {name: f"{number:0{len(raw)}d}" for number, (name, raw) in enumerate(names.items())}
    data = packed(
        path, {stand_ins[name]: content for name, content in members.items()}
    ).read_bytes()
    for name, raw in names.items():
        data = data.replace(
            struct.pack("<H", 0) + stand_ins[name].encode(), struct.pack("<H", 0) + raw
        )
        data = data.replace(stand_ins[name].encode(), raw)
    return write(path, data)


@pytest.mark.parametrize("encoding", ["cp932", "utf-8"])
def test_names_in_a_zip_of_japanese_windows(tmp_path: Path, encoding: str) -> None:
    path = zip_of_windows(
        tmp_path / "c.zip", {"日本語表.txt": JA.encode(), "英語資料.txt": EN.encode()}, encoding
    )
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist()[0] != "日本語表.txt"  # as zipfile reads them
    assert (
        texts(
            corpora(source("moses", path=path, text_member="日本語表.txt", en_member="英語*.txt"))
        )
        == ROWS
    )
    assert "it holds 日本語表.txt, 英語資料.txt" in refused(source("moses", path=path))


def test_names_in_a_tar_and_names_of_a_mac(tmp_path: Path) -> None:
    with tarfile.open(
        tmp_path / "c.tar", "w", format=tarfile.GNU_FORMAT, encoding="cp932"
    ) as archive:
        for name, text in (("日本語.txt", JA), ("英語.txt", EN)):
            entry = tarfile.TarInfo(name)
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
    assert (
        texts(
            corpora(
                source(
                    "moses", path=tmp_path / "c.tar", text_member="日本語.txt", en_member="英語.txt"
                )
            )
        )
        == ROWS
    )
    decomposed = {
        unicodedata.normalize("NFD", "データ.ja"): JA.encode(),
        unicodedata.normalize("NFD", "データ.en"): EN.encode(),
    }
    for name in ("d.zip", "d.tar"):
        path = packed(tmp_path / name, decomposed)
        assert (
            texts(
                corpora(source("moses", path=path, text_member="データ.ja", en_member="データ.en"))
            )
            == ROWS
        )


def test_rows_are_counted_in_every_case(tmp_path: Path) -> None:
    """`read_all` adds them up; the numbers of ids and drops together are those of the rows."""
    chosen = corpora(moses(tmp_path, "<doc>\n" + JA, "<doc>\n" + EN))
    (only,) = sources.plan(chosen)
    (batch,) = sources.read(chosen.sources[0], only)
    assert batch.dropped == [("t:000000000", "header_line")] and batch.ids == [
        f"t:{n:09d}" for n in range(1, 5)
    ]


def test_own_pairs_without_held_out_ones_are_told_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(recipe: object) -> None:
        raise DataError("stopped")

    monkeypatch.setattr(pipeline, "prepare", stopped)
    own = f"corpora.sources=[{{kind: tsv, name: t, licence: CC0, path: {tmp_path}/a.tsv}}]"
    for overrides, warned in (
        ([own], True),
        ([own, "corpora.held_out_pairs=9"], False),
        ([], False),
    ):
        assert (
            prepare.main(
                [
                    str(ROOT / "configs" / "toyworld.yaml"),
                    f"run={tmp_path}",
                    "corpora.held_out_pairs=0",
                    *overrides,
                ]
            )
            == 3
        )
        said = capsys.readouterr().err.splitlines()
        assert [
            line.startswith("corpora.prepare: warning: corpora.held_out_pairs is 0")
            for line in said
        ] == [True, False][not warned :]
