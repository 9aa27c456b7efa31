"""How many words start from a right translation: a list of words with accepted translations.

In:  `gold_LANGUAGE.tsv` beside this file: kind of word, the word in the student's language, the
     accepted English words, divided by spaces. Made by hand, before any method was measured.
Out: `Judgement`; nothing on disk.

Only words that are a piece of the vocabulary count. Verbs and adjectives are there in their
dictionary form and by their stems, because vocabularies cut them differently.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from configs.errors import DataError
from vocab_init.methods import Start


class GoldWord(NamedTuple):
    kind: str
    text: str
    accepted: frozenset[str]


@dataclass
class Judgement:
    """`kinds`: by kind of word, how many are right and how many there are. `wrong`: by text of a
    wrong one, the English text it starts from, empty for the mean.
    """

    kinds: dict[str, list[int]] = field(default_factory=dict)
    wrong: dict[str, str] = field(default_factory=dict)

    @property
    def right(self) -> int:
        return sum(right for right, _ in self.kinds.values())

    @property
    def words(self) -> int:
        return sum(count for _, count in self.kinds.values())


def read(language: str) -> list[GoldWord]:
    """The list of a language by its code; empty for one that has none. Raises DataError."""
    path = Path(__file__).with_name(f"gold_{language}.tsv")
    return parsed(path) if path.is_file() else []


def parsed(path: Path) -> list[GoldWord]:
    """Raises DataError for a line that is not three filled columns, or repeats a word."""
    found: dict[str, GoldWord] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n")[1:-1], start=2):
        cells = line.split("\t")
        words = [word for cell in cells[2:] for word in cell.split(" ")]
        if len(cells) != 3 or not all([*cells[:2], *words]) or cells[1] in found:
            raise DataError(
                f"{path}: line {number}, {line[:80]!r}, is not a kind, a word that no other line "
                "has, and English words divided by single spaces, with tabs between; correct it"
            )
        found[cells[1]] = GoldWord(cells[0], cells[1], frozenset(words))
    return list(found.values())


def judge(
    words: Iterable[GoldWord], starts: Mapping[str, Start], token_texts: Mapping[int, str]
) -> Judgement:
    """`starts`: by text of piece. `token_texts`: by token id."""
    found = Judgement()
    for word in words:
        if word.text in starts:
            text = english(starts[word.text], token_texts)
            counts = found.kinds.setdefault(word.kind, [0, 0])
            counts[0] += text in word.accepted
            counts[1] += 1
            if text not in word.accepted:
                found.wrong[word.text] = text
    return found


def english(start: Start, token_texts: Mapping[int, str]) -> str:
    """What a start reads as: its tokens in a row where it stands for one word of several, else the
    token of the highest weight; empty for the mean.
    """
    if not start.ids:
        return ""
    together = start.rule in ("counted", "composed") and start.weights[0] < 1
    return "".join(token_texts[i] for i in (start.ids if together else start.ids[:1]))
