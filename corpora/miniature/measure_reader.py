"""Measures how well emojiworld's scenes are read: from rendered pictures, from worse ones, and
after the miniature's autoencoder, finished or not.

    python -m corpora.miniature.measure_reader [--work runs/miniature_emoji]

In:  the grammar and the renderer; `<work>/vae.pt`, where `train_miniature` has begun it.
Out: `<work>/reader.json`: shares of held-out scenes, and of their things, that are read right.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from configs.files import write_json
from corpora.emojiworld.concepts import everything, of_pictures
from corpora.miniature import miniature
from corpora.miniature.design import of_emojiworld
from corpora.miniature.fit import DEVICE, pictures_of
from corpora.miniature.train_vae import round_trip
from corpora.worlds import emojiworld

ALL = len(everything()) - len(of_pictures())
SIZES = (100, 300, ALL)
# Gaussian blur in pixels and noise as a share of the range of values, each a standard deviation.
WORSE = {"rendered": (0.0, 0.0), "blurred": (0.7, 0.05), "badly blurred": (1.2, 0.08)}


def measure(work: Path, count: int, sizes: tuple[int, ...] = SIZES) -> dict[str, Any]:
    """By size of the vocabulary and kind of picture: `{"scenes": share, "things": share}`."""
    vae, step = _unfinished(work)
    found: dict[str, Any] = {"pictures": count, "vae_steps": step}
    for size in sizes:
        world = emojiworld(size)
        scenes = [one.scene for one in world.pairs(count, "held_out", 7)]
        rendered_B3HW = pictures_of(scenes, 0, world)
        pixels = ((rendered_B3HW + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        kinds = {name: _worse(pixels, *how) for name, how in WORSE.items()}
        if vae is not None:
            kinds["autoencoder"] = round_trip(vae, scenes, world)
        found[str(size)] = {name: world.shares(scenes, one) for name, one in kinds.items()}
    return found


def _unfinished(work: Path) -> tuple[Any, int]:
    """The averaged weights that the training has now, and its step; None and 0 before it."""
    if not (work / "vae.pt").is_file():
        return None, 0
    state = torch.load(work / "vae.pt", map_location=DEVICE, weights_only=True)
    design = of_emojiworld(ALL)
    model = miniature.vae(design.world.side, design.vae_widths).to(DEVICE)
    average = torch.optim.swa_utils.AveragedModel(model)
    average.load_state_dict(state["average"])
    return average.module.eval().requires_grad_(False), state["step"]


def _worse(pixels: np.ndarray, blur: float, noise: float) -> np.ndarray:
    if not blur:
        return pixels
    soft = gaussian_filter(pixels.astype(np.float32), (0, blur, blur, 0))
    soft += np.random.default_rng(1).normal(0, 255 * noise, soft.shape)
    return soft.round().clip(0, 255).astype(np.uint8)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m corpora.miniature.measure_reader",
        description="Measures how well emojiworld's scenes are read from pictures.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--work", type=Path, default=Path("runs/miniature_emoji"), help="where the models are"
    )
    parser.add_argument("--pictures", type=int, default=480, help="read to measure (default 480)")
    arguments = parser.parse_args(argv)
    arguments.work.mkdir(parents=True, exist_ok=True)
    found = measure(arguments.work, arguments.pictures)
    write_json(arguments.work / "reader.json", found)
    for size in SIZES:
        for kind, shares in found[str(size)].items():
            print(
                f"{size} concepts, {kind}: {shares['scenes']:.3f} of scenes, "
                f"{shares['things']:.3f} of things read right"
            )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
