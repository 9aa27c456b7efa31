"""What kind of text a piece stands for, and which English tokens a kind copies.

In and out: strings and token ids; nothing on disk.

| kind | texts | starts from |
|---|---|---|
| `word` | letters of the student's language | what the method finds |
| `fragment` | one letter that is no ideograph: の, ー | what the pairs say, or the mean |
| `digit`, `latin` | 2019, ing, mp3 | CLIP's token of that text, or those CLIP cuts it into |
| `punctuation`, `symbol`, `emoji`, `foreign` | 、 ~ 🙂 Привет | CLIP's token of it, or the mean |
| `control` | line breaks, invisible characters | the mean |

Sentence encoders give all emoji one vector, and every symbol an unrelated word's: none of these
kinds is left to one. The method `nearest`, the reference, knows no kinds.
"""

import unicodedata
from collections.abc import Mapping
from typing import Literal

from configs.languages import KANJI_LETTERS, Language

TextKind = Literal[
    "word",
    "fragment",
    "digit",
    "latin",
    "punctuation",
    "symbol",
    "emoji",
    "foreign",
    "control",
]
# CJK punctuation that NFKC leaves as it is, and its English counterpart
PUNCTUATION = str.maketrans("、。「」『』【】〈〉《》・〜ー", ',.""""[]<><>·~-')
EMOJI_FROM = 0x1F000  # the planes' blocks of pictographs begin here
DINGBATS = range(0x2600, 0x27C0)
JOINERS = "\u200d\ufe0f"


def kind_of(text: str, language: Language) -> TextKind:
    """The kind of a text that is not empty; spaces inside count as nothing."""
    letters = [one for one in unicodedata.normalize("NFKC", text) if not one.isspace()]
    if not letters or not all(one.isprintable() or one in JOINERS for one in letters):
        return "control"
    if language.script.search(text):
        return "fragment" if len(text) == 1 and not _is_ideograph(text) else "word"
    if all(one.isnumeric() for one in letters):
        return "digit"
    if any(_is_emoji(one) for one in letters):
        return "emoji"
    classes = {unicodedata.category(one)[0] for one in letters}
    if classes & {"L", "M"}:
        is_latin = all("LATIN" in unicodedata.name(one, "") for one in letters if one.isalpha())
        return "latin" if is_latin else "foreign"
    return "symbol" if "S" in classes else "punctuation"


def copied(text: str, tokens: Mapping[str, int]) -> int | None:
    """The id of the token with this text, else with its compatible form (ｋ, ①, Ａ) in lower case,
    else of the English punctuation mark; None if there is none.

    `tokens`: id by text. CLIP lower-cases every text, so its capitals were never trained.
    """
    compatible = unicodedata.normalize("NFKC", text).lower()
    for form in (text.lower(), compatible, text.translate(PUNCTUATION)):
        if form in tokens:
            return tokens[form]
    return None


def _is_ideograph(letter: str) -> bool:
    return any(first <= letter <= last for first, last in _IDEOGRAPHS)


def _is_emoji(letter: str) -> bool:
    return unicodedata.category(letter) == "So" and (
        ord(letter) >= EMOJI_FROM or ord(letter) in DINGBATS
    )


def _ranges(character_class: str) -> list[tuple[str, str]]:
    """`a-c` gives [("a", "c")]."""
    return [
        (character_class[i - 1], character_class[i + 1])
        for i, one in enumerate(character_class)
        if one == "-"
    ]


_IDEOGRAPHS = _ranges(KANJI_LETTERS)
