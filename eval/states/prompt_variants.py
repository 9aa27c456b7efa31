"""Other prompts made from the held-out pairs: the same scene in other words, two languages mixed,
a word by itself, words in another order.

In:  pairs and the recipe. The scene behind a pair of our worlds is found in their grammars; pairs
     of other corpora have none.
Out: lists of prompts, one a pair.
"""

import itertools
import random
import re
from typing import NamedTuple

from configs.languages import JAPANESE
from configs.schema.recipe import Recipe
from configs.schema.sources import WorldSource
from corpora import worlds
from corpora.pair import Pair
from corpora.worlds import SceneCaption, World

# Japanese writes no spaces. A run of kanji with the kana after it, of katakana, of hiragana, of
# other letters, or one sign: near enough to words for putting them in another order, and it needs
# no dictionary.
WORD = re.compile(r"[一-鿿々]+[ぁ-ゖ]*|[ァ-ヺー]+|[ぁ-ゖ]+|[^\W一-鿿々ぁ-ゖァ-ヺー]+|[^\w\s]")
# Between two letters of a script with spaces there is no end of a word.
UNSPACED = re.compile(rf"[^\W{JAPANESE.letters}]{{2}}|.?\s.?", re.S)
MIXED_SHARE = 0.5  # of the words that have an English one


class SaidScene(NamedTuple):
    """The caption that a pair is, and the world it speaks of."""

    caption: SceneCaption
    world: World


def captioned(recipe: Recipe, pairs: list[Pair]) -> list[SaidScene | None]:
    """The caption behind each pair, None for pairs of other corpora: the same settings generate the
    same captions again.
    """
    found: dict[tuple[str, str], SaidScene] = {}
    for source in recipe.corpora.sources:
        if isinstance(source, WorldSource):
            world = worlds.of_source(source)
            found |= {
                (caption.text, caption.en): SaidScene(caption, world)
                for caption in world.pairs(source.held_out_pairs, "held_out", source.seed)
            }
    return [found.get((pair.text, pair.en)) for pair in pairs]


def paraphrases(made_from: list[SaidScene | None], seed: int) -> list[str] | None:
    """Another English caption of the same scene; None unless every pair has a scene."""
    made = []
    for one in made_from:
        if one is None:
            return None
        rng, text = _rng(seed, one.caption.en), one.caption.en
        while text == one.caption.en:
            text = one.world.paraphrase(one.caption, rng)
        made.append(text)
    return made


def code_mixed(
    pairs: list[Pair],
    made_from: list[SaidScene | None],
    seed: int,
    share: float = MIXED_SHARE,
) -> list[str]:
    """Prompts in both languages at once.

    Our worlds: `share` of the Japanese sentence's words in English, in Japanese order. Other
    corpora: the Japanese sentence, then the English one.
    """
    made = []
    for pair, one in zip(pairs, made_from, strict=True):
        words = one.world.words(one.caption) if one else [(f"{pair.text} {pair.en}", None)]
        known = [i for i, (_, english) in enumerate(words) if english]
        mixed = set(_rng(seed, pair.text).sample(known, round(share * len(known))))
        text = "".join(f" {en} " if i in mixed else ja for i, (ja, en) in enumerate(words))
        made.append(" ".join(text.split()))
    return made


def segmented(
    texts: list[str], made_from: list[SaidScene | None], seed: int, count: int = 1
) -> list[str]:
    """With spaces around some words, `count` or all that there are, none within a word of a script
    that has spaces: so the tokenizer reads these words by themselves, as programs have it read
    words with a weight. The words of a larger count hold those of a smaller one. Of our worlds
    they are words with an English one.
    """
    made = []
    for text, one in zip(texts, made_from, strict=True):
        words = _known_words(one) if one else [found.span() for found in WORD.finditer(text)]
        drawn = _rng(seed, text).sample(words, min(count, len(words)))
        ends = {end for word in drawn for end in word if _ends_a_word(text, end)}
        around = [0, *sorted(ends), len(text)]
        made.append(" ".join(text[a:b] for a, b in itertools.pairwise(around)))
    return made


def _known_words(one: SaidScene) -> list[tuple[int, int]]:
    parts = one.world.words(one.caption)
    ends = list(itertools.accumulate(len(text) for text, _ in parts))
    return [(end - len(text), end) for end, (text, en) in zip(ends, parts, strict=True) if en]


def _ends_a_word(text: str, place: int) -> bool:
    inner = 0 < place < len(text)
    return inner and not UNSPACED.fullmatch(text[place - 1 : place + 1])


def role_swapped(
    pairs: list[Pair], made_from: list[SaidScene | None]
) -> tuple[list[str], list[str]]:
    """Japanese and English with the two things of the scene exchanged and not a word changed: "A
    left of B" becomes "B left of A".

    A pair of one thing, or of another corpus, stays as it is.
    """
    japanese, english = [pair.text for pair in pairs], [pair.en for pair in pairs]
    for i, one in enumerate(made_from):
        if one is not None and (twin := one.world.swapped(one.caption)):
            japanese[i], english[i] = twin.text, twin.en
    return japanese, english


def scrambled(texts: list[str], separator: str, seed: int) -> list[str]:
    """The same words in a random order, joined by `separator` (none in Japanese)."""
    made = []
    for text in texts:
        words, rng = WORD.findall(text), _rng(seed, text)
        rng.shuffle(words)
        made.append(separator.join(words))
    return made


def _rng(seed: int, text: str) -> random.Random:
    """A prompt's draw depends on nothing but itself and the seed, not on the pairs before it."""
    return random.Random(f"{seed} {text}")
