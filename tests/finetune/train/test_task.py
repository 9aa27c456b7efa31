"""Finetuning on a tiny SDXL and a tiny SD: what is trained and what is not, resuming, any number of
processes, LoRA, the anchor.
"""

import json
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from finetune_runs import write_recipe
from groups import run_groups
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from configs.schema.load import load_recipe
from distill.checkpoints.checkpoint import newest
from distill.encoders.family import SDXL
from distill.parallel import engine
from distill.sdxl.base import settled
from finetune.export import exporting, trained
from finetune.train import models, task, training


def train_until(path: str, stop: int | None = None) -> None:
    """Trains; dies before step `stop` (from 0), if it is given."""
    one_step = task.PictureTask.one_step

    def killed(self: task.PictureTask, step: int):
        if step == stop:
            raise KeyboardInterrupt
        return one_step(self, step)

    task.PictureTask.one_step = killed
    try:
        training.train(load_recipe(path))
    except KeyboardInterrupt:
        assert stop is not None
    finally:
        task.PictureTask.one_step = one_step


def result(path: str) -> tuple[dict[str, torch.Tensor], list[dict]]:
    folder = Path(load_recipe(path).run) / "finetune" / "words"
    rows = (folder / "metrics.jsonl").read_text().splitlines()
    return load_file(newest(folder) / "student.safetensors"), [json.loads(row) for row in rows]


def check_trained(path: str) -> None:
    """In a process of its own: what moved is what the stage names, and nothing else."""
    recipe = load_recipe(path)
    _, family = settled(recipe)
    start = models.load(recipe, family, "words")
    stage = recipe.finetune.stages["words"]
    parameters = models.trained_parameters(start, stage)
    before = {
        name: value.detach().clone() for name, value in parameters.items() if value.requires_grad
    }
    towers = {name: value.clone() for name, value in start.towers.state_dict().items()}
    unet = {name: value.clone() for name, value in start.unet.state_dict().items()}
    engine.start()
    store = training.PictureStore(recipe.run_dir / "pictures")
    work = task.PictureTask(recipe, stage, start, parameters, store)
    for step in range(2):
        assert work.one_step(step)[1]
    moved = {name for name, value in before.items() if not parameters[name].equal(value)}
    still = set(before) - moved
    # a projection of LoRA starts at zero, and its partner then has no gradient in the first step
    assert moved and not still, sorted(still)[:3]
    after = start.towers.state_dict() | {f"unet.{k}": v for k, v in start.unet.state_dict().items()}
    known = towers | {f"unet.{name}": value for name, value in unet.items()}
    for name, value in known.items():
        if name not in before:
            assert after[name].equal(value), name
    engine.stop()


@pytest.fixture
def base(tiny_sdxl: Path) -> Path:
    return tiny_sdxl / "base"


def test_a_step_trains_what_the_stage_names(base: Path, tmp_path: Path, tiny_sd: Path) -> None:
    stages = {
        "text": {"trains": ["text"]},
        "both": {"trains": ["text", "unet"], "pictures_per_micro_batch": 2},
        "cross": {"trains": ["cross_attention"]},
        "lora": {"trains": ["text", "unet"], "lora": {"rank": 2, "alpha": 4}},
    }
    groups = [
        (1, "check_trained", {"path": write_recipe(base, tmp_path, name, stage)})
        for name, stage in stages.items()
    ]
    sd = write_recipe(tiny_sd, tmp_path, "sd", {"trains": ["text", "unet"]})
    run_groups(__file__, [*groups, (1, "check_trained", {"path": sd})])


