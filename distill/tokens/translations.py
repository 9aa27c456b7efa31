"""Which English words translate which pieces of a text: a table counted from the training pairs.

In:  pairs (text, English) and the student's tokenizer.
Out: `Translations`, in memory, and the `Unit`s it finds in a pair.

Pieces are those of the student's tokenizer, English words runs of letters and digits in lower case;
they are aligned by IBM model 1 (corpora/alignment.py). Counted again whenever tokens are
made: 60,000 short captions take seconds, the `MOST_PAIRS` of a large corpus minutes of one core.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from configs.languages import JAPANESE
from corpora.alignment import Ragged, align
from corpora.pair import read_sample

MOST_PAIRS = 200_000
# p(word | piece) p(piece | word): six forms of two words still have 0.02 each
SMALLEST_SCORE = 0.015
MOST_TRANSLATIONS = 8  # of a piece
LONGEST_PHRASE = 4
NEAR = re.compile(r"[ぁ-ゖ ]{0,2}")  # between two units of a phrase: nothing but a particle
WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
# Particles and inflections: too short to be words by themselves.
FUNCTION = re.compile(rf"[ぁ-ゖ]{{1,2}}|[^{JAPANESE.letters}]?")
FUNCTION_WORDS = frozenset(
    "a an the and or of to in on at by for with from as is are was were be it its that this there "
    "which who one".split()
)

Text = tuple[str, str]


class Unit(NamedTuple):
    """A piece of a text, from character `start` to `end`, and its translations: those among the
    words of the pair's own English, with the table's best one last.
    """

    start: int
    end: int
    words: tuple[str, ...]


class Phrase(NamedTuple):
    """Some units in a row whose translations are words in a row of the English."""

    text: str
    en: str


@dataclass(frozen=True)
class Translations:
    """By piece its English words, best first, with their scores."""

    words: dict[str, dict[str, float]]
    tokenizer: Any

    def units(self, pairs: Sequence[Text]) -> list[list[Unit]]:
        """Of each pair the pieces that have a translation, in the order of the text."""
        found = []
        for (text, en), places in zip(pairs, _places(self.tokenizer, pairs), strict=True):
            own = [word.lower() for word in WORD.findall(en)]
            units = []
            for start, end in places:
                if scores := self.words.get(text[start:end]):
                    here = sorted((word for word in own if word in scores), key=scores.__getitem__)
                    units.append(Unit(start, end, (*here[::-1], next(iter(scores)))))
            found.append(units)
        return found


def phrases(pair: Text, units: Sequence[Unit]) -> list[Phrase]:
    """The longest phrases of a pair, at most `LONGEST_PHRASE` units each, none overlapping another.

    A phrase is exact: each of its English words translates another one of its units, so that
    neither side says more than the other.
    """
    text, en = pair
    words = list(WORD.finditer(en))
    found: list[Phrase] = []
    first = 0
    while first < len(units):
        for last in range(min(len(units), first + LONGEST_PHRASE), first, -1):
            part = units[first:last]
            between = [text[a.end : b.start] for a, b in pairwise(part)]
            if all(map(NEAR.fullmatch, between)) and (english := _translation(part, en, words)):
                found.append(Phrase(text[part[0].start : part[-1].end], english))
                first = last - 1
                break
        first += 1
    return found


def _translation(part: Sequence[Unit], en: str, words: Sequence[re.Match[str]]) -> str | None:
    """The words of `en` that stand in a row and translate these units, one each."""
    for start in range(len(words) - len(part) + 1):
        here = words[start : start + len(part)]
        left = [word.group().lower() for word in here]
        for unit in part:
            if match := next((word for word in unit.words if word in left), None):
                left.remove(match)
        if not left and all(en[a.end() : b.start()].isspace() for a, b in pairwise(here)):
            return en[here[0].start() : here[-1].end()]
    return None


def count(pairs: Iterable[Text], tokenizer: Any) -> Translations:
    """The table of these pairs."""
    pieces: dict[str, int] = {}
    words: dict[str, int] = {}
    texts, englishes = [], []
    pairs = list(pairs)
    for (text, en), places in zip(pairs, _places(tokenizer, pairs), strict=True):
        found = [text[start:end] for start, end in places]
        texts.append([pieces.setdefault(one, len(pieces)) for one in found])
        lower = [one.group().lower() for one in WORD.finditer(en)]
        englishes.append([words.setdefault(one, len(words)) for one in lower])
    lexicon = align(Ragged.of(texts), Ragged.of(englishes)).lexicon()
    piece_of, word_of = list(pieces), list(words)
    table: dict[str, dict[str, float]] = {}
    content = np.array([word not in FUNCTION_WORDS for word in word_of], bool)
    good = (lexicon.score >= SMALLEST_SCORE) & content[lexicon.target]
    for source, target, score in zip(
        lexicon.source[good].tolist(),
        lexicon.target[good].tolist(),
        lexicon.score[good].tolist(),
        strict=True,
    ):
        own = table.setdefault(piece_of[source], {})
        if len(own) < MOST_TRANSLATIONS:
            own[word_of[target]] = score
    return Translations(table, tokenizer)


def sample(pairs: Path) -> Iterator[Text]:
    """About `MOST_PAIRS` training pairs of a folder at most, evenly spread. Raises DataError."""
    for text, en in read_sample(pairs, MOST_PAIRS):
        yield from zip(text, en, strict=True)


def _places(tokenizer: Any, pairs: Sequence[Text]) -> list[list[tuple[int, int]]]:
    """Where the pieces of each text begin and end, without spaces, signs and particles."""
    texts = [text for text, _ in pairs]
    if not texts:  # the tokenizer refuses none
        return []
    found = tokenizer(
        texts, add_special_tokens=False, return_offsets_mapping=True, verbose=False
    ).offset_mapping
    return [
        [
            (start, end)
            for (start, end), (following, _) in zip(offsets, [*offsets[1:], (-1, -1)], strict=True)
            if start != following  # the space that begins a text covers its first letter too
            and not FUNCTION.fullmatch(text[start:end])
            and not text[start:end].isspace()
        ]
        for text, offsets in zip(texts, found, strict=True)
    ]
