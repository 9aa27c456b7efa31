"""Removes residue of the original files from texts that are complete without it.

In:  the two sides of a pair as a source gives them.
Out: both sides normalised (corpora/filters/normalise.py), without tags for bold and italics,
     subtitle codes and line breaks, speakers' names, descriptions of sounds, music notes, and the
     spaces of a morphological analyser. What cannot be removed safely (links, tables, placeholders)
     stays for corpora/filters/rules.py to drop.
"""

import re

from configs.languages import JAPANESE
from configs.schema.filters import Filters
from corpora.filters.normalise import normalise

# All that is removed below has one of these. A single set of characters is fast to search.
_SIGNS = re.compile("[<{\\\\\\[\u2669-\u266c\u27a1(（>＞≫・•\U0001f3b5\U0001f3b6]")
_DASHES = ("- ", "– ", "— ", "－ ", "― ")

_BREAK = re.compile(r"\\[Nnh](?![\[A-Za-z])|\\N(?!\[)|<br\s*/?>|</?p>", re.IGNORECASE)
_FURIGANA = re.compile(r"<r(?P<tag>[tp])>[^<]*</r(?P=tag)>", re.IGNORECASE)
_STYLES = "b|i|u|s|em|strong|big|small|sub|sup|font|span|color|size|c|ruby|rb|q|mark|nobr|wbr|v"
_STYLE = re.compile(
    rf"</?(?:{_STYLES})(?:[\s=.][^<>]*)?/?>|\[/?[bius]\]|\{{\\[^{{}}]*\}}"  # HTML, BBCode, ASS
    r"|\\[cCiI]\[\d+\]|\\[.|!^<>{}]",  # RPG Maker's colours, icons and pauses
    re.IGNORECASE,
)
_NOTES = re.compile("\\s*[~～〜]?\\s*[\u2669-\u266c\U0001f3b5\U0001f3b6]+\ufe0f?\\s*[~～〜]?\\s*")
_ARROW = re.compile("^(?:\u27a1\ufe0f?\\s*)+|(?:\\s*\u27a1\ufe0f?)+$")
# a list item, or another speaker
_BULLET = re.compile(r"^(?:(?:>>+|＞＞+|≫|[・•]+)\s*|[-–—－―] (?=\S))")
_SOUND_JA = re.compile(
    r"[（(\[［][^（）()\[\]［］]{0,14}?(?:音|声|拍手|笑い?|息|咳|歌"
    r"|音楽|BGM|叫び?|鳴き?|沈黙)[)）\]］]"
)
_SOUND_EN = re.compile(
    r"[(\[][a-z ,'-]*?\b(?:laugh\w*|chuckl\w*|giggl\w*|sigh\w*|gasp\w*|applau\w*|cheer\w*|music"
    r"|singing|sobs?|sobbing|cry|crying|cough\w*|groan\w*|scream\w*|shout\w*|whisper\w*|pant\w*"
    r"|grunt\w*|sniff\w*|bell|phone|door|footsteps?|thunder\w*|ring\w*|knock\w*|bark\w*|siren\w*"
    r"|wind|creak\w*|slam\w*|crash\w*|buzz\w*|beep\w*|click\w*|silence|noise|explosion\w*|gunshots?"
    r"|howl\w*|rumbl\w*|clears? throat)\b[a-z ,'-]*[)\]]",
    re.IGNORECASE,
)
# （シロエ）: up to twelve letters, no number, before the text
_SPEAKER_JA = re.compile(r"^[（(](?=[^\d０-９()（）]*[）)])[^\s。、！？()（）]{2,12}[）)]\s*(?=\S)")
_SPEAKER_EN = re.compile(
    r"^[(\[](?:[A-Z][\w.'-]*|of|the|\d)(?: (?:[A-Z][\w.'-]*|of|the|\d+))*[)\]]:?\s*(?=\S)"
)
_SPEAKER_CAPITALS = re.compile(r"^[(\[][A-Z][A-Z .'-]+\d*[)\]]:?\s*(?=\S)")

_OPENING = re.compile(r"[(\[（［【「『《〈]")

# only an analyser puts spaces on both sides of these
_ALONE = re.compile(
    r"(?<= )(?:[はがをにのともでへや、。，．]|から|まで|より"
    r"|です|ます|でし|まし|だ|た|て|い|いる|いた|し"
    r"|ない|さん|な|か|ね|よ|れ|られ|せ|する|う)(?= |$)"
)
_SPACE_INSIDE = re.compile(r"(?<=[^ -~]) (?=[^ -~])|(?<=[^ -~]) (?=[0-9])|(?<=[0-9]) (?=[^ -~])")
_LONGEST_WORD = 4.0  # characters, the longest mean length of an analyser's words


def stored(text: str, en: str, limits: Filters) -> tuple[str, str]:
    """Both sides as they are stored: of texts that have no residue, as they are."""
    return pair(text, en) if limits.removes_residue else (normalise(text), normalise(en))


def pair(text: str, en: str) -> tuple[str, str]:
    """Both sides as they are stored."""
    text, en = normalise(text), normalise(en)
    if _has_signs(text) or _has_signs(en):
        text = _without_codes(text)
        return _japanese(text), _english(_without_codes(en), text)
    return joined(text), en


def _has_signs(text: str) -> bool:
    return _SIGNS.search(text) is not None or text.startswith(_DASHES)


def japanese(text: str) -> str:
    """A Japanese text alone, as it is stored."""
    text = normalise(text)
    return _japanese(_without_codes(text)) if _has_signs(text) else joined(text)


def _japanese(text: str) -> str:
    text = _SPEAKER_JA.sub("", _SOUND_JA.sub(" ", text).strip())
    return joined(" ".join(text.split()))


def _english(text: str, other: str) -> str:
    """`other`: the Japanese, whose start tells a speaker's name from a heading in brackets."""
    text = _SOUND_EN.sub(" ", text).strip()
    if _SPEAKER_JA.match(other):
        text = _SPEAKER_EN.sub("", text)
    elif not _OPENING.match(other):
        text = _SPEAKER_CAPITALS.sub("", text)
    # a Japanese bullet separates words, like a space
    return " ".join(text.replace("・", " ").split())


def _without_codes(text: str) -> str:
    text = _BREAK.sub(" ", _FURIGANA.sub("", text))
    text = _NOTES.sub(" ", _STYLE.sub("", text)).strip()
    return _BULLET.sub("", _ARROW.sub("", text)).strip()


def joined(text: str) -> str:
    """A Japanese text without an analyser's spaces. Other spaces stay: between Latin words, between
    items, after ？ and ！.
    """
    if text.count(" ") < 2 or not _ALONE.search(text):
        return text
    words = [word for word in text.split(" ") if JAPANESE.script.search(word)]
    is_analysed = len(words) > 2 and sum(map(len, words)) <= _LONGEST_WORD * len(words)
    return _SPACE_INSIDE.sub("", text) if is_analysed else text
