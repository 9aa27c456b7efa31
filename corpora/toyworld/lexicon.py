"""What each Japanese word of toyworld's grammar means in English: made from the tables of captions.py, so the two cannot part.

In and out: nothing on disk. Used to train the small language models, never the students.
"""

import re

from corpora.toyworld import captions

# The words of the sentence patterns that the tables do not hold.
PATTERN_WORDS = {
    "背景": ("background",),
    "ひとつ": ("one",),
    "ある": ("there",),
    "あり": ("there",),
    "あって": ("there",),
    "その": ("its",),
    "やつ": ("that",),
}


def meanings() -> dict[str, tuple[str, ...]]:
    """The English words a Japanese word may stand for, the grammar's commonest first."""
    found: dict[str, tuple[str, ...]] = dict(PATTERN_WORDS)
    for size, forms in captions.JAPANESE_SIZES.items():
        found |= dict.fromkeys(forms, captions.ENGLISH_SIZES[size])
    for shape, names in captions.JAPANESE_SHAPES.items():
        found |= dict.fromkeys(names, (shape,))
    for relation, places in captions.JAPANESE_RELATIONS.items():
        found |= dict.fromkeys(places, tuple(dict.fromkeys([relation, *_single_words(relation)])))
    for color, (adjectives, joined, noun) in captions.JAPANESE_COLORS.items():
        found |= dict.fromkeys([*map(_stem, adjectives), joined.removesuffix("で"), noun], (color,))
    for background, adjective_and_noun in captions.JAPANESE_BACKGROUNDS.items():
        found |= dict.fromkeys(map(_stem, adjective_and_noun), (background,))
    return dict(sorted(found.items()))


def words_of(text: str) -> list[str]:
    """A caption cut at the lexicon's words, the longest first; what lies between them stays in one piece."""
    longest_first = sorted(meanings(), key=lambda word: (-len(word), word))
    return [part for part in re.split(f"({'|'.join(longest_first)})", text) if part]


def _single_words(relation: str) -> list[str]:
    return [phrase for phrase in captions.ENGLISH_RELATIONS[relation] if " " not in phrase]


def _stem(adjective: str) -> str:
    """緑の -> 緑: の is a word of its own."""
    return adjective.removesuffix("の")
