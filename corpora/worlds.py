"""The worlds with pictures: scenes that captions say in both languages and a program reads from
pixels. What trains and evaluates in them asks a `World`, not which of them it is.

In and out: a recipe's source in, its `World` out; nothing on disk.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Protocol

import numpy as np

from configs.errors import DataError
from configs.schema.sources import EmojiworldSource, WorldSource
from corpora.emojiworld import captions as emoji_captions
from corpora.emojiworld import renderer as emoji_renderer
from corpora.emojiworld import scene_reader as emoji_reader
from corpora.emojiworld.concepts import vocabulary
from corpora.toyworld import captions, lexicon, renderer, scene_reader
from corpora.toyworld.scenes import Split

Words = list[tuple[str, str | None]]
LANGUAGES = {"toyworld": ("ja",), "emojiworld": emoji_captions.LANGUAGES}


class SceneCaption(Protocol):
    """A scene in two languages; `text` and `phrasing` are the student's."""

    @property
    def scene(self) -> Any: ...
    @property
    def phrasing(self) -> str: ...
    @property
    def text(self) -> str: ...
    @property
    def en(self) -> str: ...


@dataclass(frozen=True)
class World:
    """What a world can do. Scenes, captions and readings are its own; H = W = `side` pixels.

    - `pairs(count, split, seed)`, `held_out_twins(couples, seed)`: captioned scenes; a twin follows
      its couple's first, with the two things exchanged
    - `render(scenes, rng)`: (N, H, W, 3) uint8 pictures; `read(pictures)`: a reading of each, or
      ValueError for pictures of another size; `attribute_matches(scene, reading)`: which attributes
      are right; `things_right(scene, reading)`: which things, one by one; `names(scene)`: what they
      are, in the same order
    - `paraphrase(caption, rng)`: English for the same scene, at times the same; `swapped(caption)`:
      the caption's twin, None for scenes without one; `words(caption)`: the parts of the Japanese,
      each with its English where it has one
    """

    name: str
    side: int
    pairs: Callable[[int, Split, int], Iterator[SceneCaption]]
    held_out_twins: Callable[[int, int], Iterator[SceneCaption]]
    render: Callable[..., np.ndarray]
    read: Callable[[np.ndarray], list[Any]]
    attribute_matches: Callable[[Any, Any], dict[str, bool]]
    things_right: Callable[[Any, Any], list[bool]]
    names: Callable[[Any], list[str]]
    paraphrase: Callable[[Any, random.Random], str]
    swapped: Callable[[Any], SceneCaption | None]
    words: Callable[[Any], Words]

    def right(self, scene: Any, reading: Any) -> bool:
        """Every attribute is right."""
        return all(self.attribute_matches(scene, reading).values())

    def shares(self, scenes: list[Any], pictures: np.ndarray) -> dict[str, float]:
        """Of these pictures, (N, H, W, 3) uint8 with a scene each: `scenes` that are right in every
        attribute, and `things` that are right by themselves.
        """
        both = list(zip(scenes, self.read(pictures), strict=True))
        things = [right for pair in both for right in self.things_right(*pair)]
        return {
            "scenes": float(np.mean([self.right(*pair) for pair in both])),
            "things": float(np.mean(things)),
        }


def _toyworld_words(caption: captions.Caption) -> Words:
    english = {
        word: meanings[0]
        for word, meanings in lexicon.meanings().items()
        if word not in lexicon.PATTERN_WORDS
    }
    return [(word, english.get(word)) for word in lexicon.words_of(caption.text)]


TOYWORLD = World(
    "toyworld",
    renderer.SIDE,
    captions.pairs,
    captions.held_out_twins,
    renderer.render,
    scene_reader.read,
    scene_reader.attribute_matches,
    scene_reader.things_right,
    lambda scene: [f"{thing.color} {thing.shape}" for thing in scene.in_picture_order],
    lambda caption, rng: str(captions.english(caption.scene, rng)),
    lambda caption: captions.role_swapped(caption) if caption.scene.relation else None,
    _toyworld_words,
)


@cache
def emojiworld(size: int, alike: bool | None = None, language: str = "ja") -> World:
    """Emojiworld with its `size` most frequent concepts; `alike`, `language`: see its
    `captions.pairs`.

    Raises ValueError when it has fewer.
    """
    return World(
        "emojiworld",
        emoji_renderer.SIDE,
        partial(emoji_captions.pairs, size=size, alike=alike, language=language),
        partial(emoji_captions.held_out_twins, size=size, language=language),
        emoji_renderer.render,
        partial(emoji_reader.read, concepts=vocabulary(size)),
        emoji_reader.attribute_matches,
        emoji_reader.things_right,
        lambda scene: [thing.concept.emoji for thing in scene.things],
        lambda caption, rng: emoji_captions.of_scene(caption.scene, rng, language).en,
        emoji_captions.twin,
        partial(emoji_captions.words, language=language),
    )


def spoken_of(source: WorldSource) -> Counter[str]:
    """By the name of a thing, as `World.names` gives it: how many training pairs speak of it."""
    world = of_source(source)
    captions = world.pairs(source.pairs, "train", source.seed)
    return Counter(name for caption in captions for name in set(world.names(caption.scene)))


def of_source(source: WorldSource) -> World:
    """Raises DataError for a language that its grammar does not speak."""
    code, spoken = source.text_language.code, LANGUAGES[source.kind]
    if code not in spoken:
        raise DataError(
            f"language: {code}: {source.kind} speaks {' and '.join(spoken)}; give another language "
            "or another source"
        )
    if isinstance(source, EmojiworldSource):
        return emojiworld(source.concepts, language=code)
    return TOYWORLD
