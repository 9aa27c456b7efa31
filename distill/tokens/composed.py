"""Prompts as people write them, composed of the training pairs: lists, two languages in one
prompt, clauses in another order.

In:  a block of pairs, and `Translations`.
Out: (what the student reads, what the teacher reads) of some rows of the block. Which rows, and
     what becomes of one, depends on the seed, the row and the block alone.

They are composed when tokens are stored, so a training step costs what it cost before, and stand
behind the pairs, so a share of a batch decides how often they are read and no pair is changed.

| kind | the student reads | the teacher reads |
|---|---|---|
| `words` | the sentence with some of its words in English | the English sentence |
| `clauses` | its two clauses, each in either language, in either order | the English sentence |
| `list` | phrases of several pairs, each in either language | the English ones in that order |
| `joined` | a sentence in either language and such a list, or another sentence, in either order | \
the English of both in that order |
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from distill.tokens.translations import Text, Translations, Unit, phrases

KINDS = ("words", "clauses", "list", "joined")  # as often one as another
MOST_IN_LIST = 7
# A whole pair this short is a phrase itself, such as a title or a tag.
SHORT_EN, SHORT_TEXT = 30, 15
LIST_IN_JOINED = 0.7  # else a second sentence
# How probably a phrase of a list, or a sentence beside one, is in English: drawn for each prompt.
LIST_IN_ENGLISH, SENTENCE_IN_ENGLISH = (0.0, 0.3, 0.7, 1.0), (0.0, 0.3)
SEPARATORS = {"、": 9, ", ": 9, " ": 2}
CLAUSE = re.compile(r"\s*[、，,]\s*")
ENDS = "。．. "  # of a sentence
ENGLISH_CLAUSE = re.compile(r"\s*[,;]\s*")


@dataclass(frozen=True)
class Composer:
    """Composes a `share` of the rows' number of prompts."""

    share: float
    seed: int
    table: Translations

    def __call__(self, pairs: Sequence[Text], first_row: int) -> list[Text]:
        """The composed prompts of a block of pairs, rows `first_row` and on."""
        draws = {i: random.Random(f"{self.seed} {first_row + i}") for i in range(len(pairs))}
        chosen = [i for i, draw in draws.items() if draw.random() < self.share]
        own = [pairs[i] for i in chosen]
        units = self.table.units(own) if own else []
        return [_composed(place, own, units, draws[i]) for place, i in enumerate(chosen)]


def _composed(
    place: int, pairs: Sequence[Text], units: Sequence[list[Unit]], draw: random.Random
) -> Text:
    kind = draw.choice(KINDS)
    text, en = pairs[place]
    if kind == "words":
        return _mixed(text, units[place], draw), en
    if kind == "clauses":
        return _reordered(text, en, units[place], draw), en
    listed = _phrases(pairs, units, draw)
    if kind == "list":
        return _joined(listed, draw)
    other = _joined(listed[:3], draw) if draw.random() < LIST_IN_JOINED else draw.choice(pairs)
    both = [(text, en), other]
    draw.shuffle(both)
    return _joined(both, draw, SENTENCE_IN_ENGLISH)


def _mixed(text: str, units: Sequence[Unit], draw: random.Random) -> str:
    """Some of the words, from one to all, by their English."""
    mixed = draw.sample(units, draw.randint(min(1, len(units)), len(units)))
    parts, end = [], 0
    for unit in sorted(mixed):
        parts += [text[end : unit.start], f" {draw.choice(unit.words)} "]
        end = unit.end
    return " ".join("".join([*parts, text[end:]]).split())


def _reordered(text: str, en: str, units: Sequence[Unit], draw: random.Random) -> str:
    """A sentence of two clauses; any other has some words mixed instead."""
    two = CLAUSE.split(text.rstrip(ENDS))
    if len(two) != 2 or not all(two):
        return _mixed(text, units, draw)
    known = clauses_of(text, en, units) or [(clause, clause) for clause in two]
    clauses = [draw.choice(own) for own in known]
    draw.shuffle(clauses)
    return draw.choice(("、", ", ", " ")).join(clauses)


def clauses_of(text: str, en: str, units: Sequence[Unit]) -> list[Text]:
    """The two clauses of a sentence, each with its English; empty where it has not two in both
    languages, or where it is not clear which is which: the words of one must translate more of an
    English clause than those of the other.
    """
    clauses, english = CLAUSE.split(text.rstrip(ENDS)), ENGLISH_CLAUSE.split(en.rstrip(ENDS))
    if len(clauses) != 2 or len(english) != 2 or not all((*clauses, *english)):
        return []
    order = _which(english, len(clauses[0]), units)
    return [(clause, english[i]) for clause, i in zip(clauses, order, strict=True)] if order else []


def _which(english: list[str], border: int, units: Sequence[Unit]) -> tuple[int, int] | None:
    """Which English clause each of the two clauses is, None where it is not clear."""
    words = [set(clause.lower().split()) for clause in english]
    votes = [
        sum((unit.words[0] in own) * (1 if unit.start < border else -1) for unit in units)
        for own in words
    ]
    if votes[0] == votes[1]:
        return None
    return (0, 1) if votes[0] > votes[1] else (1, 0)


def _phrases(pairs: Sequence[Text], units: Sequence[list[Unit]], draw: random.Random) -> list[Text]:
    """Two or more phrases of random pairs; fewer where few have any."""
    found: list[Text] = []
    most = draw.randint(2, MOST_IN_LIST)
    for place in draw.sample(range(len(pairs)), min(len(pairs), 3 * most)):
        text, en = pairs[place]
        if len(text) <= SHORT_TEXT and len(en) <= SHORT_EN:
            found.append((text, en))
        else:
            own = phrases(pairs[place], units[place])
            own = [one for one in own if " " in one.en] or own
            found += [(one.text, one.en) for one in draw.sample(own, min(len(own), 2))]
        if len(found) >= most:
            break
    return found[:most] or [draw.choice(pairs)]


def _joined(
    parts: Sequence[Text], draw: random.Random, in_english_of: Sequence[float] = LIST_IN_ENGLISH
) -> Text:
    """Each part in English with one of these probabilities, the same for all parts of a prompt."""
    in_english = draw.choice(in_english_of)
    (separator,) = draw.choices(list(SEPARATORS), list(SEPARATORS.values()))
    read = [en if draw.random() < in_english else text for text, en in parts]
    return separator.join(read), ", ".join(en for _, en in parts)
