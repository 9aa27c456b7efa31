"""Whether painted pictures show the scenes that were asked for, in a world whose pictures a program
reads.

Shape letters: N pictures, H = W = the side of a picture in that world.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from configs.errors import DataError
from corpora.worlds import World
from eval.intervals import share
from eval.pictures.painting import picture_path
from eval.pictures.word_frequency import things_by_frequency


def scene_accuracy(
    world: World,
    scenes: list[Any],
    sources: list[str],
    folder: Path,
    spoken: Mapping[str, int] | None = None,
) -> tuple[dict[str, Any], list[bool]]:
    """Shares of the pictures with every attribute right (also by source), and with each attribute
    right; where `spoken` tells how many training pairs speak of each thing, of the things by that;
    and which pictures are right.

    Raises DataError when the pictures do not have the world's size.
    """
    try:
        readings = world.read(pictures_in(folder, len(scenes)))
    except ValueError as error:
        raise DataError(
            f"{folder}: no scenes can be read from these pictures ({error}); the base is not "
            f"{world.name}'s"
        ) from None
    attributes = [
        world.attribute_matches(scene, reading)
        for scene, reading in zip(scenes, readings, strict=True)
    ]
    right = [all(one.values()) for one in attributes]
    accuracies = {
        "scene_accuracy": share(right),
        "scene_accuracy_by_source": {
            source: share(part) for source, part in by_source(right, sources).items()
        },
        "attributes": {name: share([one[name] for one in attributes]) for name in attributes[0]},
    }
    if spoken is not None:
        accuracies["things_by_frequency"] = things_by_frequency(world, scenes, readings, spoken)
    return accuracies, right


def by_source(values: list[Any], sources: list[str]) -> dict[str, list[Any]]:
    """The values of each source's captions."""
    return {
        source: [value for value, of in zip(values, sources, strict=True) if of == source]
        for source in sorted(set(sources))
    }


def pictures_in(folder: Path, count: int) -> np.ndarray:
    """(N, H, W, 3) uint8: the first `count` that were painted there."""
    return np.stack(
        [np.asarray(Image.open(picture_path(folder, i)).convert("RGB")) for i in range(count)]
    )
