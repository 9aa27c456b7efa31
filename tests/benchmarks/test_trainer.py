"""The benchmarks measure what they say: every contestant trains on the same pairs, ours on the very
loss the plain recipe has.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks import cleaning, host, loader, ours, plain, trainer, workload
from configs.schema.load import dump_recipe, load_recipe
from configs.schema.recipe import Recipe
from corpora import prepare
from distill.parallel import engine
from vocab_init.initial_student import initialise

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """Toyworld, prepared for training with 60 pairs."""
    changes = [
        f"run={tmp_path_factory.mktemp('benchmark')}",
        "corpora.sources.0.pairs=60",
        "corpora.sources.0.held_out_pairs=5",
    ]
    recipe = load_recipe("configs/toyworld.yaml", changes)
    prepare.stage(recipe)
    initialise(recipe)
    return recipe


@pytest.fixture
def group() -> Iterator[None]:
    """A process group of this process alone; what it leaves in the environment would mislead the
    processes other tests start.
    """
    before = dict(os.environ)
    engine.start()
    yield
    engine.stop()
    for name in set(os.environ) - set(before):
        del os.environ[name]


def test_the_table_has_every_contestant_beside_the_plain_recipe(
    recipe: Recipe, tmp_path: Path
) -> None:
    config = tmp_path / "recipe.yaml"
    config.write_text(dump_recipe(recipe), encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "benchmarks.trainer",
        str(config),
        "--profile",
        "smoke",
        "--out",
        str(tmp_path),
    ]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=300
    )  # DeepSpeed starts once a process
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "trainer_smoke.json").read_text())
    rows = result["rows"]
    assert rows[trainer.PLAIN]["ratio"] == 1.0
    plain, strict, words = (
        rows[name]["gflop_a_pair"] for name in (trainer.PLAIN, trainer.STRICT, trainer.WORDS)
    )
    assert words < rows["ours, words alone, lengths unsorted"]["gflop_a_pair"] < strict < plain
    assert all(
        0 < row["useful_of_the_matrix_rate"] <= row["executed_of_the_matrix_rate"] * 1.001
        for row in rows.values()
    )
    assert (tmp_path / "trainer_smoke.md").read_text().count("\n| ") == len(rows) + 1


def test_the_loaders_give_the_same_tensors(recipe: Recipe, tmp_path: Path) -> None:
    config = tmp_path / "recipe.yaml"
    config.write_text(dump_recipe(recipe), encoding="utf-8")
    assert (
        loader.main([str(config), "--out", str(tmp_path)]) == 0
    )  # it asserts equal tensors in every round
    result = json.loads((tmp_path / "loader.json").read_text())
    assert set(result["loading"]) == {str(recipe.distill.batch_size), "512"}
    for rows in result["loading"].values():
        assert rows["datasets, row by row"]["ratio"] == 1.0 and rows["ours"]["ratio"] > 1.0
    assert (tmp_path / "loader.md").read_text().count("\n| ") == 2 * 3 + 1


def test_what_the_host_does_is_timed(recipe: Recipe, tmp_path: Path) -> None:
    config = tmp_path / "recipe.yaml"
    config.write_text(dump_recipe(recipe), encoding="utf-8")
    small = ["distill.batch_size=4", "distill.tokens_per_micro_batch=77", "--gpus", "2"]
    assert host.main([str(config), *small, "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "host.json").read_text())
    assert found["pairs"] == 2 and found["micro_batches"] == 2 and found["issued_ms"] > 0
    # An encoder's layers cost 12 D^2 multiply-adds a position, four forwards: at most 77 positions.
    layers = sum(size.layers * size.width**2 for size in host.FULL.values())
    assert 0.05 < found["tflop"] * 1e12 / (2 * 77 * 4 * 24 * layers) < 1.0
    assert host.main([str(config), "--tflops", "0"]) == 2


def test_cleaning_is_timed_by_size_and_workers(recipe: Recipe, tmp_path: Path) -> None:
    """Sixty pairs make a hundred rows; nearly all of them become pairs again."""
    config = tmp_path / "recipe.yaml"
    config.write_text(dump_recipe(recipe), encoding="utf-8")
    assert (
        cleaning.main(
            [str(config), "--rows", "200", "100", "--rounds", "1", "--out", str(tmp_path)]
        )
        == 0
    )
    rows = json.loads((tmp_path / "cleaning.json").read_text())["rows"]
    assert [(row["rows"], row["who"]) for row in rows] == [
        (size, who) for size in (100, 200) for who in (cleaning.ONE, cleaning.TWO, cleaning.APART)
    ]
    assert rows[0]["times_one_worker"] == rows[0]["seconds_a_row_beside_the_smallest"] == 1.0
    assert all(
        0 < row["cleaning"] < row["seconds"] and row["cleaned_rows_per_second"] > 0 for row in rows
    )
    assert (tmp_path / "cleaning.md").read_text().count("\n| ") == len(rows) + 1


def test_ours_and_the_plain_recipe_start_from_the_same_states(recipe: Recipe, group: None) -> None:
    """The first batch's Japanese ids and both students' and teachers' states on it: equal up to
    rounding.
    """
    work = workload.load(recipe, workload.PROFILES["smoke"], 16)
    other, own = plain.Plain(work, "max_length"), ours.Ours(work)
    clip_l_BL, clip_bigg_BL, student_BL = next(other.batches)
    batch = own.work.batches.gather(own.work.batches.rows(0))
    assert (
        batch.student_BL.equal(student_BL)
        and batch.teacher.ids["clip_l"].equal(clip_l_BL)
        and batch.teacher.ids["clip_bigg"].equal(clip_bigg_BL)
    )
    with torch.no_grad():
        for mine, theirs in (
            (
                own.work.student(batch.student),
                other.engine(student_BL, student_BL),
            ),
            (
                own.work.teacher(batch.teacher),
                other.teacher(clip_l_BL, clip_bigg_BL),
            ),
        ):
            for one, two in zip(mine.named().values(), theirs, strict=True):
                torch.testing.assert_close(one, two, rtol=0, atol=1e-5)
