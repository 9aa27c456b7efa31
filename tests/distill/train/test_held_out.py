"""What training measures beside its loss: the held-out loss, update ratios, speed."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from conftest import write_initial_student, write_pairs
from groups import run_groups
from safetensors.torch import load_file

from configs.schema.load import load_recipe
from corpora import pair
from corpora.toyworld import captions
from distill.checkpoints.checkpoint import newest
from distill.encoders.family import SDXL
from distill.parallel import engine
from distill.plan.cost import AttentionCost, Tower, flop_per_pair
from distill.plan.shapes import read_config
from distill.train import held_out, preparation, speed, training
from distill.train import log as log_module

PAIRS, HELD_OUT, STEPS, EVERY = 30, 20, 6, 2
EVALUATED = [2, 4, 6]
TERMS = {"total", "pooled", "random_attention"}


@pytest.fixture
def recipe(tiny_sdxl: Path, tmp_path: Path):
    """A maker of recipe files, each of a run folder of its own that is prepared for training."""

    def make(name: str, held_out_pairs: int = HELD_OUT, **distill: object) -> str:
        run = tmp_path / name
        write_initial_student(tiny_sdxl / "base", run / "initial_student")
        write_both_splits(run / "pairs", held_out_pairs)
        settings = {
            "base": str(tiny_sdxl / "base"),
            "objective": {"random_attention": 1.0},
            "random_attention": {"layers": 4, "heads": 2, "head_width": 4, "layers_per_step": 2},
            "steps": STEPS,
            "batch_size": 12,
            "english_share": 0.2,
            "full_length_share": 0.5,
            "tokens_per_micro_batch": 300,
            "learning_rate": 1e-3,
            "warmup_steps": 1,
            "precision": "fp32",
            "log_every_steps": 1,
            "save_every_steps": 3,
            "eval_every_steps": EVERY,
        }
        tree = {
            "name": "x",
            "run": str(run),
            "corpora": {
                "sources": [{"kind": "toyworld", "pairs": PAIRS, "held_out_pairs": 2}],
                "language_id": {"model": "x"},
            },
            "vocab_init": {"tokenizer": "x", "sentence_encoder": "x"},
            "distill": settings | distill,
        }
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(tree), encoding="utf-8")
        return str(path)

    return make


def write_both_splits(folder: Path, held_out_pairs: int) -> None:
    splits = {}
    for split, count in (("train", PAIRS), ("held_out", held_out_pairs)):
        found = captions.pairs(count, split, 0) if count else []
        write_pairs(folder, [(one.text, one.en) for one in found], split)
        splits[split] = pair.read_manifest(folder).splits[split]
    rows = PAIRS + held_out_pairs
    stage = pair.StageCounts(name="read", rows_in=rows, dropped={}, rows_out=rows)
    whole = pair.read_manifest(folder).model_copy(update={"splits": splits, "stages": [stage]})
    pair.write_manifest(folder, whole)


def train(path: str, until: int = STEPS) -> None:
    """Trains, as if killed after `until` steps."""
    engine.REDUCE_BUCKET = 1000
    made, one_step = load_recipe(path), training.one_step

    def killed(work, settings, step):
        if step == until:
            raise KeyError("killed")
        return one_step(work, settings, step)

    training.one_step = killed
    try:
        training.train(made)
    except KeyError:
        assert until < STEPS


def log(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "distill/metrics.jsonl").read_text().splitlines()]


def measured(run: Path) -> list[dict]:
    """What depends on nothing but the training: neither on the clock nor on the process."""
    return [
        {k: v for k, v in row.items() if "per_second" not in k and not k.startswith("memory/")}
        for row in log(run)
    ]


def evaluations(run: Path) -> dict[int, dict[str, float]]:
    return {
        row["step"]: {name: value for name, value in row.items() if name.startswith("val/")}
        for row in log(run)
        if "val/total" in row
    }


def is_that_of_training(path: str, alone: str) -> None:
    """The held-out loss of a batch is what a training step computes of that batch."""
    engine.REDUCE_BUCKET = 1000
    recipe = load_recipe(path)
    settings = recipe.distill
    work = preparation.load(recipe, SDXL, preparation.prepare(recipe, SDXL))
    one = replace(work, held_out=replace(work.held_out, count=1))
    found = held_out.losses(one, 0)
    assert held_out.losses(one, 0) == found
    sums, taken = training.one_step(replace(work, batches=work.held_out.batches), settings, 0)
    assert taken
    expected = {f"val/{name.removeprefix('loss/')}": sums[name].item() for name in sums}
    assert found == pytest.approx(expected, rel=1e-6) and found.keys() == expected.keys()
    assert held_out.losses(one, 0) != found, "the step has changed the weights"
    assert work.held_out.count * settings.batch_size >= held_out.PROMPTS

    towers = [
        Tower.of(read_config(settings.base, part.subfolder), part) for part in SDXL.parts.values()
    ]
    reading = AttentionCost.of_random(towers, SDXL, settings.random_attention, 4)
    for length, flop in enumerate(speed.flop_by_length(work, settings).T):
        assert flop == pytest.approx([flop_per_pair(towers, length), reading.flop(length)])

    recipe = load_recipe(alone)
    assert preparation.load(recipe, SDXL, preparation.prepare(recipe, SDXL)).held_out is None


def test_the_held_out_loss_is_training_s_and_does_not_touch_it(recipe, tmp_path: Path) -> None:
    """One process, two, one that was killed halfway, and one that evaluates at the end alone."""
    paths = {name: recipe(name) for name in ("alone", "both", "killed")}
    paths["seldom"] = recipe("seldom", eval_every_steps=100)
    groups = [(2 if name == "both" else 1, "train", {"path": path}) for name, path in paths.items()]
    groups.insert(0, (1, "train", {"path": paths["killed"], "until": 4}))
    check = {"path": recipe("check"), "alone": recipe("without", held_out_pairs=0)}
    run_groups(__file__, [*groups, (1, "is_that_of_training", check)])

    alone = evaluations(tmp_path / "alone")
    assert list(alone) == EVALUATED
    assert all(row.keys() == {f"val/{name}" for name in TERMS} for row in alone.values())
    assert alone[STEPS]["val/total"] < alone[EVERY]["val/total"]
    for row in log(tmp_path / "alone"):
        assert {"optimizer/gradient_norm", "speed/tokens_per_second"} < row.keys()
        assert 0 < row["optimizer/update_ratio_clip_l"] < 1
        assert 0 < row["optimizer/update_ratio_clip_bigg"] < 1
        assert "speed/mfu" not in row, "the peak of a CPU is not known"
    assert measured(tmp_path / "killed") == measured(tmp_path / "alone")
    both = evaluations(tmp_path / "both")
    for step, row in alone.items():
        assert both[step] == pytest.approx(row, rel=1e-4)
    assert list(evaluations(tmp_path / "seldom")) == [STEPS]
    assert evaluations(tmp_path / "seldom")[STEPS] == alone[STEPS]
    first, other = (
        load_file(newest(tmp_path / name / "distill") / "student.safetensors")
        for name in ("alone", "seldom")
    )
    assert all(first[name].equal(other[name]) for name in first)


def test_peaks_are_those_of_the_device_and_of_bf16() -> None:
    assert speed.peak_flop("NVIDIA H100 80GB HBM3", "bf16") == 989.4e12
    assert speed.peak_flop("NVIDIA H200", "bf16") == 989.4e12
    assert speed.peak_flop("NVIDIA H200 NVL", "bf16") == 835e12
    assert speed.peak_flop("NVIDIA H100 PCIe", "bf16") == 756e12
    assert speed.peak_flop("NVIDIA A100-SXM4-80GB", "bf16") == 312e12
    for unknown in ("", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "NVIDIA GeForce RTX 4090"):
        assert speed.peak_flop(unknown, "bf16") is None
    assert speed.peak_flop("NVIDIA H200", "fp32") is None


@pytest.mark.parametrize(
    ("rate", "expected"), [(0.00423, "0.00423"), (1.5, "1.5"), (99.96, "100"), (12345.6, "12346")]
)
def test_a_slow_step_has_a_rate_too(rate: float, expected: str) -> None:
    assert log_module.shown(rate) == expected
