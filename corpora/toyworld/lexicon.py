"""English meanings of the Japanese words of toyworld's grammar, made from the tables of japanese.py
so that the two agree.

In and out: nothing on disk. Used to train the small language models, never the students.
"""

import re
from functools import cache

from corpora.toyworld import captions, japanese

# Words of the sentence patterns that are not in the tables.
PATTERN_WORDS = {
    "背景": ("background",),
    "ひとつ": ("one",),
    "ある": ("there",),
    "あり": ("there",),
    "あって": ("there",),
    "その": ("its",),
    "やつ": ("that",),
}
# Words without an English counterpart. They alone tell who stands where, and which of two colors is
# right.
STRUCTURE_WORDS = (
    *("に", "の", "が", "は", "で", "と", "も", "を", "、", "ね", "くて", "く"),
    *(
        "ではなく",
        "じゃなくて",
        "ではない",
        "であって",
        "にはない",
        "くない",
        "しかも",
        "どちらも",
        "から順に",
        "ほう",
    ),
    *("置かれた", "描かれた", "描いて", "なっている", "絵", "形", "色", "大きさ"),
)


@cache
def meanings() -> dict[str, tuple[str, ...]]:
    """The English words that a Japanese word may stand for, most frequent first."""
    found: dict[str, tuple[str, ...]] = dict(PATTERN_WORDS)
    for size, forms in japanese.SIZES.items():
        found |= dict.fromkeys(
            (*forms, japanese.SIZE_STEMS[size], japanese.SIZE_NOUNS[size]),
            captions.ENGLISH_SIZES[size],
        )
    for shape, names in japanese.SHAPE_WORDS.items():
        found |= dict.fromkeys(names, (shape,))
    for relation, places in japanese.RELATIONS.items():
        found |= dict.fromkeys(places, tuple(dict.fromkeys([relation, *_single_words(relation)])))
    for color, (adjectives, joined, noun) in japanese.COLOR_WORDS.items():
        found |= dict.fromkeys([*map(_stem, adjectives), joined.removesuffix("で"), noun], (color,))
    for background, adjective_and_noun in japanese.BACKGROUNDS.items():
        found |= dict.fromkeys(map(_stem, adjective_and_noun), (background,))
    return dict(sorted(found.items()))


def words_of(text: str) -> list[str]:
    """Splits a caption into the grammar's words, longest match first; any other text stays in one
    piece.
    """
    return [part for part in _cuts().split(text) if part]


@cache
def _cuts() -> re.Pattern[str]:
    longest_first = sorted({*meanings(), *STRUCTURE_WORDS}, key=lambda word: (-len(word), word))
    return re.compile(f"({'|'.join(longest_first)})")


def _single_words(relation: str) -> list[str]:
    return [phrase for phrase in captions.ENGLISH_RELATIONS[relation] if " " not in phrase]


def _stem(adjective: str) -> str:
    """緑の -> 緑: の is a separate word."""
    return adjective.removesuffix("の")
