"""Emojiworld's scenes: one to four things on a plain background, and which scenes are held out.

A scene is what a caption means. Scenes that look the same share one `key`, and the key alone
decides whether the scene is held out: no phrasing of a held-out picture can be trained on.
"""

import hashlib
import random
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

from corpora.emojiworld.concepts import Concept, frequencies, vocabulary
from corpora.toyworld import scenes as toyworld
from corpora.toyworld.scenes import Split

BACKGROUNDS = toyworld.BACKGROUNDS | {
    color: toyworld.COLORS[color] for color in ("red", "green", "blue", "cyan", "purple", "pink")
}
# one in the middle; two, as toyworld has them; three in a row or a column; four in a square
Layout = Literal["single", "horizontal", "vertical", "row", "column", "square"]
THINGS: dict[Layout, int] = {
    "single": 1,
    "horizontal": 2,
    "vertical": 2,
    "row": 3,
    "column": 3,
    "square": 4,
}
OF_SEVERAL: tuple[Layout, ...] = ("row", "column", "square")  # their things are all small
SIZES = ("small", "big")
SHARES = {"single": 0.4, "pair": 0.35, "three": 0.1, "several": 0.15}
HELD_OUT_SHARE = 10  # one scene in ten


@dataclass(frozen=True)
class EmojiThing:
    concept: Concept
    size: str


@dataclass(frozen=True)
class EmojiScene:
    """`things` from left to right or from top to bottom. Several things of one concept and size
    are spoken of by their number.
    """

    background: str
    layout: Layout
    things: tuple[EmojiThing, ...]

    def __post_init__(self) -> None:
        assert len(self.things) == THINGS[self.layout]

    @property
    def is_counted(self) -> bool:
        return len(self.things) > 1 and len(set(self.things)) == 1

    @property
    def key(self) -> str:
        """The same for all scenes that look the same."""
        things = "|".join(f"{thing.size} {thing.concept.emoji}" for thing in self.things)
        return f"{self.background}|{self.layout}|{things}"

    @property
    def split(self) -> Split:
        digest = hashlib.sha256(self.key.encode()).digest()
        return "held_out" if int.from_bytes(digest[:4], "big") % HELD_OUT_SHARE == 0 else "train"


@dataclass(frozen=True)
class Speech:
    """Which concepts scenes have, and how often: `size` of them, by the frequencies that pairs have
    (Zipf) or all alike, those that are in no pair among them.
    """

    size: int
    alike: bool = False

    def draw(self, rng: random.Random) -> Concept:
        known = vocabulary(self.size)
        if self.alike:
            return known[rng.randrange(len(known))]
        return rng.choices(known, cum_weights=_cumulative(self.size))[0]


def _cumulative(size: int) -> list[float]:
    return list(accumulate(frequencies(size)))


def sample(split: Split, speech: Speech, rng: random.Random) -> EmojiScene:
    """A random scene of that split."""
    while True:
        scene = _sample_any(speech, rng)
        if scene.split == split:
            return scene


def _sample_any(speech: Speech, rng: random.Random) -> EmojiScene:
    background = rng.choice(list(BACKGROUNDS))
    (kind,) = rng.choices(list(SHARES), list(SHARES.values()))
    if kind == "several":
        concept = speech.draw(rng)
        if concept.plural:
            return _of_several(background, concept, rng)
        kind = "single"
    if kind == "single":
        return EmojiScene(background, "single", (_thing(speech, rng),))
    if kind == "pair":
        first, second = _different(speech, 2, rng)
        layout: Layout = rng.choice(("horizontal", "vertical"))
        things = tuple(EmojiThing(one, rng.choice(SIZES)) for one in (first, second))
        return EmojiScene(background, layout, things)
    layout = rng.choice(("row", "column"))
    return EmojiScene(
        background, layout, tuple(EmojiThing(one, "small") for one in _different(speech, 3, rng))
    )


def _of_several(background: str, concept: Concept, rng: random.Random) -> EmojiScene:
    """Two, three or four of one concept."""
    layout: Layout = rng.choice(("horizontal", "row", "square"))
    size = rng.choice(SIZES) if layout == "horizontal" else "small"
    return EmojiScene(background, layout, (EmojiThing(concept, size),) * THINGS[layout])


def _thing(speech: Speech, rng: random.Random) -> EmojiThing:
    return EmojiThing(speech.draw(rng), rng.choice(SIZES))


def _different(speech: Speech, count: int, rng: random.Random) -> list[Concept]:
    found: list[Concept] = []
    while len(found) < count:
        concept = speech.draw(rng)
        if concept not in found:
            found.append(concept)
    return found
