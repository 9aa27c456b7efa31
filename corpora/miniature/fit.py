"""The training loop of all miniature models: resumable, with averaged weights, each step a pure
function of its number. Also the arguments of their makers.
"""

import argparse
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from configs.references import TOYWORLD_MODELS
from corpora.worlds import TOYWORLD, World

BATCH = 64
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True)
class TrainingStage:
    """One model: `steps` at a peak learning rate, with an exponential moving average of its
    weights.
    """

    name: str
    steps: int
    learning_rate: float
    ema: float = 0.998
    warmup: int = 100
    save_every: int = 250


def fit(
    stage: TrainingStage, module: nn.Module, loss: Callable[[int], torch.Tensor], work: Path
) -> None:
    """Trains `module` on `DEVICE` by `loss(step)` and leaves it there with its averaged weights;
    resumes from `work/<stage>.pt`.
    """
    # denormal numbers, from vanishing gradients, are a hundred times slower
    torch.set_flush_denormal(True)
    try:
        _fit(stage, module, loss, work)
    finally:
        torch.set_flush_denormal(False)
    module.eval().requires_grad_(False)


def _fit(
    stage: TrainingStage, module: nn.Module, loss: Callable[[int], torch.Tensor], work: Path
) -> None:
    path = work / f"{stage.name}.pt"
    module.to(DEVICE)
    optimizer = torch.optim.AdamW(
        module.parameters(), lr=stage.learning_rate, betas=(0.9, 0.98), weight_decay=1e-3
    )
    average = torch.optim.swa_utils.AveragedModel(
        module, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(stage.ema)
    )
    step = 0
    if path.exists():
        state = torch.load(path, map_location=DEVICE, weights_only=True)
        module.load_state_dict(state["module"])
        optimizer.load_state_dict(state["optimizer"])
        average.load_state_dict(state["average"])
        step = state["step"]
    progress = tqdm(total=stage.steps, initial=step, desc=stage.name, mininterval=5)
    shown: torch.Tensor | None = None
    module.train()
    while step < stage.steps:
        for group in optimizer.param_groups:
            group["lr"] = stage.learning_rate * _learning_rate_factor(step, stage)
        torch.manual_seed(step)
        value = loss(step)
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        average.update_parameters(module)
        step += 1
        shown = value.detach() if shown is None else 0.98 * shown + 0.02 * value.detach()
        progress.update()
        if step % 50 == 0:
            progress.set_postfix(loss=f"{shown.item():.4f}")
        if step % stage.save_every == 0 or step == stage.steps:
            _save(
                path,
                {
                    "module": module.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "average": average.state_dict(),
                    "step": step,
                },
            )
    progress.close()
    module.load_state_dict(average.module.state_dict())


def _learning_rate_factor(step: int, stage: TrainingStage) -> float:
    """Linear warm-up, then a cosine to zero."""
    return (
        min(1.0, (step + 1) / stage.warmup) * 0.5 * (1 + float(np.cos(np.pi * step / stage.steps)))
    )


def _save(path: Path, state: dict[str, object]) -> None:
    """Whole or not at all."""
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    temporary.replace(path)


def batch_of(
    salt: str, step: int, count: int = BATCH, world: World = TOYWORLD
) -> tuple[list[Any], list[str]]:
    """Training scenes, each with an English caption: a pure function of the arguments."""
    both = list(world.pairs(count, "train", zlib.crc32(f"{salt} {step}".encode())))
    return [caption.scene for caption in both], [caption.en for caption in both]


def pictures_of(scenes: list[Any], seed: int, world: World = TOYWORLD) -> torch.Tensor:
    """(B, 3, H, W) in -1..1 on `DEVICE`, with things shifted by up to a pixel at random."""
    pixels = world.render(scenes, np.random.default_rng(seed))
    return torch.from_numpy(pixels).to(DEVICE).permute(0, 3, 1, 2).float() / 127.5 - 1


def maker_parser(model: str) -> argparse.ArgumentParser:
    """The arguments of `make_<model>`: the output folder, and the folder of unfinished training."""
    prog = f"python -m corpora.miniature.make_{model}"
    parser = argparse.ArgumentParser(
        prog=prog, description=f"Trains toyworld's {model}.", allow_abbrev=False
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=TOYWORLD_MODELS / model,
        help="the folder to write (default %(default)s)",
    )
    work = Path(tempfile.gettempdir()) / f"toyworld_{model}"
    parser.add_argument(
        "--work",
        type=Path,
        default=work,
        help="where unfinished training is kept (default %(default)s)",
    )
    return parser
