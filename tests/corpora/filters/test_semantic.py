"""Pairs whose sides do not say the same: found by a real encoder, wherever the rows were cut."""

import itertools
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from exchanged_sides import prepared
from hypothesis import given
from hypothesis import strategies as st

from configs.schema.corpora import Semantic
from configs.schema.load import load_recipe
from corpora import dropped, pipeline, prepare
from corpora.filters import semantic, sentence_encoder
from corpora.inspect import __main__ as inspect_entry
from corpora.pair import read_manifest
from corpora.toyworld import captions

SETTINGS = Semantic(model="toyworld:sentence_encoder", neighbors=3)


@given(st.lists(st.integers(1, 3000), max_size=12))
def test_blocks_are_cut_by_rows_alone(lengths: list[int]) -> None:
    total = sum(lengths)
    starts = np.cumsum([0, *lengths])
    found = [
        *semantic.blocks(
            pa.table({"row": range(start, stop)}) for start, stop in itertools.pairwise(starts)
        )
    ]
    assert [row for block in found for row in block.column("row").to_pylist()] == list(range(total))
    sizes = [block.num_rows for block in found]
    assert all(size == semantic.BLOCK_ROWS for size in sizes[:-1])
    assert (
        not sizes
        or len(sizes) == 1
        or semantic.BLOCK_ROWS / 2 <= sizes[-1] < 1.5 * semantic.BLOCK_ROWS
    )


def test_the_margin_is_the_published_ratio() -> None:
    some = [*captions.pairs(40, "train", seed=3)]
    ja, en = [one.text for one in some], [one.en for one in some[1:] + some[:1]]
    encoder = sentence_encoder.load(SETTINGS.model.path, "")
    x, y = (
        sentence_encoder.embed(encoder, texts, "", 8).double().cpu().numpy() for texts in (ja, en)
    )
    for row, margin in enumerate(semantic.margins(ja, en, SETTINGS)):
        forward, backward = (sorted(cosines)[-3:] for cosines in (y @ x[row], x @ y[row]))
        assert margin == pytest.approx(
            x[row] @ y[row] / (sum(forward) / 6 + sum(backward) / 6), abs=1e-5
        )


def test_a_row_that_shares_a_text_is_no_neighbour() -> None:
    """Two right translations of one text do not hide one another: the margins are those of the rows
    without them.
    """
    some = [*captions.pairs(80, "train", seed=3)]
    ja, en = [one.text for one in some], [one.en for one in some]
    alone = semantic.margins(ja, en, SETTINGS)
    more_ja, more_en = [*ja, *ja[:20]], [*en, *(f"{text}, too" for text in en[:20])]
    same = np.array([*range(80), *range(20)]), np.arange(100)
    hidden = semantic.margins(more_ja, more_en, SETTINGS)
    seen = semantic.margins(more_ja, more_en, SETTINGS, *same)
    assert all(one < other for one, other in zip(hidden[:20], seen[:20], strict=True))
    assert np.mean(seen[:20]) > 0.9 * np.mean(alone[:20])


def test_a_pair_without_neighbours_is_kept() -> None:
    """All rows have one text in common: there is nothing to compare them with."""
    same = np.zeros(5, dtype=np.uint64)
    found = semantic.margins(
        ["赤い丸"] * 5, [f"a red circle {n}" for n in range(5)], SETTINGS, same, np.arange(5)
    )
    assert np.allclose(found, 1)


@pytest.mark.slow
def test_wrong_translations_go_whatever_the_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = "{model: toyworld:sentence_encoder, min_margin: 0.9}"
    arguments, folder, wrong = prepared(tmp_path, chosen, monkeypatch)
    manifest = read_manifest(folder / "pairs")
    assert [stage.name for stage in manifest.stages] == [
        "read",
        "filter",
        "language_id",
        "deduplicate",
        "semantic",
        "split",
    ]
    assert any(one.path == "toyworld:sentence_encoder/model.safetensors" for one in manifest.inputs)
    lost = {
        row["id"]: row
        for row in pq.read_table(folder / "pairs" / dropped.FILE).to_pylist()
        if row["reason"] == "low_margin"
    }
    numbers = {int(id.removeprefix("t:")) for id in lost}
    assert (
        len(numbers & wrong) >= 55
        and len(numbers - wrong) <= 11
        and all(row["score"] < 0.9 for row in lost.values())
    )
    assert "semantic: low_margin" in (folder / "pairs" / "data_card.html").read_text(
        encoding="utf-8"
    )
    capsys.readouterr()
    assert (
        inspect_entry.main([*arguments, f"run={folder}", "--reason", "low_margin", "--limit", "1"])
        == 0
    )
    shown = capsys.readouterr().out
    score = lost[shown.partition(": ")[0]]["score"]
    assert "dropped by semantic: low_margin" in shown and f"{score:.3f} times as near" in shown
    assert float(re.search(r"to keep it: corpora\.semantic\.min_margin=(\S+)", shown)[1]) <= score


def test_without_it_older_pairs_stay_valid_and_a_wrong_model_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = load_recipe("configs/toyworld.yaml")
    assert recipe.corpora.semantic is None and "semantic" not in pipeline.recorded_settings(
        recipe.corpora
    )
    encoder = recipe.corpora.model_copy(update={"semantic": SETTINGS})
    recorded = pipeline.recorded_settings(encoder)["semantic"]
    assert isinstance(recorded, dict) and "kind" not in recorded  # none did, before there were two
    assert (
        prepare.main(
            ["configs/toyworld.yaml", f"run={tmp_path}", "corpora.semantic={model: /no/encoder}"]
        )
        == 3
    )
    assert re.search(
        r"/no/encoder: there is no such sentence encoder; .* corpora\.semantic\.model$",
        capsys.readouterr().err.strip(),
    )
