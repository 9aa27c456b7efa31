"""Emojiworld's vocabulary: what its things are called in English, Japanese and Korean, and how
often each is spoken of.

In:  `data/concepts.tsv`, which `corpora/miniature/make_emoji.py` made; one concept a line.
Out: `Concept`s in the order of the file, which is the order of their frequency in pairs.
"""

import functools
import math
from dataclasses import dataclass
from pathlib import Path

DATA = Path(__file__).resolve().parent / "data"
COLUMNS = ("emoji", "group", "counter", "plural", "en", "ja", "ko")
# shown: in pairs and pictures. unpaired: the teacher paints them and their Japanese names are in no
# pair. pictures: Japanese things whose English names no teacher ever saw, to be learnt from
# pictures.
GROUPS = ("shown", "unpaired", "pictures")


@dataclass(frozen=True)
class Concept:
    """One kind of thing. `number`: its row in `data/concepts.tsv` and its place in the sheets of
    pictures.

    `en` has each name with its article ("a cat", "an apple", "grapes"), `plural` the first of them
    in the plural, or nothing where counting it reads badly. The first name of a language is the
    usual one.
    """

    number: int
    emoji: str
    group: str
    counter: str
    plural: str
    en: tuple[str, ...]
    ja: tuple[str, ...]
    ko: str

    def names(self, language: str) -> tuple[str, ...]:
        """In the student's language, by its code."""
        return (self.ko,) if language == "ko" else self.ja


@functools.cache
def everything() -> tuple[Concept, ...]:
    """All concepts: first those of scenes, most frequent first, then the group `pictures`."""
    header, *lines = (DATA / "concepts.tsv").read_text(encoding="utf-8").splitlines()
    assert tuple(header.split("\t")) == COLUMNS, header
    found = []
    for number, line in enumerate(lines):
        emoji, group, counter, plural, en, ja, ko = line.split("\t")
        assert group in GROUPS, line
        names = tuple(en.split(";")), tuple(ja.split(";"))
        found.append(Concept(number, emoji, group, counter, plural, *names, ko))
    return tuple(found)


@functools.cache
def vocabulary(size: int) -> tuple[Concept, ...]:
    """The `size` most frequent concepts, the group `unpaired` among them.

    Raises ValueError when there are fewer.
    """
    known = [one for one in everything() if one.group != "pictures"]
    if not 2 <= size <= len(known):
        raise ValueError(f"concepts: {size} is not in 2 to {len(known)}, all that there are")
    return tuple(known[:size])


@functools.cache
def of_pictures() -> tuple[Concept, ...]:
    """The concepts that only pictures can teach."""
    return tuple(one for one in everything() if one.group == "pictures")


# Zipf's law as Mandelbrot wrote it: a frequency of (rank + b) ** -s. With b a tenth of the
# vocabulary, the most frequent concept is RATIO times as frequent as the rarest.
RATIO = 1000.0


@functools.cache
def frequencies(size: int) -> tuple[float, ...]:
    """Each concept's share of the things that pairs speak of, in the order of `vocabulary`; 0 for
    the group `unpaired`. They sum to 1.
    """
    offset = size / 10
    exponent = math.log(RATIO) / math.log((size + offset) / (1 + offset))
    weights = [
        0.0 if one.group == "unpaired" else (rank + offset) ** -exponent
        for rank, one in enumerate(vocabulary(size), 1)
    ]
    return tuple(weight / sum(weights) for weight in weights)
