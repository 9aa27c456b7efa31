"""Finds exact and near duplicates.

In:  the texts of both sides.
Out: 64-bit digests, and for each row the first row with the same digest. Exact: equal comparison
     keys. Near: equal words, ignoring punctuation, spaces, case, width and articles; another word,
     number or ending of an English word makes another pair. A text encoder must tell "a man on a
     bench" from "a woman on a bench", however similar their characters. Memory: about 80 bytes a
     row, for exact and then for near duplicates (41 million rows: 3.4 GB, 20 seconds).
"""

import hashlib
import re

import numpy as np

from configs.schema.corpora import NearDuplicates

SEPARATOR = "\n"  # no key holds a line feed
# an apostrophe inside a word is part of it ("it's"), one at its end is not ("dogs'")
_WORD = re.compile(r"\w+(?:['’]\w+)*")


def digest(*keys: str) -> int:
    """64 bits of BLAKE2b, the same on every machine; two different keys collide with probability
    5e-20.
    """
    return int.from_bytes(
        hashlib.blake2b(SEPARATOR.join(keys).encode(), digest_size=8).digest(), "little"
    )


def first_of_each(digests: np.ndarray) -> np.ndarray:
    """(rows,) int64: index of the first row with the same digest, which may be the row itself."""
    _, first, inverse = np.unique(digests, return_index=True, return_inverse=True)
    result: np.ndarray = first[inverse]
    return result


def words(key: str, settings: NearDuplicates) -> str:
    """The words of a comparison key, in order, without `ignored_words`."""
    found = [word for word in _WORD.findall(key) if word not in settings.ignored_words]
    # a text of nothing but ignored words keeps them
    return " ".join(found) or key


def near_digest(text_key: str, en_key: str, settings: NearDuplicates) -> int:
    """Equal for pairs whose two sides have the same words.

    Japanese has no spaces, so its letters and digits are compared, in order.
    """
    return digest("".join(_WORD.findall(text_key)) or text_key, words(en_key, settings))
