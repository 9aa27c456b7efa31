"""Emojiworld's captions: scenes described in English and in Japanese, as sentences or as prompts.

In and out: a split, a seed and the size of the vocabulary in, `EmojiCaption`s out; nothing on disk.
Each caption is a function of split, seed and row alone.
"""

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, get_args

from corpora.emojiworld import english, japanese
from corpora.emojiworld.scenes import EmojiScene, Speech, sample
from corpora.toyworld.japanese import BothLanguages, Sentence
from corpora.toyworld.scenes import Split

EmojiPhrasing = Literal["sentence", "prompt"]
PHRASINGS: tuple[EmojiPhrasing, ...] = get_args(EmojiPhrasing)
PROMPT_SHARE = 0.35
# Words of style that prompts carry and no picture shows, in both languages.
TAGS = (
    *(("", ""),) * 4,
    ("illustration", "イラスト"),
    ("simple icon", "シンプルなアイコン"),
    ("flat design", "フラットデザイン"),
    ("cute", "かわいい"),
)


@dataclass(frozen=True)
class EmojiCaption(BothLanguages):
    """One scene in two languages, both in the same phrasing."""

    scene: EmojiScene
    phrasing: EmojiPhrasing
    japanese: Sentence
    english: Sentence


def pairs(
    count: int, split: Split, seed: int, size: int, alike: bool | None = None
) -> Iterator[EmojiCaption]:
    """`count` captioned scenes of one split; the same arguments give the same captions.

    Training captions speak of the `size` concepts by Zipf's law, and of none of the group
    `unpaired`; held-out ones of all alike. `alike` says otherwise: a teacher learns all alike.
    """
    speech = Speech(size, split == "held_out" if alike is None else alike)
    for row in range(count):
        yield caption(split, speech, random.Random(f"emojiworld {split} {seed} {row}"))


def caption(split: Split, speech: Speech, rng: random.Random) -> EmojiCaption:
    return of_scene(sample(split, speech, rng), rng)


def of_scene(scene: EmojiScene, rng: random.Random) -> EmojiCaption:
    """A caption of the given scene, in a random phrasing."""
    phrasing: EmojiPhrasing = "prompt" if rng.random() < PROMPT_SHARE else "sentence"
    tag_en, tag_ja = rng.choice(TAGS)
    return EmojiCaption(
        scene,
        phrasing,
        japanese.say(scene, phrasing, tag_ja, rng),
        english.say(scene, phrasing, tag_en, rng),
    )


def role_swapped(one: EmojiCaption) -> EmojiCaption:
    """The caption of two things with the things exchanged: the same patterns and words in both
    languages, another picture. Its scene may be of either split.
    """
    assert english.kind(one.scene) == "two", "only two things can change places"
    scene = replace(one.scene, things=one.scene.things[::-1])
    return replace(one, scene=scene, japanese=one.japanese.swapped(), english=one.english.swapped())


def twin(one: EmojiCaption) -> EmojiCaption | None:
    """`role_swapped`, or None for a scene that is not of two different things."""
    return role_swapped(one) if english.kind(one.scene) == "two" else None


def words(one: EmojiCaption) -> list[tuple[str, str | None]]:
    """The Japanese cut at the names of its things, each with its English name."""
    names = {name: thing.concept.en[0] for thing in one.scene.things for name in thing.concept.ja}
    cuts = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
    return [(part, names.get(part)) for part in re.split(f"({cuts})", one.ja) if part]


def held_out_twins(couples: int, seed: int, size: int) -> Iterator[EmojiCaption]:
    """`2 * couples` captions of two things, each followed by its role-swapped twin; all are held
    out.
    """
    found = 0
    for one in pairs(couples * 1000, "held_out", seed, size):  # one in thirty has such a twin
        if found == couples:
            return
        if english.kind(one.scene) == "two" and role_swapped(one).scene.split == "held_out":
            yield one
            yield role_swapped(one)
            found += 1
