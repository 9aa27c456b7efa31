"""Pairs whose words do not translate each other: found without a model, whatever the workers."""

import math
import random
import re
import time
from pathlib import Path

import e5_model
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from exchanged_sides import prepared
from scipy.stats import mannwhitneyu

from configs.errors import DataError
from configs.references import ModelName
from configs.schema.corpora import Semantic
from corpora import dropped, prepare
from corpora.alignment import Ragged, align
from corpora.filters import semantic, translations
from corpora.filters.translations import FEWEST, SEEN, SMOOTHING, TranslationCounts, units
from corpora.inspect import __main__ as inspect_entry
from corpora.pair import read_manifest
from corpora.toyworld import captions

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data" / "pairs"


def counted_of(folder: Path, text: list[str], en: list[str], cut: int) -> TranslationCounts:
    """Counts of two parts, the first with `cut` rows."""
    parts = [folder / "0.parquet", folder / "1.parquet"]
    table = pa.table({"text": text, "en": en})
    for path, rows in zip(parts, (table.slice(0, cut), table.slice(cut)), strict=True):
        pq.write_table(rows, path)
    starts = np.array([0, cut, len(text)])
    return translations.count(parts, np.ones(len(text), dtype=bool), starts)


def toyworld(count: int) -> tuple[list[str], list[str]]:
    found = [*captions.pairs(count, "train", seed=3)]
    return [one.text for one in found], [one.en for one in found]


def test_units_need_no_tokenizer() -> None:
    assert units("大きい赤い丸と赤い丸") == "大 きい 赤 い 丸 と".split()
    assert units("日本語のテスト、2個!") == "日 本 語 日本 本語 の テスト 2 個".split()
    assert units("A Dog's ＢＯＷＬ") == ["a", "dog", "s", "bowl"]
    assert units("파란 원") == "파 란 파란 원".split()
    assert units("!?…") == []


def test_the_score_is_its_formula(tmp_path: Path) -> None:
    """Word by word, from the probabilities of corpora.alignment."""
    text, en = toyworld(60)
    found = counted_of(tmp_path, text, en, 23)
    sides = [[units(row) for row in rows] for rows in (text, en)]
    names: list[dict[str, int]] = []
    for rows in sides:
        flat = [one for row in rows for one in row]
        frequent = [one for one in dict.fromkeys(flat) if flat.count(one) >= FEWEST]
        names.append({one: i for i, one in enumerate(frequent)})
    ids = [
        [[known[one] for one in row if one in known] for row in rows]
        for rows, known in zip(sides, names, strict=True)
    ]
    table = align(Ragged.of(ids[0]), Ragged.of(ids[1]))
    couples = dict(zip(table.keys.tolist(), range(len(table.keys)), strict=True))
    shares = [np.bincount(side.ids) / len(side.ids) for side in map(Ragged.of, ids)]

    def probability(values: np.ndarray, source: int, target: int) -> float:
        cell = couples.get(source * table.width + target)
        return 0.0 if cell is None or table.seen[cell] < SEEN else float(values[cell])

    def side(own: list[int], other: list[int], which: int) -> float:
        values, null = (
            (table.backward, table.null_sources)
            if which == 0
            else (table.forward, table.null_targets)
        )
        gains = []
        for one in own:
            couple = [(one, that) if which == 0 else (that, one) for that in other]
            p = (sum(probability(values, *two) for two in couple) + null[one]) / (len(other) + 1)
            gains.append(math.log(SMOOTHING + (1 - SMOOTHING) * p / shares[which][one]))
        return sum(gains) / len(gains)

    wanted = [
        (side(source, target, 0) + side(target, source, 1)) / 2
        for source, target in zip(*ids, strict=True)
    ]
    scores = found.scores(text, en)
    assert scores == pytest.approx(wanted, abs=1e-4)
    # neither the rows beside it nor the file between count
    found.write(tmp_path / "counted.npz")
    again = translations.read(tmp_path / "counted.npz")
    assert np.array_equal(again.scores(text[7:9], en[7:9]), scores[7:9])
    assert np.isnan(found.scores(["!?", "赤い丸", "赤い丸"], ["a red circle", "", "qwertz"])).all()


