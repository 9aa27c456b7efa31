"""Toyworld's captions: scenes said in English, by the grammar the miniature was trained on, and in
Japanese, by one of four phrasings.

In and out: a split and a seed in, `Caption`s out; nothing on disk. `corpora/toyworld/japanese.py`
holds the Japanese words and patterns.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

from corpora.toyworld import japanese
from corpora.toyworld.japanese import PHRASINGS, Phrasing, Sentence, Words
from corpora.toyworld.scenes import Scene, Split, Thing, sample

ENGLISH_SIZES = {"small": ("small", "little"), "big": ("big", "large")}
ENGLISH_RELATIONS = {
    "left": ("to the left of", "left of"),
    "right": ("to the right of", "right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}
ENGLISH_RELATIONS_OF_IT = {
    "left": "to its left",
    "right": "to its right",
    "above": "above it",
    "below": "below it",
}
ENGLISH_SINGLE = (
    "a {first} on a {background} background",
    "on a {background} background there is a {first}",
    "{background} background with one {first}",
    "a {first.shape} that is {first.size} and {first.color}, background {background}",
)
ENGLISH_DOUBLE = (
    "a {first} {relation} a {second} on a {background} background",
    "on a {background} background, a {second} with a {first} {of_it}",
    "{relation} a {second} there is a {first}, {background} background",
    "a {second} and {of_it} a {first}; the background is {background}",
)

# Plain speech leads, as it does among people; each hard phrasing keeps enough captions to be learnt
# and measured by itself.
SHARES: dict[Phrasing, float] = {"plain": 0.4, "relative": 0.2, "modifiers": 0.2, "negation": 0.2}


@dataclass(frozen=True)
class Caption:
    """One scene in two languages; `phrasing` says how the Japanese is put."""

    scene: Scene
    phrasing: Phrasing
    japanese: Sentence
    english: Sentence

    @property
    def ja(self) -> str:
        return str(self.japanese)

    @property
    def en(self) -> str:
        return str(self.english)

    @property
    def key(self) -> str:
        return self.scene.key


def pairs(count: int, split: Split, seed: int) -> Iterator[Caption]:
    """`count` captioned scenes of one split; the same arguments give the same captions."""
    rng = random.Random(f"{split} {seed}")
    rng_of_phrasing = random.Random(f"{split} {seed} phrasing")
    for _ in range(count):
        scene = sample(split, rng)
        # A plain sentence is drawn for every scene, needed or not: so the scenes and their English,
        # on which the miniature was trained, are the same whatever is added to the Japanese.
        plain = japanese.plain(scene, rng)
        english_sentence = english(scene, rng)
        (phrasing,) = rng_of_phrasing.choices(PHRASINGS, [SHARES[one] for one in PHRASINGS])
        said = plain if phrasing == "plain" else japanese.say(scene, phrasing, rng_of_phrasing)
        yield Caption(scene, phrasing, said, english_sentence)


def of_scene(scene: Scene, phrasing: Phrasing, rng: random.Random) -> Caption:
    """A given scene, said in a given way."""
    return Caption(scene, phrasing, japanese.say(scene, phrasing, rng), english(scene, rng))


def role_swapped(caption: Caption) -> Caption:
    """The caption of two things with the things exchanged: the same patterns and words in both
    languages, and another picture.

    The twin's picture is never the caption's own, but the twin may be of either split, whichever
    the caption is of: most twins of held-out scenes may have been trained on. What must be unseen
    is to be chosen by `twin.scene.split`.
    """
    assert caption.scene.relation, "one thing has nothing to change places with"
    scene = replace(caption.scene, things=caption.scene.things[::-1])
    return replace(
        caption, scene=scene, japanese=caption.japanese.swapped(), english=caption.english.swapped()
    )


def held_out_twins(couples: int, seed: int) -> Iterator[Caption]:
    """Captions of two things, each followed by its role-swapped twin; neither picture is ever
    trained on: `2 * couples` in all.
    """
    found = 0
    for caption in pairs(
        couples * 1000, "held_out", seed
    ):  # one caption in twelve or so has a held-out twin
        if found == couples:
            return
        if caption.scene.relation and role_swapped(caption).scene.split == "held_out":
            yield caption
            yield role_swapped(caption)
            found += 1


def english(scene: Scene, rng: random.Random) -> Sentence:
    if scene.relation is None:
        words = _english_thing(scene.things[0], rng)
        return Sentence(rng.choice(ENGLISH_SINGLE), (words,), {"background": scene.background})
    pattern = rng.choice(ENGLISH_DOUBLE)
    things = tuple(_english_thing(thing, rng) for thing in scene.things)
    relation = rng.choice(ENGLISH_RELATIONS[scene.relation])
    others = {
        "relation": relation,
        "of_it": ENGLISH_RELATIONS_OF_IT[scene.relation],
        "background": scene.background,
    }
    return Sentence(pattern, things, others)


def _english_thing(thing: Thing, rng: random.Random) -> Words:
    size = rng.choice(ENGLISH_SIZES[thing.size])
    return Words(
        f"{size} {thing.color} {thing.shape}", shape=thing.shape, color=thing.color, size=size
    )
