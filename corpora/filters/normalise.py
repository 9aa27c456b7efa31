"""How a text is cleaned before it is filtered, and when two texts count as the same.

Texts are kept as their writers meant them, by the mildest rules that work:
- HTML character references are decoded once: `&amp;` is how a page writes "&";
- NFC, not NFKC, which would turn "10²" into "102" and "1½" into "11⁄2". Full-width forms stay as
  typed: the tokenizer normalises them, in prompts too;
- control characters, byte-order marks and invisible direction marks are removed; joiners stay,
  because emoji contain them;
- every run of white space (line breaks, tabs, U+2028, the ideographic space) becomes one space.

Comparison is coarser: NFKC and case-folded, so "Ａ Dog" is a duplicate of "a dog".
"""

import html
import re
import unicodedata
from functools import lru_cache

_REFERENCE = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
# C0 and C1 controls except white space, soft hyphen, zero-width space, direction marks, word joiner
# and the like, byte-order mark
INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e"
    "\u2060-\u206f\ufeff\ufff9-\ufffb]"
)


def normalise(text: str) -> str:
    """The text as it is stored.

    Idempotent, except that a doubly encoded `&amp;lt;` loses one layer per call.
    """
    if "&" in text:
        text = _REFERENCE.sub(lambda match: html.unescape(match[0]), text)
    if not text.isprintable():  # INVISIBLE characters are not
        text = INVISIBLE.sub("", text)
    return unicodedata.normalize("NFC", " ".join(text.split()))


@lru_cache(maxsize=8192)  # filters and digests need the keys of the same batch
def comparison_key(text: str) -> str:
    """Equal for two texts that count as the same."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