def test_no_pair_teaches_its_own_rare_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong pair whose words meet nowhere else: without the limit they would explain each other,
    because they are rare.
    """
    text, en = toyworld(200)
    wrong = "鯨、鰯", "tax law"
    text[0], en[1] = f"{text[0]}、{wrong[0]}", f"{en[1]} {wrong[1]}"
    sides = [*text, wrong[0]], [*en, wrong[1]]
    found = counted_of(tmp_path, *sides, 90)
    assert {"鯨", "鰯"} <= set(found.texts) and {"tax", "law"} <= set(found.words)
    *_, odd = found.scores(*sides).tolist()
    assert odd == pytest.approx(math.log(SMOOTHING), abs=0.5)
    monkeypatch.setattr(translations, "SEEN", 0.0)
    *_, explained = counted_of(tmp_path, *sides, 90).scores(*sides).tolist()
    assert explained > 0


def test_nothing_to_count_measures_nothing(tmp_path: Path) -> None:
    for text, en in (([], []), (["赤い丸"], ["a red circle"])):
        found = counted_of(tmp_path, text, en, 0)
        assert np.isnan(found.scores(["赤い丸"], ["a red circle"])).all()


def test_no_more_pairs_are_counted_than_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, en = toyworld(90)
    monkeypatch.setattr(translations, "MOST_PAIRS", 30)
    few = counted_of(tmp_path, text, en, 40)
    alone = counted_of(tmp_path, text[::3], en[::3], 7)
    assert few.texts == alone.texts and np.array_equal(few.scores(text, en), alone.scores(text, en))


def test_a_damaged_count_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "counted.npz"
    counted_of(tmp_path, *toyworld(20), 5).write(path)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(DataError, match=r"counted\.npz: cannot be read \(.*; delete it and run"):
        translations.read(path)


def test_wrong_translations_go_whatever_the_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = "{kind: alignment, min_score: -0.1}"
    arguments, folder, wrong = prepared(tmp_path, chosen, monkeypatch)
    manifest = read_manifest(folder / "pairs")
    (stage,) = (one for one in manifest.stages if one.name == "semantic")
    rows = pq.read_table(folder / "pairs" / dropped.FILE).to_pylist()
    lost = {row["id"]: row["score"] for row in rows if row["reason"] == "low_alignment"}
    assert stage.dropped == {"low_alignment": len(lost)} and max(lost.values()) < -0.1
    numbers = {int(id.removeprefix("t:")) for id in lost}
    assert len(numbers & wrong) >= 55 and len(numbers - wrong) <= 11
    capsys.readouterr()
    line = [*arguments, f"run={folder}", "--reason", "low_alignment", "--limit", "1"]
    assert inspect_entry.main(line) == 0
    shown = capsys.readouterr().out
    score = lost[shown.partition(": ")[0]]
    assert "dropped by semantic: low_alignment" in shown and f"e^{score:.3f} times" in shown
    assert float(re.search(r"to keep it: corpora\.semantic\.min_score=(\S+)", shown)[1]) <= score


@pytest.mark.parametrize(
    ("semantic", "cause"),
    [
        ("{kind: aligment}", "corpora.semantic.kind: there is no kind 'aligment'; did you mean"),
        ("{kind: alignment, min_scor: 0}", "corpora.semantic.min_scor: there is no such key"),
        ("{kind: alignment, model: x}", "corpora.semantic.model: there is no such key"),
        ("{min_margin: 0.9}", "corpora.semantic.model: missing"),
    ],
)
def test_a_wrong_section_is_one_line(
    semantic: str, cause: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["configs/toyworld.yaml", f"run={tmp_path}", f"corpora.semantic={semantic}"]
    assert prepare.main(line) == 2
    error = capsys.readouterr().err
    assert cause in error and error.count("\n") == 1


KINDS = {
    "sentences": ["tanaka_train"],
    "captions": ["youcook2_jp", "flickr30k_valid_ja_mt", "flickr30k_train_autoaligned_m05"],
    "dialogue": ["bsd_dev"],
    "news": ["wmt22.ja-en", "wmt22.en-ja"],
}


@pytest.mark.full_size
def test_exchanged_sides_of_real_pairs_are_found(tmp_path: Path) -> None:
    """A tenth of each kind of ../shared/data's pairs has the English of another pair of its kind;
    all are counted together. Beside it the margin of a real encoder, on 1,000 rows of a kind.
    """
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is not there: ../shared/data beside the checkout has real pairs")
    rows = [
        (kind, *line.split("\t")[:2])
        for kind, names in KINDS.items()
        for name in names
        for line in (SHARED / f"{name}.tsv").read_text(encoding="utf-8").split("\n")[1:-1]
    ]
    kinds, text, right = (list(column) for column in zip(*rows, strict=True))
    en, is_wrong, rng = list(right), np.zeros(len(rows), dtype=bool), random.Random(0)
    for kind in KINDS:
        own = [row for row, other in enumerate(kinds) if other == kind]
        chosen = rng.sample(own, len(own) // 10)
        for row, other in zip(chosen, chosen[1:] + chosen[:1], strict=True):
            en[row], is_wrong[row] = right[other], True
    begun = time.process_time()
    found = counted_of(tmp_path, text, en, 0)
    counted = time.process_time() - begun
    scores = np.concatenate(
        [found.scores(text[i : i + 4096], en[i : i + 4096]) for i in range(0, len(text), 4096)]
    )
    scored = time.process_time() - begun - counted
    print(f"{len(rows):,} rows counted in {counted:.0f} s, {len(found.keys):,} couples;")
    print(f"{len(rows) / scored:,.0f} rows a second scored")
    for kind in KINDS:
        own = np.array([other == kind for other in kinds]) & ~np.isnan(scores)
        good, bad = scores[own & ~is_wrong], scores[own & is_wrong]
        line = f"| {kind} | {own.sum():,} | {auc(good, bad):.3f} | {(good < -0.5).mean():.3f} | "
        line += f"{(bad < -0.5).mean():.3f} | {(bad < np.quantile(good, 0.03)).mean():.3f} |"
        if e5_model.PACKAGE is not None:
            some = rng.sample(np.flatnonzero(own).tolist(), 1000)
            line += f" {auc(scores[some][~is_wrong[some]], scores[some][is_wrong[some]]):.3f} |"
            folder = tmp_path / "e5"
            if not folder.exists():
                e5_model.write(tmp_path)
            settings = Semantic(model=ModelName(str(folder)), prompt="query: ")
            margins = np.array(
                semantic.margins([text[i] for i in some], [en[i] for i in some], settings)
            )
            line += f" {auc(margins[~is_wrong[some]], margins[is_wrong[some]]):.3f} |"
        print(line, flush=True)
        assert auc(good, bad) > {"sentences": 0.98, "captions": 0.98}.get(kind, 0.9)


def auc(good: np.ndarray, bad: np.ndarray) -> float:
    """How often a good pair scores higher than a bad one (Mann-Whitney)."""
    return float(mannwhitneyu(good, bad).statistic) / (len(good) * len(bad))
