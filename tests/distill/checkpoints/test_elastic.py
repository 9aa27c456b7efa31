"""A training that changes its number of processes on the way, and trainings that meet numbers which
are not finite.
"""

import json
from pathlib import Path

import pytest
import torch
import yaml
from conftest import write_initial_student, write_pairs
from groups import run_groups
from safetensors.torch import load_file, save_file

from configs import artefact
from configs.errors import DataError
from configs.schema.load import load_recipe
from configs.schema.recipe import Recipe
from corpora.toyworld import captions
from distill.checkpoints.checkpoint import Checkpoints, newest
from distill.encoders.family import SDXL
from distill.parallel import engine
from distill.train import finite, preparation, training

PAIRS = 30


@pytest.fixture
def recipe(tiny_sdxl: Path, tmp_path: Path):
    """A maker of recipe files, each of a run folder of its own that is prepared for training."""

    def make(name: str, **distill: object) -> str:
        run = tmp_path / name
        write_initial_student(tiny_sdxl / "base", run / "initial_student")
        write_pairs(
            run / "pairs",
            [(caption.text, caption.en) for caption in captions.pairs(PAIRS, "train", 0)],
            "train",
        )
        settings = {
            "objective": {"position": 1.0},
            "steps": 200,
            "batch_size": 12,
            "learning_rate": 1e-3,
            "precision": "fp32",
        }
        tree = {
            "name": name,
            "run": str(run),
            "corpora": {
                "sources": [{"kind": "toyworld", "pairs": PAIRS, "held_out_pairs": 2}],
                "language_id": {"model": "x"},
            },
            "vocab_init": {"tokenizer": "x", "sentence_encoder": "x"},
            "distill": {"base": str(tiny_sdxl / "base")} | settings | {"warmup_steps": 1} | distill,
        }
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(tree), encoding="utf-8")
        return str(path)

    return make


def loaded(path: str) -> tuple[Recipe, preparation.Work]:
    engine.REDUCE_BUCKET = 1000
    recipe = load_recipe(path)
    if engine.rank() == 0:
        preparation.prepare(recipe, SDXL)
    engine.barrier()
    return recipe, preparation.load(recipe, SDXL)


def train_until(path: str, steps: int) -> None:
    """From where the run is; appends the pairs and the loss of every step to `<run>/made.jsonl`."""
    recipe, work = loaded(path)
    checkpoints = Checkpoints(recipe.run_dir / "distill", 1)
    for step in range(checkpoints.resume(work.engine, checkpoints.latest()), steps):
        rows, shares = (
            work.batches.rows(step),
            (engine.rank(), engine.world_size(), recipe.distill.tokens_per_micro_batch),
        )
        mine = [
            int(row)
            for part, _ in work.batches.micro_batches(rows, *shares)
            for row in part["pair"]
        ]
        values, taken = training.one_step(work, recipe.distill, step)
        assert taken
        loss = engine.all_reduce_sum(values["loss/total"].clone()).item()
        read = sorted(row for rank in engine.in_all(lambda mine=mine: mine) for row in rank)
        if engine.rank() == 0:
            with open(recipe.run_dir / "made.jsonl", "a") as file:
                file.write(
                    json.dumps(
                        {"step": step, "drawn": rows["pair"].tolist(), "read": read, "loss": loss}
                    )
                    + "\n"
                )
    checkpoints.save(work.engine, steps)


def made(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "made.jsonl").read_text().splitlines()]


def test_two_then_one_then_three_then_two_processes_make_the_same_steps(
    recipe, tmp_path: Path
) -> None:
    alone, changing = recipe("alone", ema_decay=0.9), recipe("changing", ema_decay=0.9)
    groups = [(1, "train_until", {"path": alone, "steps": 8})]
    groups += [
        (processes, "train_until", {"path": changing, "steps": steps})
        for processes, steps in ((2, 2), (1, 4), (3, 6), (2, 8))
    ]
    run_groups(__file__, groups)
    expected, found = made(tmp_path / "alone"), made(tmp_path / "changing")
    assert [row["step"] for row in found] == list(range(8))
    assert [(row["drawn"], row["read"]) for row in found] == [
        (row["drawn"], row["read"]) for row in expected
    ]
    assert all(sorted(row["drawn"]) == row["read"] for row in found)
    assert [row["loss"] for row in found] == pytest.approx(
        [row["loss"] for row in expected], rel=1e-5
    )
    assert expected[0]["loss"] > 1.05 * expected[-1]["loss"]
    students = [
        load_file(newest(tmp_path / name / "distill") / "student.safetensors")
        for name in ("alone", "changing")
    ]
    for name, weights in students[0].items():
        if not name.endswith(
            "k_proj.bias"
        ):  # its gradient is 0 but for rounding, which Adam makes large
            torch.testing.assert_close(students[1][name], weights, rtol=0, atol=1e-5)
    assert [
        path.name for path in (tmp_path / "changing" / "distill" / "checkpoints").iterdir()
    ] == ["step_000008"]


