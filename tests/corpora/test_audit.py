"""What each source gave and why, a sheet to judge by eye, and the rates it tells once it is filled
in.
"""

from pathlib import Path

import pytest
from scipy.stats import binomtest

from configs.schema.load import load_recipe
from corpora import prepare, yields
from corpora.audit import __main__ as audit_entry
from corpora.audit import audit_rates, audit_sheet
from corpora.audit.audit_sheet import KEPT, Line
from corpora.pair import read_manifest, read_pairs
from corpora.toyworld import captions


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A good source, one with its columns exchanged, and toyworld."""
    folder = tmp_path_factory.mktemp("audit")
    texts = [(one.text, one.en) for one in captions.pairs(120, "train", seed=5)]
    good = [
        *(f"{ja}\t{en}" for ja, en in texts[:60]),
        "赤い丸\t<b> &",
        "\ta",
        "=1+1の丸\tgood <td>circle</td>",
        "ragged",
    ]
    (folder / "good.tsv").write_text("\n".join(good) + "\n", encoding="utf-8")
    (folder / "bad.tsv").write_text(
        "".join(f"here: {en}\t{en}\n" for _, en in texts[60:]), encoding="utf-8"
    )
    listed = ", ".join(
        f"{{kind: tsv, name: {name}, path: {folder / name}.tsv, licence: x, header: false,"
        f" text: 0, en: 1}}"
        for name in ("good", "bad")
    )
    arguments = [
        "configs/toyworld.yaml",
        f"run={folder / 'run'}",
        f"corpora.sources=[{listed}, {{kind: toyworld, pairs: 30, held_out_pairs: 10}}]",
    ]
    assert prepare.main(arguments) == 0
    return arguments


def pairs_of(arguments: list[str]) -> Path:
    return load_recipe(arguments[0], arguments[1:]).run_dir / "pairs"


def test_rows_add_up_and_a_thin_source_is_named(
    prepared: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = yields.of_pairs(pairs_of(prepared))
    manifest = read_manifest(pairs_of(prepared))
    assert [(one.source, one.rows_in, one.kept) for one in found] == [
        ("good", 64, 60),
        ("bad", 60, 0),
        ("toyworld", 40, 40),
    ]
    assert sum(one.rows_in for one in found) == manifest.stages[0].rows_in
    for stage in manifest.stages:
        for reason, count in stage.dropped.items():
            assert sum(one.dropped[stage.name, reason] for one in found) == count
    expected = (
        "warning: source 'bad' gave 0 of 60 rows; dropped were 60 filter: "
        "no_japanese_script; python -m corpora.audit RECIPE"
    )
    assert [one.warning is None for one in found] == [True, False, True] and found[
        1
    ].warning.startswith(expected)
    capsys.readouterr()
    assert prepare.main([*prepared, f"run={tmp_path}"]) == 0
    assert [line for line in capsys.readouterr().err.splitlines() if "warning: source" in line] == [
        found[1].warning
    ]
    assert audit_entry.main([*prepared, "--rows", "5"]) == 0
    shown = capsys.readouterr().out
    assert found[1].warning in shown and all(
        f"\n{name}\n" in f"\n{shown}" for name in ("good", "bad", "toyworld")
    )


def test_the_sheet_is_drawn_by_the_seed_and_read_again(
    prepared: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = pairs_of(prepared).parent / "audit"
    made = []
    for seed in (0, 0, 1):
        assert audit_entry.main([*prepared, "--rows", "20", "--seed", str(seed)]) == 0
        made.append((folder / "sheet.tsv").read_bytes())
    assert made[0] == made[1] != made[2]
    lines = audit_sheet.read(folder / "sheet.tsv", pairs_of(prepared))
    groups = {(line.stage, line.reason) for line in lines}
    counts = {group: sum((line.stage, line.reason) == group for line in lines) for group in groups}
    assert (
        counts[KEPT, KEPT] == counts["filter", "no_japanese_script"] == 20
        and counts["read", "ragged"] == 1
    )
    kept = {
        one.id: one
        for split in ("train", "held_out")
        for one in read_pairs(pairs_of(prepared), split)
    }
    assert all(kept[line.id][1:3] == (line.text, line.en) for line in lines if line.stage == KEPT)
    assert len({line.id for line in lines}) == len(lines) and all(
        line.judgement == "" for line in lines
    )
    page = (folder / "sheet.html").read_text(encoding="utf-8")
    assert (
        "<td>circle" not in page
        and "&lt;td&gt;circle&lt;/td&gt;" in page
        and all(line.id in page for line in lines)
    )
    filled = (folder / "sheet.tsv").read_text(encoding="utf-8").split("\n")
    filled[1:4] = [f"Good{line}" for line in filled[1:4]]
    (folder / "filled.tsv").write_text("\ufeff" + "\r\n".join(filled), encoding="utf-8")
    capsys.readouterr()
    assert audit_entry.main([*prepared, "--judged", str(folder / "filled.tsv")]) == 0
    shown = capsys.readouterr().out
    assert "not judged" in shown and "kept rows that are bad pairs" in shown


def test_the_rates_are_those_of_the_judged_rows() -> None:
    lines = [Line("good" if n < 3 else "bad", "filter", "copy", f"a:{n}") for n in range(50)]
    lines += [Line("bad" if n < 102 else "good", KEPT, KEPT, f"a:{n}") for n in range(100, 140)]
    lines += [Line("", "filter", "markup", "a:99")]
    found = audit_rates.rates(
        lines,
        [
            yields.Yield(
                "a", 2000, 1490, yields.Counter({("filter", "copy"): 500, ("filter", "markup"): 10})
            )
        ],
    )
    by_name = {one.name: one for one in found}
    copy, kept = by_name["filter: copy"], by_name[KEPT]
    assert [one.name for one in found] == ["filter: copy", "filter: markup", KEPT]
    assert (copy.rows, copy.judged, copy.found) == (500, 50, 3) and (
        kept.rows,
        kept.judged,
        kept.found,
    ) == (1490, 40, 2)
    assert copy.interval == pytest.approx(tuple(binomtest(3, 50).proportion_ci(method="wilson")))
    shown = audit_rates.table(found)
    # 30 of 500 + 1490 * 38 / 40
    assert (
        "good pairs lost: 30 (" in shown
        and f"{30 / (30 + 1490 * 0.95):.2%} of all good ones" in shown
    )
    assert "10 dropped rows are of reasons not judged" in shown


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda text: text.replace("\tfilter\t", "x\tfilter\t", 1).replace("x\tf", "maybe\tf"),
            "the judgement is",
        ),
        (
            lambda text: text.replace("no_japanese_script", "copy", 1),
            "was not dropped by filter: copy",
        ),
        (lambda text: "id\n" + text, "its first line is not judgement stage reason id"),
        (lambda text: "", "its first line is not"),
    ],
)
def test_a_sheet_that_is_wrong_is_one_line(
    prepared: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: object,
    message: str,
) -> None:
    assert audit_entry.main([*prepared, "--rows", "3"]) == 0
    text = (pairs_of(prepared).parent / "audit" / "sheet.tsv").read_text(encoding="utf-8")
    (tmp_path / "sheet.tsv").write_text(change(text), encoding="utf-8")
    assert audit_entry.main([*prepared, "--judged", str(tmp_path / "sheet.tsv")]) == 3
    assert message in capsys.readouterr().err.splitlines()[-1]
