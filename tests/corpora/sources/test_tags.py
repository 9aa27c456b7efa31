"""Lists of tags in the shapes of the published ones: every line becomes pairs or counted drops."""

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from language_models import real_model
from test_sources import corpora, read_all, write

from configs.errors import DataError, RecipeError
from configs.schema.load import dump_recipe, load_recipe
from corpora import pipeline, prepare, sources
from corpora.inspect import __main__ as inspect_entry
from corpora.pair import read_manifest, read_pairs
from corpora.sources import part

LINES = ("1girl,一人の女の子", "long_hair,ロングヘア", ":d,笑顔", "kimono,着物")
QUOTED = '"don\'t_say_""lazy""",怠けないで'
HAND_MADE = "".join(f"{line}\n" for line in (*LINES, QUOTED))
# danbooru's tags with names from its wiki, some in other languages
WIKI = {
    "id": [11, 13, 34, 60, 93, 512, 700, 701],
    "title": [
        "touhou",
        "monochrome",
        "bandaid",
        "saber_(fate)",
        "prostration",
        "yukata",
        "gone",
        "empty",
    ],
    "other_names": [
        ["東方project", "東方プロジェクト", "東方"],
        ["モノクロ", "モノクロ画", "单色调"],
        ["絆創膏", "创可贴"],
        ["セイバー"],
        ["OTL"],
        ["浴衣", "유카타"],
        None,
        [],
    ],
    "is_deleted": [False] * 8,
    "type": ["copyright", *["general"] * 2, "character", *["general"] * 4],
}
GROUPS = """# nested groups
- name: 人物
  groups:
    - name: キャラクター
      color: rgba(255, 123, 2, .4)
      tags:
        1girl: 1人の女の子
        happy: 幸せ|幸福
        :3: 猫の口
        (lineart): 線画
        ink,(paper): 水彩画
        EasyNegative:
        2000s: 2000
        half: "\\ud83d"
    - type: wrap
- name: 環境
  groups:
    - name: 季節
      tags:
        - summer festival: 夏祭り
        - fireworks: 花火
"""


def tags(path: Path | str, **more: Any) -> dict[str, Any]:
    return {"kind": "tags", "name": "t", "path": str(path), "licence": "CC0", **more}


def pairs(chosen: dict[str, Any]) -> list[tuple[str, str]]:
    return [(text, en) for _, text, en in read_all(corpora(chosen))[0]]


def wiki(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table({**WIKI, **columns}), path)
    return path


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.tsv", "a.txt"])
def test_a_list_made_by_hand(tmp_path: Path, name: str) -> None:
    content = "\ufeff" + HAND_MADE.replace("\n", "\r\n")
    expected = [
        ("一人の女の子", "1girl"),
        ("ロングヘア", "long hair"),
        ("笑顔", ":d"),
        ("着物", "kimono"),
        ("怠けないで", 'don\'t say "lazy"'),
    ]
    if name.endswith("tsv"):  # nothing is quoted there
        content, expected = content.replace(",", "\t"), expected[:4]
        content = "".join(content.splitlines(keepends=True)[:4])
    packed = gzip.compress(content.encode()) if name.endswith("gz") else content.encode()
    more = {"format": "csv"} if name.endswith("txt") else {}
    assert pairs(tags(write(tmp_path / name, packed), **more)) == expected


def test_columns_of_a_list_with_a_header_and_lines_that_are_none(tmp_path: Path) -> None:
    lines = [
        "tag,count,name",
        "yukata,5,浴衣",
        'hakama,7,"袴|はかま|ハカマ"',
        "too,few",
        "",
        '"never closed,1,x',
        'sky,3,空,"more, than the header"',
        "comma,1," + "x" * (part.MAX_TEXT_BYTES + 1),
    ]
    content = "\n".join(lines).encode() + b"\nbroken,1,\xff\n"
    path = write(tmp_path / "a.csv", content)
    rows, dropped = read_all(corpora(tags(path, header=True, text="name", en="tag")))
    assert rows == [
        ("t:000000000", "浴衣", "yukata"),
        ("t:000000001", "袴", "hakama"),
        ("t:000000002", "はかま", "hakama"),
        ("t:000000006", "空", "sky"),
    ]
    assert dropped == {"ragged": 3, "too_long": 1, "invalid_utf8": 1}
    found = pairs(tags(path, header=True, text=2, separator="/", most_names=9))
    assert ("袴|はかま|ハカマ", "hakama") in found


