"""Which pairs are kept. Each filter is a pure function that says whether to drop a pair; its name
is the reason in the manifest.

In:  two normalised texts and the recipe's `corpora.filters`.
Out: the first reason to drop the pair, or None to keep it.
"""

import re
from collections.abc import Callable

from configs.schema.filters import Filters
from corpora.filters import numbers
from corpora.filters import unsafe as unsafe_words
from corpora.filters.normalise import comparison_key

LATIN = re.compile("[A-Za-z]")
# `#Product1#`, `{{name}}`, `%(name)s`, `${name}`; `{0}`, `{#id}`, `{user.name}`; `%s`, `%1$d`; `<%=
# x %>`; RPG Maker's `\N[1]`
PLACEHOLDER = re.compile(
    r"#[A-Z][A-Za-z_]*\d*#|\{\{.*?\}\}|%\([a-z_]+\)s|\$\{\w+\}"
    r"|\{[#$@%]?[A-Za-z0-9_]+(?:[.:|-]\w+)*\}"
    r"|(?<![\d０-９])%(?:\d+\$)?[sdifu@](?![A-Za-z0-9])|<%|%>|\\[nNvVpPsS]\[\d+\]"
)
# `[name]`, searched in the Japanese; `[a.b]`, `[user_name]`, searched in the English
BRACKETED = re.compile(r"\[[A-Za-z][A-Za-z0-9_.:]*\]")
PATH = re.compile(r"\[[A-Za-z]\w*(?:[._:]\w+)+\]|\[[a-z]+_\w+\]|\[[a-z]+\d+\]")
# Tags that corpora/filters/residue.py leaves, because their text means nothing without them. Only
# real tags: captions and headlines put names in angle brackets too.
_TAGS = (
    "a|blockquote|center|code|div|em|form|h[1-6]|hr|iframe|img|input|li|ol|pre|script|seg|strong"
    "|style|t[dhr]|table|ul"
)
MARKUP = re.compile(
    rf"</?(?:{_TAGS})\b[^<>]*>|</?[bipsu]>|&(?:#\d+|#x[0-9a-f]+|amp|lt|gt|quot|nbsp);"
    r"|\[/?(?:url|img|quote|color|size)\b(?:=[^\]]*)?\]|\[\[|\]\]",
    re.IGNORECASE,
)
ADDRESS = re.compile(r"https?://|\bwww\.|[\w.+-]+@[\w-]+\.[A-Za-z]{2,}", re.IGNORECASE)
FILE_NAME = re.compile(r"\w\.(?:jpe?g|png|gif|webp|bmp|tiff?|svg|pdf|mp4)\b", re.IGNORECASE)

# all that PLACEHOLDER, MARKUP, ADDRESS and FILE_NAME match has one of these
_SIGNS = re.compile(r"[#$%&<@\[\]{\\]|://|\.\w|[wW][wW][wW]\.")


def empty(text: str, en: str, limits: Filters) -> bool:
    return not text or not en


def damaged(text: str, en: str, limits: Filters) -> bool:
    """Has U+FFFD, the mark of a character that an earlier program could not read."""
    return "\ufffd" in text or "\ufffd" in en


def too_short(text: str, en: str, limits: Filters) -> bool:
    return min(len(text), len(en)) < limits.min_characters


def too_long(text: str, en: str, limits: Filters) -> bool:
    return max(len(text), len(en)) > limits.max_characters


def copy(text: str, en: str, limits: Filters) -> bool:
    return comparison_key(text) == comparison_key(en)


def no_own_script(text: str, en: str, limits: Filters) -> bool:
    """Has no letter of the student's language. The reason names it: `no_japanese_script`."""
    return not limits.text_language.script.search(text)


def own_script_in_english(text: str, en: str, limits: Filters) -> bool:
    return bool(limits.text_language.script.search(en))


def no_latin_script(text: str, en: str, limits: Filters) -> bool:
    return not LATIN.search(en)


def placeholder(text: str, en: str, limits: Filters) -> bool:
    """Has text for a program to fill in: `#Product1#`, `{{name}}`, `%s`, `[name]`."""
    found = PLACEHOLDER.search(text) or PLACEHOLDER.search(en)
    return bool(found or BRACKETED.search(text) or PATH.search(en))


def markup(text: str, en: str, limits: Filters) -> bool:
    return bool(MARKUP.search(text) or MARKUP.search(en))


def address(text: str, en: str, limits: Filters) -> bool:
    """Has a web or mail address, which no picture shows."""
    return bool(ADDRESS.search(text) or ADDRESS.search(en))


def file_name(text: str, en: str, limits: Filters) -> bool:
    """`IMG_1234.jpg`: frequent in alternative texts of web pages."""
    return bool(FILE_NAME.search(text) or FILE_NAME.search(en))


def length_ratio(text: str, en: str, limits: Filters) -> bool:
    """Longer side over shorter, in UTF-8 bytes: a Japanese character has three bytes and says about
    as much as three English letters.
    """
    shorter, longer = sorted((len(text.encode()), len(en.encode())))
    return longer > limits.max_length_ratio * shorter


def unmatched_numbers(text: str, en: str, limits: Filters) -> bool:
    """Has a number that counts nothing and that the English lacks: a stray index, or another
    sentence. Keeps all pairs of languages without rules for it.
    """
    return numbers.are_unmatched(text, en, limits.text_language.code)


def unsafe(text: str, en: str, limits: Filters) -> bool:
    """Is sexual, or sexualises minors, where the recipe asks: by the words of unsafe.yaml."""
    return limits.unsafe and unsafe_words.reason(text, en) is not None


Filter = Callable[[str, str, Filters], bool]
# in this order: the length limits bound the cost of the searches after them
FILTERS: tuple[Filter, ...] = (
    empty,
    too_long,
    too_short,
    damaged,
    placeholder,
    copy,
    no_own_script,
    own_script_in_english,
    no_latin_script,
    markup,
    address,
    file_name,
    length_ratio,
    unmatched_numbers,
    unsafe,
)


_WITHOUT_SIGNS = tuple(
    drops for drops in FILTERS if drops not in (placeholder, markup, address, file_name)
)


def drop_reason(text: str, en: str, limits: Filters) -> str | None:
    """The name of the first filter that drops the pair, or None."""
    # most texts have no sign: one search saves eight
    for drops in FILTERS if _SIGNS.search(text) or _SIGNS.search(en) else _WITHOUT_SIGNS:
        if drops(text, en, limits):
            return reason(drops, limits)
    return None


def reason(drops: Filter, limits: Filters) -> str:
    """The filter's name in the manifest: `no_own_script` is `no_korean_script` for Korean."""
    return drops.__name__.replace("own", limits.text_language.name.lower())
