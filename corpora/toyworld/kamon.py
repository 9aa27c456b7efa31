"""Scenes that show kamon, the figures of Japanese family crests, said in Japanese alone: what no
teacher ever saw and no English caption names, to be learnt from pictures.

In and out: a split and a seed in, scenes with their captions out; nothing on disk.
"""

import random
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from corpora.toyworld import captions, japanese, scenes
from corpora.toyworld.scenes import KAMON, Scene, Split


class KamonCaption(NamedTuple):
    scene: Scene
    text: str


def pairs(count: int, split: Split, seed: int) -> Iterator[KamonCaption]:
    """`count` scenes of one split with one kamon each, in toyworld's four Japanese phrasings; the
    same arguments give the same.
    """
    rng = random.Random(f"kamon {split} {seed}")
    phrasings, shares = zip(*captions.SHARES.items(), strict=True)
    for _ in range(count):
        scene = _sample(split, rng)
        (phrasing,) = rng.choices(phrasings, shares)
        yield KamonCaption(scene, str(japanese.say(scene, phrasing, rng)))


def _sample(split: Split, rng: random.Random) -> Scene:
    """A scene of toyworld in which one thing's shape is a kamon instead."""
    while True:
        scene = scenes.sample("train", rng)
        place = rng.randrange(len(scene.things))
        things = list(scene.things)
        things[place] = replace(things[place], shape=rng.choice(KAMON))
        scene = replace(scene, things=tuple(things))
        if scene.split == split:
            return scene
