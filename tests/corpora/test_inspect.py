"""What is said about the rows: of each dropped one why, of all of them a card; and that both agree
with what the pipeline did.
"""

import html
import json
import random
import re
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from configs.schema.filters import Filters
from configs.schema.load import load_recipe
from corpora import dropped, prepare
from corpora.filters import rules
from corpora.inspect import __main__ as inspect_entry
from corpora.pair import read_manifest, read_pairs
from corpora.toyworld import captions

CLEAN = [(one.text, one.en) for one in captions.pairs(150, "train", seed=5)]
DIRTY = [
    "ragged",
    b"\xff\t\xff",
    "\ta red circle",
    "丸\ta red circle",
    "赤い丸\t" + "a red circle " * 30,
    "赤い\ufffd丸\ta red circle",
    "ＣＤケース\tCDケース",
    "#Product1#の赤い丸\ta red circle",
    "Red circle\ta red circle",
    "赤い丸\ta red circle・四角",
    "二〇二〇年の丸\t2020 ...",
    "<td>赤い</td>丸\ta red circle",
    "赤い丸\tsee www.example.org",
    "赤い丸の写真\tDSC_0001.JPG",
    "赤い丸と青い四角と緑の三角と黄色い丸と大きな四角\tcircle",
    "赤い服の1男性と4ビキニの3女性\ta man in red and women in bikinis",
    "青い丸の前の全裸の人\ta naked person in front of a blue circle",
    "中国的经济正在快速增长\tthe big red circle",
    "大きい赤い丸\tEin kleiner grüner Ring links von einem großen roten Kreuz",
    "Ａ{}\t{}".format(*CLEAN[3]),
    "{}\t{}".format(*CLEAN[3]),
    f"{CLEAN[4][0]} \t{CLEAN[4][1].upper()}",
    *("{}！\t{}!".format(*pair) for pair in CLEAN[5:15]),
    *(f"{ja}\tsomething else about number {row}" for row, (ja, _) in enumerate(CLEAN[20:90])),
]