def refused(action) -> str:
    try:
        action()
    except DataError as error:
        return str(error)
    raise AssertionError("no DataError")


def meet_what_is_not_finite(damaged: str, fast: str, sound: str) -> None:
    recipe, work = loaded(damaged)
    checkpoints = Checkpoints(recipe.run_dir / "distill", 2)
    message = refused(lambda: checkpoints.resume(work.engine, None))
    assert (
        "the initial student: clip_bigg.text_model.embeddings.token_embedding.weight is not finite"
        in message
    ), message

    recipe, work = loaded(fast)
    with torch.no_grad():
        work.teacher["clip_l"].text_model.embeddings.token_embedding.weight[:, 3] = torch.inf
    message = finite.explain(work, recipe.distill, 0)
    assert (
        "the teacher's states are not finite for" in message
        and "fetch them again" in message
        and "pair " in message
    ), message

    recipe, work = loaded(sound)
    loss_terms = work.loss.terms
    work.loss.__dict__["terms"] = lambda *inputs: {
        name: term * torch.inf for name, term in loss_terms(*inputs).items()
    }
    message = finite.explain(work, recipe.distill, 0)
    assert "all states are finite, but loss/" in message and "teacher_statistics" in message, (
        message
    )

    def steep(*inputs):  # 0, with an infinite slope
        return {name: (term - term.detach()).sqrt() for name, term in loss_terms(*inputs).items()}

    work.loss.__dict__["terms"] = steep
    message = finite.explain(work, recipe.distill, 0)
    assert "the gradient of clip_bigg." in message and "lower distill.learning_rate" in message, (
        message
    )


def blow_up(path: str) -> None:
    """Every step that is saved was taken, and a run that only skips ends with one line."""
    engine.REDUCE_BUCKET = 1000
    recipe = load_recipe(path)
    steps, saved, one_step, save = [], [], training.one_step, Checkpoints.save

    def watched(work, settings, step):
        values, taken = one_step(work, settings, step)
        steps.append(taken)
        return values, taken

    training.one_step = watched
    Checkpoints.save = lambda self, engine, step: (saved.append(step), save(self, engine, step))
    message = refused(lambda: training.train(recipe))
    assert (
        "the gradient was not finite 10 steps in a row" in message
        and "lower distill.learning_rate" in message
    ), message
    assert (
        len(steps) > 10
        and not any(steps[-10:])
        and saved == [number for number, taken in enumerate(steps, 1) if taken]
    ), steps
    for folder in (recipe.run_dir / "distill" / "checkpoints").iterdir():
        assert all(
            tensor.isfinite().all() for tensor in load_file(folder / "student.safetensors").values()
        )


def test_what_is_not_finite_is_named_and_never_saved(recipe, tmp_path: Path) -> None:
    damaged, fast = recipe("damaged"), recipe("fast", learning_rate=1e30, save_every_steps=1)
    embeddings = tmp_path / "damaged" / "initial_student" / "token_embeddings.safetensors"
    tensors = load_file(embeddings)
    tensors["clip_bigg"][500, 3] = torch.nan  # a token no text has
    save_file(tensors, embeddings)
    artefact.seal(embeddings.parent, {})
    named = {"damaged": damaged, "fast": fast, "sound": recipe("sound")}
    run_groups(
        __file__,
        [(1, "meet_what_is_not_finite", named), (1, "blow_up", {"path": fast})],
    )
    assert not (tmp_path / "damaged" / "distill" / "checkpoints").exists()
