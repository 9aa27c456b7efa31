"""Toyworld's captions: scenes described in English, by the grammar the miniature was trained on,
and in Japanese, in one of four phrasings.

In and out: a split and a seed in, `Caption`s out; nothing on disk. `corpora/toyworld/japanese.py`
has the Japanese words and patterns.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

from corpora.toyworld import japanese
from corpora.toyworld.japanese import PHRASINGS, BothLanguages, Phrasing, Sentence, Words
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

# Plain captions are most frequent, as in real use; each hard phrasing has enough to be learned and
# measured by itself.
SHARES: dict[Phrasing, float] = {"plain": 0.4, "relative": 0.2, "modifiers": 0.2, "negation": 0.2}


@dataclass(frozen=True)
class Caption(BothLanguages):
    """One scene in two languages; `phrasing` is that of the Japanese."""

    scene: Scene
    phrasing: Phrasing
    sentence: Sentence
    english: Sentence


def pairs(count: int, split: Split, seed: int) -> Iterator[Caption]:
    """`count` captioned scenes of one split; the same arguments give the same captions."""
    rng = random.Random(f"{split} {seed}")
    phrasing_rng = random.Random(f"{split} {seed} phrasing")
    for _ in range(count):
        scene = sample(split, rng)
        # A plain sentence is drawn for every scene, used or not, so that new phrasings change
        # neither the scenes nor their English, on which the miniature was trained.
        plain = japanese.plain(scene, rng)
        english_sentence = english(scene, rng)
        (phrasing,) = phrasing_rng.choices(PHRASINGS, [SHARES[one] for one in PHRASINGS])
        japanese_sentence = (
            plain if phrasing == "plain" else japanese.say(scene, phrasing, phrasing_rng)
        )
        yield Caption(scene, phrasing, japanese_sentence, english_sentence)


def of_scene(scene: Scene, phrasing: Phrasing, rng: random.Random) -> Caption:
    """A caption of the given scene in the given phrasing."""
    return Caption(scene, phrasing, japanese.say(scene, phrasing, rng), english(scene, rng))


def role_swapped(caption: Caption) -> Caption:
    """The caption of two things with the things exchanged: the same patterns and words in both
    languages, another picture.

    The twin may be of either split, whatever the caption's: most twins of held-out scenes may have
    been trained on. Check `twin.scene.split` if it must be unseen.
    """
    assert caption.scene.relation, "one thing has nothing to change places with"
    scene = replace(caption.scene, things=caption.scene.things[::-1])
    return replace(
        caption, scene=scene, sentence=caption.sentence.swapped(), english=caption.english.swapped()
    )


def held_out_twins(couples: int, seed: int) -> Iterator[Caption]:
    """`2 * couples` captions of two things, each followed by its role-swapped twin; all are held
    out.
    """
    found = 0
    # about one caption in twelve has a held-out twin
    for caption in pairs(couples * 1000, "held_out", seed):
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