@pytest.mark.parametrize("kind", ["list", "large_list", "text"])
def test_the_wiki_s_names(tmp_path: Path, kind: str) -> None:
    names = WIKI["other_names"]
    column = {
        "list": pa.array(names, pa.list_(pa.string())),
        "large_list": pa.array(names, pa.large_list(pa.large_string())),
        "text": pa.array([None if one is None else "|".join(one) for one in names]),
    }[kind]
    path = wiki(tmp_path / "a.parquet", other_names=column)
    rows, dropped = read_all(corpora(tags(path)))
    assert [(text, en) for _, text, en in rows] == [
        ("東方project", "touhou"),
        ("東方プロジェクト", "touhou"),
        ("モノクロ", "monochrome"),
        ("モノクロ画", "monochrome"),
        ("絆創膏", "bandaid"),
        ("创可贴", "bandaid"),
        ("セイバー", "saber"),
        ("セイバー (fate)", "saber (fate)"),
        ("OTL", "prostration"),
        ("浴衣", "yukata"),
        ("유카타", "yukata"),
    ]
    assert dropped == {"null": 2}
    assert len(pairs(tags(path, most_names=1))) == 7
    assert len(pairs(tags(path, most_names=3))) == 13


def test_a_list_in_parquet_is_not_cut_and_its_bytes_may_be_broken(tmp_path: Path) -> None:
    broken = pa.array([[b"\xff"], [b"a|b"]], pa.list_(pa.binary())).cast(
        pa.list_(pa.string()), safe=False
    )
    table = pa.table({"title": ["one", "two"], "other_names": broken})
    pq.write_table(table, tmp_path / "a.parquet")
    rows, dropped = read_all(corpora(tags(tmp_path / "a.parquet")))
    assert [(text, en) for _, text, en in rows] == [("a|b", "two")]
    assert dropped == {"invalid_utf8": 1}


def test_nested_groups(tmp_path: Path) -> None:
    rows, dropped = read_all(corpora(tags(write(tmp_path / "ja_JP.yaml", GROUPS.encode()))))
    assert [(text, en) for _, text, en in rows] == [
        ("1人の女の子", "1girl"),
        ("幸せ", "happy"),
        ("幸福", "happy"),
        ("猫の口", ":3"),
        ("線画", "lineart"),
        ("夏祭り", "summer festival"),
        ("花火", "fireworks"),
    ]
    assert dropped == {"several_tags": 1, "null": 1, "not_text": 1, "invalid_utf8": 1}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(',"\n\r|あa_ ()', max_size=12), max_size=8), st.integers(1, 5))
