"""Trains the autoencoder of emojiworld's miniature, and measures how well its pictures are read;
resumable.

    python -m corpora.miniature.train_emojiworld [--work runs/emojiworld] [--measure-only]

In:  nothing but the grammar and the renderer; held-out scenes are never drawn.
Out: `<work>/vae.pt`, and `<work>/reader.json`: shares of held-out scenes, and of their things, that
     are read right from rendered pictures, from worse ones, and after the autoencoder as it is.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from tqdm import tqdm

from configs.files import write_json
from corpora.emojiworld import captions, scene_reader
from corpora.emojiworld.concepts import everything, of_pictures
from corpora.miniature import miniature
from corpora.miniature.fit import BATCH, TrainingStage, pictures_of
from corpora.miniature.train_unets import time_ids
from corpora.miniature.train_vae import VaeDesign, round_trip, train
from corpora.worlds import emojiworld

ALL = len(everything()) - len(of_pictures())
SIZES = (100, 300, ALL)
# The widest level has the fewest pixels. Pairs speak of concepts by Zipf's law; the models of the
# teacher see all alike.
DESIGN = VaeDesign(
    world=emojiworld(ALL, alike=True),
    widths=(16, 48, 96),
    stage=TrainingStage("vae", 12_000, 2e-3, save_every=100),
    batch=16,
)
# Gaussian blur in pixels and noise as a share of the range of values, each a standard deviation.
WORSE = {"rendered": (0.0, 0.0), "blurred": (0.7, 0.05), "badly blurred": (1.2, 0.08)}


def measure(work: Path, count: int, sizes: tuple[int, ...] = SIZES) -> dict[str, Any]:
    """By size of the vocabulary and kind of picture: `{"scenes": share, "things": share}`."""
    vae, step = _unfinished(work)
    found: dict[str, Any] = {"pictures": count, "vae_steps": step}
    for size in sizes:
        scenes = [one.scene for one in captions.pairs(count, "held_out", 7, size)]
        rendered_B3HW = pictures_of(scenes, 0, emojiworld(size))
        pixels = ((rendered_B3HW + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
        kinds = {name: _worse(pixels, *how) for name, how in WORSE.items()}
        if vae is not None:
            kinds["autoencoder"] = round_trip(vae, scenes, emojiworld(size))
        found[str(size)] = {name: _shares(scenes, one, size) for name, one in kinds.items()}
    return found


def _unfinished(work: Path) -> tuple[Any, int]:
    """The averaged weights that the training has now, and its step; None and 0 before it."""
    if not (work / "vae.pt").is_file():
        return None, 0
    state = torch.load(work / "vae.pt", weights_only=True)
    model = miniature.vae(DESIGN.world.side, DESIGN.widths)
    average = torch.optim.swa_utils.AveragedModel(model)
    average.load_state_dict(state["average"])
    return average.module.eval().requires_grad_(False), state["step"]


def _worse(pixels: np.ndarray, blur: float, noise: float) -> np.ndarray:
    if not blur:
        return pixels
    soft = gaussian_filter(pixels.astype(np.float32), (0, blur, blur, 0))
    soft += np.random.default_rng(1).normal(0, 255 * noise, soft.shape)
    return soft.round().clip(0, 255).astype(np.uint8)


def _shares(scenes: list[Any], pixels: np.ndarray, size: int) -> dict[str, float]:
    world = emojiworld(size)
    both = list(zip(scenes, world.read(pixels), strict=True))
    things = [right for pair in both for right in scene_reader.things_right(*pair)]
    return {
        "scenes": float(np.mean([world.right(*pair) for pair in both])),
        "things": float(np.mean(things)),
    }


def unet_seconds(latent_side: int, widths: tuple[int, int], steps: int) -> float:
    """CPU seconds of a training step of the base's UNet: BATCH latents of that side, forward,
    backward and AdamW, channels last. They are idle seconds on one thread.
    """
    unet = miniature.unet("base", latent_side, widths).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(unet.parameters())
    latents = torch.randn(BATCH, 4, latent_side, latent_side)
    latents = latents.contiguous(memory_format=torch.channels_last)
    states_BLD = torch.randn(
        BATCH, miniature.POSITIONS, miniature.CLIP_L_WIDTH + miniature.CLIP_BIGG_WIDTH
    )
    added = {
        "text_embeds": torch.randn(BATCH, miniature.CLIP_BIGG_WIDTH),
        "time_ids": time_ids("base", BATCH),
    }
    seconds: list[float] = []
    for _ in tqdm(range(steps + 1), desc=f"UNet of {widths} at {latent_side}", unit="step"):
        start = time.process_time()
        timesteps_B = torch.randint(0, 1000, (BATCH,))
        predicted = unet(latents, timesteps_B, states_BLD, added_cond_kwargs=added).sample
        predicted.square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.process_time() - start)
    return float(np.median(seconds[1:]))  # the first one warms up


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m corpora.miniature.train_emojiworld",
        description="Trains the autoencoder of emojiworld's miniature.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--work", type=Path, default=Path("runs/emojiworld"), help="where unfinished models are"
    )
    parser.add_argument("--measure-only", action="store_true", help="measure what there is")
    parser.add_argument("--pictures", type=int, default=480, help="read to measure (default 480)")
    parser.add_argument("--time-unets", action="store_true", help="only time steps of UNets")
    arguments = parser.parse_args(argv)
    if arguments.time_unets:
        for latent_side in (16, 24):
            for widths in ((32, 96), (64, 160)):
                seconds = unet_seconds(latent_side, widths, 5)
                print(f"latents of {latent_side}, widths {widths}: {seconds:.2f} CPU s a step")
        return 0
    arguments.work.mkdir(parents=True, exist_ok=True)
    if not arguments.measure_only:
        train(arguments.work, DESIGN)
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