def test_resumed_and_on_two_processes_it_is_the_same_training(base: Path, tmp_path: Path) -> None:
    stage = {"trains": ["text", "unet"], "ema_decay": 0.9, "text_until": 3}
    paths = {
        name: write_recipe(base, tmp_path, name, stage, anchor=0.5)
        for name in ("whole", "resumed", "two")
    }
    run_groups(
        __file__,
        [
            (1, "train_until", {"path": paths["whole"]}),
            (1, "train_until", {"path": paths["resumed"], "stop": 3}),
            (1, "train_until", {"path": paths["resumed"]}),
            (2, "train_until", {"path": paths["two"]}),
        ],
    )
    (whole, rows), (resumed, again), (two, of_two) = map(result, paths.values())
    assert set(whole) == set(resumed) and all(whole[name].equal(resumed[name]) for name in whole)
    assert [row["step"] for row in rows] == [1, 2, 3, 4] == [row["step"] for row in again]
    for one, same, shared in zip(rows, again, of_two, strict=True):
        assert {"loss/denoising", "loss/anchor", "loss/total"} <= set(one)
        for name in {"loss/total", "val/denoising"} & set(one):
            assert one[name] == same[name]
            assert one[name] == pytest.approx(shared[name], rel=1e-6)
        assert one["loss/total"] == pytest.approx(
            one["loss/denoising"] + 0.5 * one["loss/anchor"], rel=1e-6
        )
    assert rows[1]["val/denoising"] > 0
    # Not one by one: the gradient of a key's bias is zero but for rounding, and Adam scales it up.
    ones, others = (torch.cat([one[name].flatten() for name in whole]) for one in (whole, two))
    assert (ones - others).norm() < 1e-3 * ones.norm()
    assert {name.partition(".")[0] for name in whole} == {*SDXL.parts, "unet"}


def painted(path: str) -> dict[str, np.ndarray]:
    folder = Path(load_recipe(path).run) / "finetune" / "words" / "validation"
    return {one.name: np.asarray(Image.open(one)) for one in sorted(folder.iterdir())}


def test_validation_pictures_are_what_an_export_paints_and_change_nothing(
    base: Path, tiny_sd: Path, tmp_path: Path
) -> None:
    """The running average's, on any number of processes, after a kill too; the losses and weights
    are those of a training without them.
    """
    stage = {"trains": ["text", "unet"], "ema_decay": 0.9, "learning_rate": 1e-2}
    prompts = ["赤い丸", "青い四角の左に大きな緑の三角"]
    validation = {"every": 3, "prompts": prompts, "seeds": 2, "sampling_steps": 3}
    paths = {
        name: write_recipe(tiny_sd if name == "sd" else base, tmp_path, name, stage, **more)
        for name, more in {
            "without": {},
            **{name: {"validation": validation} for name in ("with", "resumed", "two", "sd")},
        }.items()
    }
    groups = [(1, "train_until", {"path": paths[name]}) for name in ("without", "with", "sd")]
    groups += [(1, "train_until", {"path": paths["resumed"], "stop": stop}) for stop in (3, None)]
    run_groups(__file__, [*groups, (2, "train_until", {"path": paths["two"]})])
    (bare, rows), (weights, same_rows) = result(paths["without"]), result(paths["with"])
    assert all(bare[name].equal(weights[name]) for name in bare)
    for one, same in zip(rows, same_rows, strict=True):
        names = [n for n in one if "/" in n and not n.startswith(("speed/", "memory/"))]
        assert [one[name] for name in names] == [same[name] for name in names]
    found = painted(paths["with"])
    assert list(found) == ["step_000000.png", "step_000003.png", "step_000004.png"]
    assert len({picture.tobytes() for picture in found.values()}) == 3
    for name, picture in painted(paths["resumed"]).items():
        assert (picture == found[name]).all()
    for name, picture in painted(paths["two"]).items():
        assert np.abs(picture.astype(int) - found[name]).max() <= 2
    for name in ("with", "sd"):
        exporting.export(trained.find(load_recipe(paths[name]), None))
        folder = Path(load_recipe(paths[name]).run) / "finetune" / "words" / "export"
        pipeline = diffusers.DiffusionPipeline.from_pretrained(folder)
        pipeline.set_progress_bar_config(disable=True)
        grid = [
            [
                np.asarray(
                    pipeline(
                        prompt,
                        height=32,
                        width=32,
                        num_inference_steps=3,
                        generator=torch.Generator().manual_seed(seed),
                    ).images[0]
                )
                for seed in range(2)
            ]
            for prompt in prompts
        ]
        ours = painted(paths[name])["step_000004.png"]
        assert (
            np.abs(
                np.concatenate([np.concatenate(row, axis=1) for row in grid]).astype(int) - ours
            ).max()
            <= 1
        )
    board = EventAccumulator(
        str(tmp_path / "with" / "finetune" / "words" / "tensorboard"), {"images": 0}
    ).Reload()
    assert [one.step for one in board.Images("validation")] == [0, 3, 4]
