"""Pairs that no picture should be made of: sexual ones, and whatever sexualises minors.

In:  both sides of a pair, and the words of unsafe.yaml.
Out: what makes the pair unsafe, or None. Words for minors alone do not, beside suggestive ones they
     do; the two may stand on different sides.
"""

import re
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from configs.schema import yaml12
from corpora.filters.normalise import comparison_key

WORDS = Path(__file__).with_name("unsafe.yaml")
# without any of these no pair is unsafe
NEEDED = ("sexual", "suggestive", "sexualised_minors")
_HIRAGANA, _KATAKANA = "ぁ-ゖ", "ァ-ヺー"
_WORD = re.compile("[a-z0-9]+")


class UnsafeWords(NamedTuple):
    """A pattern for each key of unsafe.yaml. For a quick look, of those that are NEEDED: what
    English words begin with, and Japanese ones.
    """

    patterns: dict[str, re.Pattern[str]]
    beginnings: frozenset[str]
    japanese: re.Pattern[str]


def reason(text: str, en: str) -> str | None:
    """The words that make the pair unsafe, as they stand in it, or None."""
    patterns, beginnings, japanese = load()
    searched = f"{_searched(text)}\n{_searched(en)}"
    # most pairs have none: this takes an eighth of the time of the patterns
    if beginnings.isdisjoint(_WORD.findall(searched)) and not japanese.search(searched):
        return None
    searched = patterns["harmless"].sub("|", searched)
    for key in ("sexualised_minors", "sexual"):
        if found := patterns[key].search(searched):
            return found[0]
    suggestive, minor = (patterns[key].search(searched) for key in ("suggestive", "minors"))
    return f"{suggestive[0]} beside {minor[0]}" if suggestive and minor else None


@lru_cache(maxsize=1)
def load() -> UnsafeWords:
    listed = yaml12.read(WORDS.read_text(encoding="utf-8"))
    beginnings = [word.split()[0] for key in NEEDED for word in listed[key]["en"]]
    return UnsafeWords(
        {key: _pattern(words["en"], words["ja"]) for key, words in listed.items()},
        frozenset([*beginnings, *(f"{word}s" for word in beginnings)]),
        re.compile("|".join(re.escape(word) for key in NEEDED for word in listed[key]["ja"])),
    )


def _searched(text: str) -> str:
    return comparison_key(text).replace("-", " ").replace("_", " ")


def _pattern(english: list[str], japanese: list[str]) -> re.Pattern[str]:
    whole = "|".join(map(re.escape, english))
    inside = "|".join(map(_bounded, japanese))
    return re.compile(f"(?<![a-z0-9])(?:{whole})s?(?![a-z0-9])|{inside}")


def _bounded(word: str) -> str:
    """A Japanese word that is not part of a longer one in the same kana."""
    kana = next((one for one in (_HIRAGANA, _KATAKANA) if re.match(f"[{one}]", word)), "")
    before = f"(?<![{kana}])" if kana else ""
    after = f"(?![{_KATAKANA}])" if re.search(f"[{_KATAKANA}]$", word) else ""
    return before + re.escape(word) + after
