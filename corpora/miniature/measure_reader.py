"""Measures how well emojiworld's scenes are read: from rendered pictures, from worse ones, and
after the miniature's autoencoder.

    python -m corpora.miniature.measure_reader [--out runs/reader.json]

In:  the grammar and the renderer; the finished autoencoder among the world's models.
Out: a JSON file: shares of held-out scenes, and of their things, that are read right.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter

from configs.files import write_json
from configs.references import EMOJIWORLD_MODELS
from corpora.emojiworld.concepts import everything, of_pictures
from corpora.miniature import train_vae
from corpora.miniature.fit import pictures_of
from corpora.worlds import emojiworld

ALL = len(everything()) - len(of_pictures())
SIZES = (100, 300, ALL)
# Gaussian blur in pixels and noise as a share of the range of values, each a standard deviation.
WORSE = {"rendered": (0.0, 0.0), "blurred": (0.7, 0.05), "badly blurred": (1.2, 0.08)}


def measure(count: int, sizes: tuple[int, ...] = SIZES) -> dict[str, Any]:
    """By size of the vocabulary and kind of picture: `{"scenes": share, "things": share}`."""
    vae = train_vae.load(EMOJIWORLD_MODELS / "base" / "vae")
    found: dict[str, Any] = {"pictures": count}
    for size in sizes:
        world = emojiworld(size)
        scenes = [one.scene for one in world.pairs(count, "held_out", 7)]
        rendered_B3HW = pictures_of(scenes, 0, world)
        pixels = ((rendered_B3HW + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        kinds = {name: _worse(pixels, *how) for name, how in WORSE.items()}
        kinds["autoencoder"] = train_vae.round_trip(vae, scenes, world)
        found[str(size)] = {name: world.shares(scenes, one) for name, one in kinds.items()}
    return found


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
        "--out", type=Path, default=Path("runs/reader.json"), help="the file (default %(default)s)"
    )
    parser.add_argument("--pictures", type=int, default=480, help="read to measure (default 480)")
    arguments = parser.parse_args(argv)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    found = measure(arguments.pictures)
    write_json(arguments.out, found)
    for size in SIZES:
        for kind, shares in found[str(size)].items():
            print(
                f"{size} concepts, {kind}: {shares['scenes']:.3f} of scenes, "
                f"{shares['things']:.3f} of things read right"
            )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