def write_source(path: Path, seed: int) -> Path:
    """The clean rows, and below them the dirty ones, both in an order of the seed."""
    blocks = [[f"{ja}\t{en}" for ja, en in CLEAN], list(DIRTY)]
    for block in blocks if seed else ():
        random.Random(seed).shuffle(block)
    lines = [
        line if isinstance(line, bytes) else line.encode() for block in blocks for line in block
    ]
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def settings(source: Path, run: Path) -> list[str]:
    listed = (
        f"{{kind: tsv, name: news, path: {source}, licence: CC | 0, header: false, text: 0, en: 1}}"
    )
    toyworld = "{kind: toyworld, pairs: 30, held_out_pairs: 10}"
    return [
        "configs/toyworld.yaml",
        f"run={run}",
        f"corpora.sources=[{listed}, {toyworld}]",
        "corpora.near_duplicates={}",
        "corpora.filters.unsafe=true",
        "corpora.held_out_pairs=30",
    ]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The arguments of a recipe whose pairs are made."""
    folder = tmp_path_factory.mktemp("inspect")
    arguments = settings(write_source(folder / "news.tsv", 0), folder / "run")
    assert prepare.main(arguments) == 0
    return arguments


def pairs_of(arguments: list[str]) -> Path:
    return load_recipe(arguments[0], arguments[1:]).run_dir / "pairs"


def blocks(printed: str) -> dict[str, str]:
    """What was printed, by the id each paragraph begins with."""
    found = [re.match(r"(\S+:\d+): ", one) for one in printed.split("\n\n")]
    return {match[1]: match.string for match in found if match}


def test_every_row_is_told_as_it_was_done(
    prepared: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """What is judged anew, row by row, agrees with the record; every row is either in a split or in
    the record; every override keeps its row.
    """
    folder = pairs_of(prepared)
    lost = pq.read_table(folder / dropped.FILE).to_pylist()
    kept = {one.id: split for split in ("train", "held_out") for one in read_pairs(folder, split)}
    manifest = read_manifest(folder)
    assert (
        len(kept.keys() | {row["id"] for row in lost})
        == len(kept) + len(lost)
        == manifest.stages[0].rows_in
    )
    reasons = {row["reason"] for row in lost}
    expected = {rules.reason(one, Filters()) for one in rules.FILTERS} | {
        "ragged",
        "invalid_utf8",
        "ja_script_is_not_japanese",
        "en_is_not_english",
    }
    assert reasons == expected | {"exact_duplicate", "near_duplicate", "text_is_held_out"}
    assert inspect_entry.main([*prepared, *(row["id"] for row in lost), *kept]) == 0
    told = blocks(capsys.readouterr().out)
    assert len(told) == len(lost) + len(kept)
    assert all(
        told[id].splitlines()[0] == f"{id}: kept, in {split}" and "DROPS" not in told[id]
        for id, split in kept.items()
    )
    for row in lost:
        id, stage, reason, other, score = row.values()
        lines = told[id].splitlines()
        assert lines[0] == f"{id}: dropped by {stage}: {reason}"
        assert stage == "read" or re.search(rf"^    DROPS +{reason} ", told[id], re.M)
        assert score is None and (other is not None) == (stage in ("deduplicate", "split"))
        assert other is None or f"    the other row is {other}" in lines
    for reason in (
        "too_long",
        "too_short",
        "length_ratio",
        "unsafe",
        "ja_script_is_not_japanese",
        "en_is_not_english",
    ):
        id = next(row["id"] for row in lost if row["reason"] == reason)
        drops = rf"DROPS +{reason} .*\n +to keep it: (\S+)"
        override = re.search(drops, told[id])
        assert override and inspect_entry.main([*prepared, id, override[1]]) == 0
        shown = capsys.readouterr().out
        assert (
            "made by other settings" in shown
            and "; with these settings it would be " in shown
            and not re.search(drops, shown)
        )


def test_rows_of_a_reason_and_texts_of_ones_own(
    prepared: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert inspect_entry.main([*prepared, "--reason", "near_duplicate", "--limit", "2"]) == 0
    told = blocks(capsys.readouterr().out)
    assert len(told) == 2 and all("the words are the same" in block for block in told.values())
    assert inspect_entry.main([*prepared, next(iter(told)), "corpora.near_duplicates=null"]) == 0
    assert re.search(
        "ok +near_duplicate +these settings look for no near duplicates", capsys.readouterr().out
    )
    folder = pairs_of(prepared)
    own = next(read_pairs(folder, "held_out"))
    for ja, en, expected in (
        (
            own.text,
            own.en.capitalize(),
            f"dropped by deduplicate: exact_duplicate\n.*the other row is {own.id}\n",
        ),
        (
            own.text,
            "something else",
            f"dropped by split: text_is_held_out\n.*the other row is {own.id}\n.*",
        ),
        (
            "新しい赤い丸\u200b",
            "a new red circle",
            r"then corpora\.prepare compares it.*as read   text  '.*u200b'\n.*cleaned   text  "
            r"新しい赤い丸\n",
        ),
        ("赤い丸", "", "dropped by filter: empty\n"),
    ):
        assert inspect_entry.main([*prepared, "--text", ja, "--en", en]) == 0
        assert re.match("this pair: would be .*" + expected, capsys.readouterr().out, re.S)
    # nothing needs to be prepared to judge a row by itself
    assert (
        inspect_entry.main([*prepared, f"run={tmp_path / 'none'}", "news:7", "toyworld:held_out:3"])
        == 0
    )
    assert blocks(capsys.readouterr().out).keys() == {"news:000000007", "toyworld:held_out:000003"}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["olds:1"], 2, r"'olds:1' is no id of this recipe.*the sources are news, toyworld"),
        (["toyworld:1"], 2, r"the sources are toyworld:train, toyworld:held_out"),
        (["news:-1"], 2, r"'news:-1' is no id"),
        (["news:500"], 3, r"news:000000500: source 'news' has 252 rows, numbered from 0"),
        (
            ["--reason", "ugly"],
            2,
            r"--reason ugly: no row was dropped for it; the reasons are address, copy,",
        ),
        (
            ["--reason", "copy", "run=nowhere"],
            2,
            r"nowhere/pairs does not say what was dropped; run: python -m corpora\.prepare RECIPE",
        ),
        (
            ["news:1", "corpora.language_id.model=none.ftz"],
            3,
            r"none\.ftz: there is no language-id model",
        ),
    ],
)
def test_what_a_user_can_get_wrong_is_one_line(
    prepared: list[str],
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    assert inspect_entry.main([*prepared, *arguments]) == code
    last = capsys.readouterr().err.rstrip().splitlines()[-1].rpartition("\r")[2]
    assert re.search(f"corpora.inspect: .*{message}", last)


def test_a_damaged_record_is_one_line(
    prepared: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(pairs_of(prepared), tmp_path / "pairs")
    path = tmp_path / "pairs" / dropped.FILE
    path.write_bytes(path.read_bytes()[:-9])
    assert inspect_entry.main([*prepared, f"run={tmp_path}", "news:1"]) == 3
    error = capsys.readouterr().err.strip()
    assert re.search(
        r"dropped\.parquet: cannot be read .*move the folder away and run: python -m "
        r"corpora\.prepare RECIPE$",
        error,
    )


def test_the_data_card_says_what_the_manifest_says_and_holds_all_it_shows(
    prepared: list[str],
) -> None:
    folder = pairs_of(prepared)
    manifest, page = read_manifest(folder), (folder / "data_card.html").read_text(encoding="utf-8")
    text = html.unescape(re.sub(r"<[^>]+>", " ", page))
    for stage in manifest.stages:
        for reason, count in stage.dropped.items():
            assert re.search(rf"{reason}\s+−{count:,}\s", text)
            assert re.search(rf"{stage.name}: {reason}\s+{count:,} rows\s+\S+:\d+", text), (
                "no sample of a reason"
            )
    assert not re.search(
        r"<script|<link|<img|\ssrc=|url\(|https?://(?!\s)", page.replace("http://www.w3.org", "")
    )
    assert "<td>赤い" not in page and "&lt;td&gt;赤い&lt;/td&gt;丸" in page
    known = json.loads((folder / "samples.json").read_text(encoding="utf-8"))
    assert [(one["name"], one["rows_in"]) for one in known["sources"]] == [
        ("news", 252),
        ("toyworld", 40),
    ]
    for split in ("train", "held_out"):
        assert sum(one[split] for one in known["sources"]) == manifest.rows(split)
    assert all(
        len(some) <= dropped.SAMPLES
        for reasons in known["dropped"].values()
        for some in reasons.values()
    )
    assert len(known["dropped"]["filter"]["too_long"][0][2]) == dropped.SAMPLE_CHARACTERS
    # the histograms hold every kept pair
    for title in (
        "Length, Japanese",
        "Length, English",
        "is Japanese",
        "is English",
        "Longer side over shorter",
    ):
        table = re.search(rf"<h3>[^<]*{title}</h3>(.*?)</table>", page, re.S)
        assert (
            table
            and sum(
                int(one.replace(",", "")) for one in re.findall(r"<td>([\d,]+)</td></tr>", table[1])
            )
            == manifest.stages[-1].rows_out
        )
    _, front, body = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    listed = yaml.safe_load(front)["configs"][0]["data_files"]
    assert {one["split"]: len([*folder.glob(one["path"])]) for one in listed} == {
        split: len(manifest.splits[split]) for split in manifest.splits
    }
    assert r"| news | tsv | CC \| 0 | 252 |" in body


def test_which_rows_are_shown_depends_on_the_texts_alone(
    prepared: list[str], tmp_path: Path
) -> None:
    other = settings(write_source(tmp_path / "news.tsv", 1), tmp_path / "run")
    assert prepare.main(other) == 0
    one, two = (
        json.loads((pairs_of(arguments) / "samples.json").read_text(encoding="utf-8"))
        for arguments in (prepared, other)
    )
    for stage in ("filter", "language_id"):
        assert {
            reason: [fields[1:] for fields in some]
            for reason, some in one["dropped"][stage].items()
        } == {
            reason: [fields[1:] for fields in some]
            for reason, some in two["dropped"][stage].items()
        }
