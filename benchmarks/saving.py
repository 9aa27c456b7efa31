"""Compares saving a checkpoint of students of SDXL's shapes with a plain write of as many bytes, in
interleaved rounds of one run.

    python -m benchmarks.saving configs/sdxl_jp.yaml --scale 0.1 --out runs/benchmarks

In:  a recipe, for its precision, its average of the weights and its pace; encoders and state are
     random numbers.
Out: `<out>/saving_<scale>.json` and `.md`: medians over the rounds of the seconds of a save, of the
     plain write, and of their ratio in the same round; what a save adds to a step; memory; the
     seconds of resuming. `<out>/saving/`, removed at the end, holds two checkpoints and the plain
     file at once: three times the state (30 GB at scale 1, where the process needs 18 GB of
     memory).
"""

import os
import re
import shutil
import statistics
import time
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers import CLIPTextConfig

from benchmarks import entry
from benchmarks.entry import machine
from configs.files import check_room, sync_folder
from configs.schema.recipe import Recipe
from distill.checkpoints.checkpoint import Checkpoints
from distill.checkpoints.saved_state import layout
from distill.encoders.family import SDXL
from distill.encoders.student import Towers
from distill.encoders.tower import TextTower
from distill.parallel import engine
from distill.parallel.engine import Engine, weights_dtype

VOCABULARY = 51_200
CHUNK = 64 << 20  # bytes of one plain write
COMMON = {"max_position_embeddings": 77, "pad_token_id": 1}
SHAPES: dict[str, dict[str, Any]] = {  # of SDXL's own encoders
    "clip_l": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
    },
    "clip_bigg": {
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_hidden_layers": 32,
        "num_attention_heads": 20,
    },
}


def measure(recipe: Recipe, scale: float, rounds: int, folder: Path) -> dict[str, Any]:
    """Both take turns, round by round; the first round warms up and is left out.

    Raises SetupError where the disk is too small.
    """
    engine.start()
    student = towers(scale).to(weights_dtype(recipe.distill.precision))
    work = Engine(student, recipe.distill)
    work.set_state(1, 0, lambda name, _: torch.rand(work.parameters[name].shape))
    work.share_weights()
    held = memory("VmRSS")
    size = 4 * sum(torch.Size(entry.shape).numel() for entry in layout(work, engine.world_size()))
    check_room(folder, 3 * size)
    checkpoints = Checkpoints(folder, 1)
    saved, plain = [], []
    for number in tqdm(range(1, rounds + 2), desc="rounds", unit="round"):
        saved.append(seconds(partial(checkpoints.save, work, number)))
        plain.append(
            seconds(lambda: plain_write(folder / "plain", size) if engine.rank() == 0 else None)
        )
        engine.barrier()
        (folder / "plain").unlink(missing_ok=True)
    peak = memory("VmHWM")
    resumed = seconds(lambda: checkpoints.resume(work, checkpoints.latest()))
    processes = engine.world_size()
    engine.stop()
    save = statistics.median(saved[1:])
    return {
        "machine": machine(),
        "scale": scale,
        "parameters": sum(parameter.numel() for parameter in student.parameters()),
        "processes": processes,
        "rounds": rounds,
        "gigabytes": size / 1e9,
        "save_seconds": save,
        "plain_seconds": statistics.median(plain[1:]),
        "ratio": statistics.median(
            ours / one for ours, one in zip(saved[1:], plain[1:], strict=True)
        ),
        "seconds_a_step": save / recipe.distill.save_every_steps,
        "save_every_steps": recipe.distill.save_every_steps,
        "resume_seconds": resumed,
        "held_gigabytes": held,
        "more_while_saving_gigabytes": peak - held,
    }


def towers(scale: float) -> Towers:
    """Both students with a share `scale` of SDXL's layers (at least 2) and of the vocabulary; at 1
    they have the published numbers of parameters.
    """
    made = {}
    for name, shape in SHAPES.items():
        layers, vocabulary = (
            max(2, round(scale * shape["num_hidden_layers"])),
            round(scale * VOCABULARY),
        )
        changes = {
            "num_hidden_layers": layers,
            "vocab_size": vocabulary,
            "projection_dim": shape["hidden_size"],
        }
        changes |= {"bos_token_id": vocabulary - 2, "eos_token_id": vocabulary - 1}
        tower = TextTower(
            CLIPTextConfig(**COMMON | shape | changes),
            SDXL.parts[name].states,
            with_projection=SDXL.parts[name].pooled,
        )
        for parameter in tower.dead_parameters():
            parameter.requires_grad_(False)
        made[name] = tower
    return Towers(made)


def seconds(action: Callable[[], object]) -> float:
    """Wall-clock seconds of `action`, after all earlier writes have reached the disk."""
    os.sync()
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def plain_write(path: Path, size: int) -> None:
    """Writes `size` random bytes in sequence and syncs them to disk."""
    data = os.urandom(CHUNK)
    with open(path, "wb") as file:
        for start in range(0, size, CHUNK):
            file.write(memoryview(data)[: size - start])
        file.flush()
        os.fsync(file.fileno())
    sync_folder(path.parent)


def memory(field: str) -> float:
    """Memory of this process in GB: `VmRSS` now, `VmHWM` its peak."""
    found = re.search(
        rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8")
    )
    assert found is not None
    return int(found[1]) * 1024 / 1e9


def table(result: dict[str, Any]) -> str:
    """Markdown."""
    made_of = (
        f"{result['parameters'] / 1e6:.0f} M parameters, {result['gigabytes']:.2f} GB a checkpoint"
    )
    lines = [
        f"{result['machine']}; {made_of}, {result['processes']} process(es), "
        f"medians of {result['rounds']} interleaved rounds.",
        "",
    ]
    lines += [
        "| a save | a plain write of as many bytes | ratio | added to a step "
        "| memory more while saving | resuming |",
        "|---|---|---|---|---|---|",
    ]
    cells = [
        f"{result['save_seconds']:.2f} s",
        f"{result['plain_seconds']:.2f} s",
        f"{result['ratio']:.2f}",
    ]
    cells.append(
        f"{1000 * result['seconds_a_step']:.1f} ms (saved every {result['save_every_steps']} steps)"
    )
    cells += [
        f"{result['more_while_saving_gigabytes']:.2f} GB beside {result['held_gigabytes']:.2f}",
        f"{result['resume_seconds']:.2f} s",
    ]
    return "\n".join([*lines, f"| {' | '.join(cells)} |"])


def named(recipe: Recipe, arguments: Namespace) -> tuple[str, dict[str, Any]]:
    """The name of the tables and their numbers; its checkpoints are removed again."""
    folder = arguments.out / "saving"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        result = measure(recipe, arguments.scale, arguments.rounds, folder)
    finally:
        if engine.rank() == 0:
            shutil.rmtree(folder, ignore_errors=True)
    return f"saving_{arguments.scale:g}", result


def main(argv: list[str] | None = None) -> int:
    return entry.run(
        "benchmarks.saving",
        "Times a checkpoint beside a plain write of as many bytes, in one run.",
        named,
        table,
        argv,
        {
            "--scale": {
                "type": float,
                "default": 0.1,
                "help": "share of SDXL's layers and vocabulary (default %(default)s; 1: full size)",
            },
            "--rounds": {
                "type": int,
                "default": 3,
                "help": "besides the first, which warms up (default %(default)s)",
            },
        },
    )


if __name__ == "__main__":
    raise SystemExit(main())
