"""Other prompts made from the held-out pairs: the same scene in other words, two languages mixed,
a word by itself, words in another order.

In:  pairs and the recipe. The scene behind a pair of toyworld is found in its grammar; pairs of
     other corpora have none.
Out: lists of prompts, one a pair.
"""

import random
import re

from configs.schema.recipe import Recipe
from configs.schema.sources import ToyworldSource
from corpora.pair import Pair
from corpora.toyworld import captions, lexicon
from corpora.toyworld.captions import Caption

# Japanese writes no spaces. A run of kanji with the kana after it, of katakana, of hiragana, of
# other letters, or one sign: near enough to words for putting them in another order, and it needs
# no dictionary.
WORD = re.compile(r"[一-鿿々]+[ぁ-ゖ]*|[ァ-ヺー]+|[ぁ-ゖ]+|[^\W一-鿿々ぁ-ゖァ-ヺー]+|[^\w\s]")
MIXED_SHARE = 0.5  # of the words that have an English one


def captioned(recipe: Recipe, pairs: list[Pair]) -> list[Caption | None]:
    """Toyworld's caption behind each pair, None for pairs of other corpora: the same settings
    generate the same captions again.
    """
    found: dict[tuple[str, str], Caption] = {}
    for source in recipe.corpora.sources:
        if isinstance(source, ToyworldSource):
            found |= {
                (caption.ja, caption.en): caption
                for caption in captions.pairs(source.held_out_pairs, "held_out", source.seed)
            }
    return [found.get((pair.text, pair.en)) for pair in pairs]


def paraphrases(made_from: list[Caption | None], seed: int) -> list[str] | None:
    """Another English caption of the same scene; None unless every pair has a scene."""
    made = []
    for caption in made_from:
        if caption is None:
            return None
        rng, text = _rng(seed, caption.en), caption.en
        while text == caption.en:
            text = str(captions.english(caption.scene, rng))
        made.append(text)
    return made


def code_mixed(pairs: list[Pair], made_from: list[Caption | None], seed: int) -> list[str]:
    """Prompts in both languages at once.

    Toyworld: half of the Japanese sentence's words in English, in Japanese order. Other corpora:
    the Japanese sentence, then the English one.
    """
    meanings = {
        word: english[0]
        for word, english in lexicon.meanings().items()
        if word not in lexicon.PATTERN_WORDS
    }
    made = []
    for pair, caption in zip(pairs, made_from, strict=True):
        words = lexicon.words_of(pair.text) if caption else [pair.text, " ", pair.en]
        known = [i for i, word in enumerate(words) if caption and word in meanings]
        mixed = set(_rng(seed, pair.text).sample(known, round(MIXED_SHARE * len(known))))
        made.append(
            " ".join(
                "".join(
                    f" {meanings[word]} " if i in mixed else word for i, word in enumerate(words)
                ).split()
            )
        )
    return made


def segmented(texts: list[str], seed: int) -> list[str]:
    """With spaces around one word: a program that weights a word tokenises it by itself, and the
    tokenizer begins every text with a space.
    """
    made = []
    for text in texts:
        words = [found.span() for found in WORD.finditer(text)]
        start, end = _rng(seed, text).choice(words or [(0, len(text))])
        parts = (text[:start].rstrip(), text[start:end], text[end:].lstrip())
        made.append(" ".join(filter(None, parts)))
    return made


def role_swapped(pairs: list[Pair], made_from: list[Caption | None]) -> tuple[list[str], list[str]]:
    """Japanese and English with the two things of the scene exchanged and not a word changed: "A
    left of B" becomes "B left of A".

    A pair of one thing, or of another corpus, stays as it is.
    """
    japanese, english = [pair.text for pair in pairs], [pair.en for pair in pairs]
    for i, caption in enumerate(made_from):
        if caption is not None and caption.scene.relation:
            twin = captions.role_swapped(caption)
            japanese[i], english[i] = twin.ja, twin.en
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
