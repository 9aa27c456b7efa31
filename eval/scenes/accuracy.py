"""Pipelines by the share of held-out toyworld captions that they paint right: Japanese, English,
and Japanese captions with kamon, which no distilled student knows.

Shape letters: N pictures.
"""

import gc
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from configs.schema.recipe import Eval
from corpora.toyworld import captions, kamon, renderer, scene_reader
from corpora.toyworld.renderer import Style
from corpora.toyworld.scenes import KAMON, SHAPES, Scene
from corpora.worlds import TOYWORLD
from distill.sdxl.base import family_of
from distill.sdxl.pipelines import load_pipelines, quiet, require
from eval import results
from eval.intervals import share
from eval.pictures import painting
from eval.pictures.scene_accuracy import pictures_in, scene_accuracy

COMMAND = "python -m eval.scenes"
SEED = 0  # of the scenes
SHOWN = 16  # pictures of each in the sheet
WITH_KAMON = replace(TOYWORLD, read=partial(scene_reader.read, shapes=(*SHAPES, *KAMON)))


class Asked(NamedTuple):
    """What is painted: prompts, and the scenes that they mean."""

    prompts: list[str]
    scenes: list[Scene]


def measure(pipelines: dict[str, str], folder: Path, settings: Eval, style: Style) -> None:
    """Writes `scenes.json` and `scenes.png`, and prints the table.

    Pictures already painted from the same files are kept. Raises DataError.
    """
    require(*pipelines.values())
    quiet()
    sets = asked(settings.prompts)
    found: dict[str, dict[str, Any]] = {}
    shown: list[Image.Image] = []
    for name, pipeline in pipelines.items():
        loaded = load_pipelines(pipeline, None, family_of(pipeline))
        found[name] = {}
        for kind, (prompts, scenes) in sets.items():
            pictures = folder / name / kind
            digest = results.fingerprint(
                {"eval": settings.model_dump(mode="json"), "prompts": prompts}, [pipeline]
            )
            inputs = {"recipe": "eval.scenes", "fingerprint": digest}
            painting.paint_all(loaded, prompts, pictures, inputs, settings)
            found[name][kind] = accuracies(pictures, scenes, kind, style)
            shown += [Image.fromarray(one) for one in pictures_in(pictures, len(prompts))[:SHOWN]]
        del loaded
        gc.collect()
    results.write(
        folder / "scenes.json",
        {"prompts": settings.prompts, "seed": settings.seed, "style": style, "pipelines": found},
    )
    columns = min(SHOWN, settings.prompts)
    sheet = painting.sheet(
        [one.resize((96, 96), Image.Resampling.NEAREST) for one in shown], columns
    )
    results.write_bytes(folder / "scenes.png", painting.png(sheet))
    print(table(found))
    print(f"pictures: {folder / 'scenes.png'}")


def asked(count: int) -> dict[str, Asked]:
    """By kind of captions; Japanese and English ask for the same scenes."""
    ordinary = list(captions.pairs(count, "held_out", SEED))
    with_kamon = list(kamon.pairs(count, "held_out", SEED))
    scenes = [one.scene for one in ordinary]
    return {
        "japanese": Asked([one.text for one in ordinary], scenes),
        "english": Asked([one.en for one in ordinary], scenes),
        "kamon": Asked([one.text for one in with_kamon], [one.scene for one in with_kamon]),
    }


def accuracies(
    folder: Path, scenes: list[Scene], kind: str, style: Style
) -> dict[str, dict[str, Any]]:
    """Shares with their intervals: `right`, every attribute of the scene; `shape`, the shapes; and
    `style` where one is asked for. Raises DataError.
    """
    kinds = [kind] * len(scenes)
    numbers, _ = scene_accuracy(WITH_KAMON, scenes, kinds, folder)
    found = {"right": numbers["scene_accuracy"], "shape": numbers["attributes"]["shape"]}
    if style != "plain":
        pictures_NHW3 = pictures_in(folder, len(scenes))
        couples = zip(pictures_NHW3, scenes, strict=True)
        found["style"] = share([is_nearer(picture, scene, style) for picture, scene in couples])
    return found


def is_nearer(picture_HW3: np.ndarray, scene: Scene, style: Style) -> bool:
    """Whether a picture is nearer to its scene in `style` than in the plain one (squared error),
    wherever within a pixel the things stand.
    """
    errors = {
        one: np.square(picture_HW3.astype(float) - renderer.every_place(scene, one))
        .sum(axis=(1, 2, 3))
        .min()
        for one in ("plain", style)
    }
    return bool(errors[style] < errors["plain"])


def table(found: dict[str, dict[str, Any]]) -> str:
    """A line a pipeline."""
    kinds = list(next(iter(found.values())))
    lines = [f"{'right scenes':<24}" + "".join(f"{kind:>26}" for kind in kinds)]
    for name, numbers in found.items():
        line = f"{name:<24}"
        for kind in kinds:
            right = numbers[kind]["right"]
            line += f"{right['value']:>9.3f} ({right['low']:.3f} to {right['high']:.3f})"
        if "style" in numbers[kinds[0]]:
            line += f"   style {numbers['japanese']['style']['value']:.3f}"
        lines.append(line)
    return "\n".join(lines)
