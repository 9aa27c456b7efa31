"""The miniature SDXLs: which world each paints, how large its models are and how long each is
trained. What trains and measures them takes a `Design`, not which of them it is.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.references import EMOJIWORLD_MODELS, TOYWORLD_MODELS
from corpora.emojiworld import scenes as emoji_scenes
from corpora.emojiworld.concepts import vocabulary
from corpora.emojiworld.scenes import EmojiScene
from corpora.miniature.fit import TrainingStage
from corpora.toyworld.scenes import BACKGROUNDS, COLORS, SHAPES, SIZES, Scene
from corpora.worlds import TOYWORLD, World, emojiworld

NOTHING = "nothing"  # at a place that a scene leaves empty


@dataclass(frozen=True)
class Design:
    """- `models`: the folder that `base` and `refiner` are written to
    - `attributes`, `attributes_of(scene)`: what a probe must read from the text encoders' states,
      with the values of each, and a scene's own values in the same order
    - `stages`: of `vae`, `text`, `base` and `refiner`
    - `vae_widths`, `vae_batch`: widths of the levels, pictures a step
    - `keeps_frozen`: the finished autoencoder and text encoders go to `models/base` before the
      UNets are trained, and are taken from there again
    - `text_widths`: of clip_l and clip_bigg; `unet_widths`: of `base`'s and `refiner`'s two levels
    - `base_noise_power`: the base is trained at 1 - u ** power of its noise levels, u uniform:
      with 1 at all alike, with 2 half of the times in the noisiest quarter, where the picture no
      longer shows which thing is on it and the text must say it
    - `tokens`: the most that the English tokenizers have
    """

    world: World
    models: Path
    attributes: tuple[tuple[str, ...], ...]
    attributes_of: Callable[[Any], list[str]]
    stages: dict[str, TrainingStage]
    vae_widths: tuple[int, ...]
    vae_batch: int
    keeps_frozen: bool
    text_widths: tuple[int, int]
    unet_widths: dict[str, tuple[int, int]]
    base_noise_power: float
    tokens: int


def _of_toyworld(scene: Scene) -> list[str]:
    values: list[str] = [scene.background, scene.layout]
    for thing in (*scene.in_picture_order, None)[:2]:
        values += [thing.color, thing.shape, thing.size] if thing else [NOTHING] * 3
    return values


_TOYWORLD_THING = ((*COLORS, NOTHING), (*SHAPES, NOTHING), (*SIZES, NOTHING))

OF_TOYWORLD = Design(
    world=TOYWORLD,
    models=TOYWORLD_MODELS,
    attributes=(
        tuple(BACKGROUNDS),
        ("single", "horizontal", "vertical"),
        *_TOYWORLD_THING,
        *_TOYWORLD_THING,
    ),
    attributes_of=_of_toyworld,
    stages={
        "vae": TrainingStage("vae", 2200, 2e-3),
        "text": TrainingStage("text", 1600, 2e-3),
        "base": TrainingStage("base", 3400, 2e-3),
        "refiner": TrainingStage("refiner", 700, 2e-3, ema=0.99),
    },
    vae_widths=(24, 48),
    vae_batch=64,
    keeps_frozen=False,
    text_widths=(48, 80),
    unet_widths={"base": (32, 96), "refiner": (32, 64)},
    base_noise_power=1.0,
    tokens=2000,
)


def _of_emojiworld(scene: EmojiScene) -> list[str]:
    values: list[str] = [scene.background, scene.layout]
    most = max(emoji_scenes.THINGS.values())
    for thing in (*scene.things, *[None] * most)[:most]:
        values += [thing.concept.emoji, thing.size] if thing else [NOTHING] * 2
    return values


def of_emojiworld(concepts: int) -> Design:
    """Its `concepts` most frequent ones, all alike in what the teacher sees."""
    names = tuple(one.emoji for one in vocabulary(concepts))
    thing = ((*names, NOTHING), (*emoji_scenes.SIZES, NOTHING))
    return Design(
        world=emojiworld(concepts, alike=True),
        models=EMOJIWORLD_MODELS,
        attributes=(
            tuple(emoji_scenes.BACKGROUNDS),
            tuple(emoji_scenes.THINGS),
            *thing * max(emoji_scenes.THINGS.values()),
        ),
        attributes_of=_of_emojiworld,
        stages={
            "vae": TrainingStage("vae", 4000, 2e-3, save_every=100),
            "text": TrainingStage("text", 2400, 2e-3),
            "base": TrainingStage("base", 11600, 1e-3, ema=0.999, save_every=100),
            "refiner": TrainingStage("refiner", 3800, 1e-3, save_every=100),
        },
        vae_widths=(16, 48, 96),  # the widest level has the fewest pixels
        vae_batch=16,
        keeps_frozen=True,
        text_widths=(64, 128),
        unet_widths={"base": (32, 128), "refiner": (32, 96)},
        base_noise_power=2.0,
        tokens=4000,
    )
