"""Emojiworld's captions: scenes described in English and in Japanese, as sentences or as prompts,
or in Korean, as prompts alone.

In and out: a split, a seed and the size of the vocabulary in, `EmojiCaption`s out; nothing on disk.
Each caption is a function of split, seed and row alone.
"""

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, get_args

from corpora.emojiworld import english, japanese, korean
from corpora.emojiworld.scenes import EmojiScene, Speech, sample
from corpora.toyworld.japanese import BothLanguages, Sentence
from corpora.toyworld.scenes import Split

EmojiPhrasing = Literal["sentence", "prompt"]
PHRASINGS: tuple[EmojiPhrasing, ...] = get_args(EmojiPhrasing)
PROMPT_SHARE = 0.35
LANGUAGES = ("ja", "ko")  # codes of configs/languages.py
# Words of style that prompts carry and no picture shows, in English, Japanese and Korean.
TAGS = (
    *(("", "", ""),) * 4,
    ("illustration", "イラスト", "일러스트"),
    ("simple icon", "シンプルなアイコン", "단순한 아이콘"),
    ("flat design", "フラットデザイン", "플랫 디자인"),
    ("cute", "かわいい", "귀여운"),
)


@dataclass(frozen=True)
class EmojiCaption(BothLanguages):
    """One scene in two languages, both in the same phrasing."""

    scene: EmojiScene
    phrasing: EmojiPhrasing
    sentence: Sentence
    english: Sentence


def pairs(
    count: int,
    split: Split,
    seed: int,
    size: int,
    alike: bool | None = None,
    language: str = "ja",
) -> Iterator[EmojiCaption]:
    """`count` captioned scenes of one split; the same arguments give the same captions.

    Training captions speak of the `size` concepts by Zipf's law, and of none of the group
    `unpaired`; held-out ones of all alike. `alike` says otherwise: a teacher learns all alike.
    `language`: the student's, one of `LANGUAGES`.
    """
    speech = Speech(size, split == "held_out" if alike is None else alike)
    for row in range(count):
        rng = random.Random(f"emojiworld {split} {seed} {row}")
        yield of_scene(sample(split, speech, rng), rng, language)


def of_scene(scene: EmojiScene, rng: random.Random, language: str = "ja") -> EmojiCaption:
    """A caption of the given scene, in a random phrasing: Korean has prompts alone."""
    phrasing: EmojiPhrasing = "prompt" if rng.random() < PROMPT_SHARE else "sentence"
    tag_en, tag_ja, tag_ko = rng.choice(TAGS)
    if language == "ko":
        phrasing, sentence = "prompt", korean.say(scene, tag_ko, rng)
    else:
        sentence = japanese.say(scene, phrasing, tag_ja, rng)
    return EmojiCaption(scene, phrasing, sentence, english.say(scene, phrasing, tag_en, rng))


def role_swapped(one: EmojiCaption) -> EmojiCaption:
    """The caption of two things with the things exchanged: the same patterns and words in both
    languages, another picture. Its scene may be of either split.
    """
    assert english.kind(one.scene) == "two", "only two things can change places"
    scene = replace(one.scene, things=one.scene.things[::-1])
    return replace(one, scene=scene, sentence=one.sentence.swapped(), english=one.english.swapped())


def twin(one: EmojiCaption) -> EmojiCaption | None:
    """`role_swapped`, or None for a scene that is not of two different things."""
    return role_swapped(one) if english.kind(one.scene) == "two" else None


def words(one: EmojiCaption, language: str = "ja") -> list[tuple[str, str | None]]:
    """The text cut at the names of its things, each with its English name."""
    concepts = [thing.concept for thing in one.scene.things]
    names = {name: concept.en[0] for concept in concepts for name in concept.names(language)}
    cuts = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
    return [(part, names.get(part)) for part in re.split(f"({cuts})", one.text) if part]


def held_out_twins(
    couples: int, seed: int, size: int, language: str = "ja"
) -> Iterator[EmojiCaption]:
    """`2 * couples` captions of two things, each followed by its role-swapped twin; all are held
    out.
    """
    found = 0
    for one in pairs(couples * 1000, "held_out", seed, size, language=language):
        # one in thirty has such a twin
        if found == couples:
            return
        if english.kind(one.scene) == "two" and role_swapped(one).scene.split == "held_out":
            yield one
            yield role_swapped(one)
            found += 1
