"""Which pairs are kept. Each filter is a pure function of one pair that says whether to drop it; its name is the reason in the manifest.

In:  two normalised texts and the recipe's `corpora.filters`.
Out: the first reason to drop the pair, or None to keep it.
"""

import re
from collections.abc import Callable

from configs.schema import Filters
from corpora.normalise import comparison_key

# kana, kanji (with extension A, compatibility and the supplementary planes), iteration marks, half-width kana
_JAPANESE = re.compile("[\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff]")
_LATIN = re.compile("[A-Za-z]")
_PLACEHOLDER = re.compile(r"#[A-Z][A-Za-z_]*\d*#|\{\{.*?\}\}|%\([a-z_]+\)s|\$\{\w+\}")
# real tags only: captions and headlines put names between angle brackets too
_TAGS = "a|b|big|blockquote|br|center|code|div|em|font|form|h[1-6]|hr|i|iframe|img|input|li|ol|p|pre|script|small|span|strong|style|t[dhr]|table|u|ul"
_MARKUP = re.compile(rf"</?(?:{_TAGS})\b[^<>]*>|&(?:#\d+|#x[0-9a-f]+|amp|lt|gt|quot|nbsp);|\[/?(?:b|i|u|url|img|quote)\b|\[\[|\]\]", re.IGNORECASE)
_ADDRESS = re.compile(r"https?://|\bwww\.|[\w.+-]+@[\w-]+\.[A-Za-z]{2,}", re.IGNORECASE)
_FILE_NAME = re.compile(r"\w\.(?:jpe?g|png|gif|webp|bmp|tiff?|svg|pdf|mp4)\b", re.IGNORECASE)
_NUMBER = re.compile(r"[0-9]+")
_ENGLISH_NUMBER = re.compile(
    r"[0-9]+|\b(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|[a-z]+teen|(?:twen|thir|for|fif|six|seven|eigh|nine)ty"
    r"|hundreds?|thousands?|millions?|billions?|dozens?|half|quarter|noon|midnight|once|twice|both|pair|couple|twins?|single"
    r"|first|second|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth)\b",
    re.IGNORECASE,
)


def empty(ja: str, en: str, limits: Filters) -> bool:
    return not ja or not en


def damaged(ja: str, en: str, limits: Filters) -> bool:
    """Holds U+FFFD, which an earlier program put where it could not read a character."""
    return "\ufffd" in ja or "\ufffd" in en


def too_short(ja: str, en: str, limits: Filters) -> bool:
    return min(len(ja), len(en)) < limits.min_characters


def too_long(ja: str, en: str, limits: Filters) -> bool:
    return max(len(ja), len(en)) > limits.max_characters


def copy(ja: str, en: str, limits: Filters) -> bool:
    return comparison_key(ja) == comparison_key(en)


def no_japanese_script(ja: str, en: str, limits: Filters) -> bool:
    return not _JAPANESE.search(ja)


def japanese_script_in_english(ja: str, en: str, limits: Filters) -> bool:
    return bool(_JAPANESE.search(en))


def no_latin_script(ja: str, en: str, limits: Filters) -> bool:
    return not _LATIN.search(en)


def placeholder(ja: str, en: str, limits: Filters) -> bool:
    """Holds what a program was to fill in: `#Product1#`, `{{name}}`, `${name}`."""
    return bool(_PLACEHOLDER.search(ja) or _PLACEHOLDER.search(en))


def markup(ja: str, en: str, limits: Filters) -> bool:
    return bool(_MARKUP.search(ja) or _MARKUP.search(en))


def address(ja: str, en: str, limits: Filters) -> bool:
    """Holds a web or mail address: nothing a picture could show."""
    return bool(_ADDRESS.search(ja) or _ADDRESS.search(en))


def file_name(ja: str, en: str, limits: Filters) -> bool:
    """`IMG_1234.jpg`: what alternative texts of the web are full of."""
    return bool(_FILE_NAME.search(ja) or _FILE_NAME.search(en))


def length_ratio(ja: str, en: str, limits: Filters) -> bool:
    """Longer side over shorter, in UTF-8 bytes: a Japanese character says about as much as three English letters and has three bytes."""
    shorter, longer = sorted((len(ja.encode()), len(en.encode())))
    return longer > limits.max_length_ratio * shorter


def unmatched_numbers(ja: str, en: str, limits: Filters) -> bool:
    """The Japanese side holds two or more numbers beyond those of the English one: phrase indices left in the text, or another sentence."""
    extra = len(_NUMBER.findall(ja)) - 2
    return extra >= 0 and len(_ENGLISH_NUMBER.findall(en)) <= extra


Filter = Callable[[str, str, Filters], bool]
# in this order: lengths bound the work of the searches after them
FILTERS: tuple[Filter, ...] = (
    empty,
    too_long,
    too_short,
    damaged,
    copy,
    placeholder,
    no_japanese_script,
    japanese_script_in_english,
    no_latin_script,
    markup,
    address,
    file_name,
    length_ratio,
    unmatched_numbers,
)


def drop_reason(ja: str, en: str, limits: Filters) -> str | None:
    """The name of the first filter that drops the pair, or None."""
    for drops in FILTERS:
        if drops(ja, en, limits):
            return drops.__name__
    return None
