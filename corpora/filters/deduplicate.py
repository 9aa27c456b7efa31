"""Which pairs say again what an earlier pair says.

In:  the texts of both sides.
Out: 64-bit digests, and which rows share one with an earlier row. Exact: equal comparison keys.
     Near: equal words, which are compared as what they are: punctuation, spaces, case, width and
     articles are no difference; another word, number or ending of an English word is. "A man on a
     bench" and "a woman on a bench" are what a text encoder must tell apart, however alike their
     characters.
Memory: about 80 bytes a row, for the exact ones and then for the near ones (41 million rows: 3.4
GB, 20 seconds).
"""

import hashlib
import re

import numpy as np

from configs.schema.corpora import NearDuplicates

SEPARATOR = "\n"  # no key holds a line feed
# apostrophes are part of an English word: "it's" is "it's", "dogs'" is another form of "dogs"
_WORD = re.compile(r"\w+(?:['’]\w+)*")


def digest(*keys: str) -> int:
    """64 bits of BLAKE2b.

    Equal keys have equal digests on every machine; different ones share one with probability 5e-20.
    """
    return int.from_bytes(
        hashlib.blake2b(SEPARATOR.join(keys).encode(), digest_size=8).digest(), "little"
    )


def first_of_each(digests: np.ndarray) -> np.ndarray:
    """(rows,) of int64: of every row, the number of the first row with the same digest, which may
    be itself.
    """
    _, first, inverse = np.unique(digests, return_index=True, return_inverse=True)
    result: np.ndarray = first[inverse]
    return result


def words(key: str, settings: NearDuplicates) -> str:
    """The words of a comparison key, in order, without those that make no difference."""
    found = [word for word in _WORD.findall(key) if word not in settings.ignored_words]
    # of a text that holds nothing else, they are what it says
    return " ".join(found) or key


def near_digest(text_key: str, en_key: str, settings: NearDuplicates) -> int:
    """Equal for pairs whose two sides have the same words.

    Japanese has no spaces: its letters and digits are compared, in order.
    """
    return digest("".join(_WORD.findall(text_key)) or text_key, words(en_key, settings))
