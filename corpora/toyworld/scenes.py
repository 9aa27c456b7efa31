"""Toyworld's scenes: one or two colored things on a plain background, and which scenes are held
out.

A scene is what a caption means. Captions of the same picture ("A left of B", "B right of A") share
one `key`, and the key alone decides whether the scene is held out: no phrasing of a held-out
picture can be trained on.
"""

import hashlib
import random
from dataclasses import dataclass
from typing import Literal

# sRGB, far enough apart that a washed-out color is not taken for a right one
COLORS = {
    "red": (214, 36, 42),
    "orange": (240, 135, 30),
    "yellow": (248, 224, 60),
    "green": (40, 160, 70),
    "cyan": (80, 205, 225),
    "blue": (45, 75, 205),
    "purple": (140, 50, 175),
    "pink": (245, 150, 195),
}
BACKGROUNDS = {
    "white": (250, 250, 250),
    "black": (15, 15, 15),
    "gray": (128, 128, 128),
    "brown": (100, 64, 36),
}
SHAPES = ("circle", "square", "triangle", "diamond", "cross", "ring")
# Figures of Japanese family crests. They are in no scene of `sample`, so no miniature ever saw one:
# corpora/toyworld/kamon.py has their scenes.
KAMON = ("mikazuki", "kuginuki", "futatsubiki", "yamagata", "mitsuboshi", "tomoe")
SIZES = ("small", "big")
RELATIONS = ("left", "right", "above", "below")

Layout = Literal["single", "horizontal", "vertical"]
Split = Literal["train", "held_out"]
HELD_OUT_SHARE = 10  # one scene in ten
SINGLE_SHARE = 0.25


@dataclass(frozen=True)
class Thing:
    color: str
    shape: str
    size: str


@dataclass(frozen=True)
class Scene:
    """`things[0]` is at `relation` of `things[1]`; a single thing has no relation."""

    background: str
    things: tuple[Thing, ...]
    relation: str | None = None

    @property
    def layout(self) -> Layout:
        if self.relation is None:
            return "single"
        return "horizontal" if self.relation in ("left", "right") else "vertical"

    @property
    def in_picture_order(self) -> tuple[Thing, ...]:
        """The things from left to right, or from top to bottom."""
        return self.things if self.relation in (None, "left", "above") else self.things[::-1]

    @property
    def key(self) -> str:
        """The same for all scenes that look the same."""
        things = "|".join(
            f"{thing.size} {thing.color} {thing.shape}" for thing in self.in_picture_order
        )
        return f"{self.background}|{self.layout}|{things}"

    @property
    def split(self) -> Split:
        digest = hashlib.sha256(self.key.encode()).digest()
        return "held_out" if int.from_bytes(digest[:4], "big") % HELD_OUT_SHARE == 0 else "train"


def sample(split: Split, rng: random.Random) -> Scene:
    """A random scene of that split."""
    while True:
        scene = _sample_any(rng)
        if scene.split == split:
            return scene


def _sample_any(rng: random.Random) -> Scene:
    background = rng.choice(list(BACKGROUNDS))
    first = _sample_thing(rng)
    if rng.random() < SINGLE_SHARE:
        return Scene(background, (first,))
    second = _sample_thing(rng)
    # "a red circle left of a red circle" says too little
    while (second.color, second.shape) == (first.color, first.shape):
        second = _sample_thing(rng)
    return Scene(background, (first, second), rng.choice(RELATIONS))


def _sample_thing(rng: random.Random) -> Thing:
    return Thing(rng.choice(list(COLORS)), rng.choice(SHAPES), rng.choice(SIZES))