def test_any_lines_are_counted_however_they_are_cut(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], part_rows: int
) -> None:
    content = "first,一\n" + "\n".join(lines)
    path = write(tmp_path_factory.mktemp("tags") / "a.csv", content.encode())
    whole = read_all(corpora(tags(path)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(part, "STREAM_PART_ROWS", part_rows)
        assert read_all(corpora(tags(path))) == whole
    rows, dropped = whole
    assert rows[0] == ("t:000000000", "一", "first")
    # of a line come at most two names in two spellings, and at least a drop
    count = len(content.removesuffix("\n").split("\n"))
    assert count <= len(rows) + dropped.total() <= 4 * count


@pytest.mark.parametrize(
    ("name", "content", "more", "message"),
    [
        ("a.csv", b"a,b\n", {"text": 2}, "no column number 2, the rows have 2 fields"),
        ("a.csv", b"a,b\n", {"text": "ja"}, "without a header line a column is a number"),
        ("a.csv", b"a,b\nc,d\n", {"header": True, "text": "ja"}, "0 columns are called 'ja'"),
        ("a.txt", b"a,b\n", {}, "does not end with .csv, .tsv, .yaml, .yml, .parquet; say with"),
        ("a.csv", "あ,い\n".encode("utf-16"), {}, "is UTF-16, not UTF-8"),
        ("a.csv", b"", {}, "holds no rows"),
        ("a.yaml", b"- name: x\n  groups: []\n", {}, "holds no key `tags` with TAG: NAME below it"),
        ("a.yaml", b"tags: 3\n", {}, "holds no key `tags` with TAG: NAME below it"),
        ("a.yaml", b"1girl,x\n", {}, "holds no key `tags` with TAG: NAME below it"),
        ("a.yaml", b"a: [\n", {}, "not valid YAML at line 2"),
        ("a.yaml", b"tags:\n  a: b\n  a: c\n", {}, "the key 'a' stands twice"),
        ("a.yaml", b"#" * 1_000_001, {}, "1,000,001 characters, 1,000,000 at most"),
        ("a.parquet", b"title,other_names\n", {}, "cannot be read as parquet"),
        ("a.csv", b"PAR1....", {}, "is parquet; "),
        ("b.csv", None, {}, "there is no such file (source 't')"),
    ],
)
def test_a_list_that_cannot_be_used(
    tmp_path: Path, name: str, content: bytes | None, more: dict[str, Any], message: str
) -> None:
    if content is not None:
        write(tmp_path / name, content)
    with pytest.raises((DataError, RecipeError)) as caught:
        read_all(corpora(tags(tmp_path / name, **more)))
    shown = str(caught.value)
    assert message in shown and name in shown and "\n" not in shown


def test_a_parquet_list_that_cannot_be_used(tmp_path: Path) -> None:
    def refused(message: str, **more: Any) -> None:
        with pytest.raises(RecipeError, match=message):
            sources.plan(corpora(tags(path, **more)))

    path = wiki(tmp_path / "a.parquet")
    refused("no one column 'ja' among 'id, title, other_names, is_deleted, type'", text="ja")
    refused("column 'id' holds int64, not text; correct source 't'", text="id")
    refused("column 'is_deleted' holds bool, not text", en="is_deleted")
    refused("column 'other_names' holds list<.*>, not text", en="other_names")
    path = wiki(tmp_path / "a.parquet", other_names=pa.array([[1]] * 8))
    refused("column 'other_names' holds int64, not text")


def test_a_setting_of_the_filters_is_named_where_it_stands(tmp_path: Path) -> None:
    source = f"{{kind: tags, name: t, licence: x, path: {tmp_path}, filters: {{min_caracters: 2}}}}"
    with pytest.raises(RecipeError, match=r"sources\.0\.filters\.min_caracters.*min_characters"):
        load_recipe("configs/toyworld.yaml", [f"corpora.sources=[{source}]"])


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    """A recipe of the three lists, and of a plain source with the same words."""
    hand_made = HAND_MADE + "sky,空\nstarry_sky,星空\nnude,裸\nloli,ロリ\nchild,子供\nlatin,latin\n"
    write(tmp_path / "a.csv", hand_made.encode())
    write(tmp_path / "ja_JP.yaml", GROUPS.encode())
    wiki(tmp_path / "wiki.parquet")
    write(tmp_path / "plain.tsv", "ja\ten\n空\tsky\n裸の男\tthe naked man\n".encode())
    listed = [
        tags(tmp_path / "a.csv", name="hand_made", licence="MIT"),
        tags(tmp_path / "ja_JP.yaml", name="groups", licence="MIT"),
        tags(tmp_path / "wiki.parquet", name="wiki", licence="CC0-1.0"),
        {**tags(tmp_path / "plain.tsv", name="plain"), "kind": "tsv"},
    ]
    return [
        "configs/toyworld.yaml",
        f"run={tmp_path / 'run'}",
        f"corpora.sources={json.dumps(listed)}",
        f"corpora.language_id={{model: {real_model()}, min_probability: 0.15}}",
        "corpora.filters={}",
        "corpora.near_duplicates={}",
        "corpora.held_out_pairs=2",
    ]


def test_lists_become_pairs_with_their_licences_and_every_drop_has_a_reason(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare.main(arguments) == 0
    folder = tmp_path / "run" / "pairs"
    found = [one for split in ("train", "held_out") for one in read_pairs(folder, split)]
    texts = {(one.text, one.en): (one.source, one.licence) for one in found}
    # one character, no English word, Chinese to a language model: kept, as prompts have them
    for pair in [("空", "sky"), ("着物", "kimono"), ("星空", "starry sky"), ("笑顔", ":d")]:
        assert texts[pair] == ("hand_made", "MIT")
    assert texts["セイバー", "saber"] == ("wiki", "CC0-1.0")
    assert texts["幸福", "happy"] == ("groups", "MIT")
    assert ("子供", "child") in texts
    # the plain source keeps the filters of the recipe: 空 is too short there, the naked man stays
    assert texts["裸の男", "the naked man"] == ("plain", "CC0")
    reasons = sum((Counter(one.dropped) for one in read_manifest(folder).stages), Counter[str]())
    kept = {
        reason: reasons[reason]
        for reason in ("unsafe", "several_tags", "null", "not_text", "too_short", "copy")
    }
    assert kept == {
        "unsafe": 2,
        "several_tags": 1,
        "null": 3,
        "not_text": 1,
        "too_short": 1,
        "copy": 1,
    }
    # OTL and the Korean name; the simplified Chinese one
    assert reasons["no_japanese_script"] == 2 and reasons["ja_script_is_not_japanese"] == 1
    capsys.readouterr()


def test_inspect_judges_a_tag_by_the_settings_of_its_source(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    unsafe, short, chinese = "hand_made:7", "hand_made:5", "hand_made:6"
    assert inspect_entry.main([*arguments, unsafe, short, chinese]) == 0
    shown = capsys.readouterr().out
    assert "dropped by filter: unsafe" in shown and "found 'nude'" in shown
    assert shown.count("would be kept by the filters") == 2
    assert "to keep it: corpora.sources.0.filters.unsafe=false" in shown
    changes = [
        "corpora.sources.0.filters.unsafe=false",
        "corpora.sources.0.filters.min_characters=2",
        "corpora.sources.0.min_probability=0.15",
    ]
    assert inspect_entry.main([*arguments, unsafe, short, chinese, *changes]) == 0
    shown = capsys.readouterr().out
    assert "would be dropped by filter: too_short" in shown
    assert "to keep it: corpora.sources.0.filters.min_characters=1" in shown
    assert "to keep it: corpora.sources.0.min_probability=0.0" in shown


def test_only_recipes_that_use_the_filter_of_unsafe_pairs_record_it(tmp_path: Path) -> None:
    """So that pairs which were made before there was one stay valid."""
    source = "{kind: tags, name: t, licence: x, path: a.csv, filters: {unsafe: false}}"
    changes = [[f"corpora.sources=[{source}]"], [], ["corpora.filters.unsafe=true"]]
    off, plain, on = (load_recipe("configs/toyworld.yaml", one) for one in changes)
    for recipe in (off, plain, on):
        (tmp_path / "again.yaml").write_text(dump_recipe(recipe), encoding="utf-8")
        assert load_recipe(tmp_path / "again.yaml") == recipe
    filters = [pipeline.recorded_settings(one.corpora)["filters"] for one in (plain, on)]
    assert "unsafe" not in filters[0] and filters[1] == {**filters[0], "unsafe": True}
