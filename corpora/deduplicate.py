"""Which pairs say again what an earlier pair says.

In:  the comparison keys of both sides. Exact: equal 64-bit digests. Near: MinHash LSH (datasketch) proposes earlier pairs, and the Jaccard similarity
     of the character n-grams, computed exactly, decides: chance can let a near duplicate through, it can never drop a pair that is none.
Out: which rows to drop. The first of equal rows is kept.
Memory: exact duplicates need about 70 bytes a row, near duplicates about 2 kB a kept row; leave `near_duplicates` out (null) where that is too much.
"""

import hashlib

import numpy as np
from datasketch import MinHash, MinHashLSH

from configs.errors import RecipeError
from configs.schema import NearDuplicates

# (false positives, false negatives): a false positive only costs one exact comparison, a false negative stays in the data
WEIGHTS = (0.1, 0.9)
MAX_LSH_THRESHOLD = 0.95  # above it datasketch makes one band, which it then refuses; it only proposes, so lower is safe
SEPARATOR = "\n"  # no key holds a line feed


def digest(*keys: str) -> int:
    """64 bits of BLAKE2b. Equal keys have equal digests on every machine; different ones share one with probability 5e-20."""
    return int.from_bytes(hashlib.blake2b(SEPARATOR.join(keys).encode(), digest_size=8).digest(), "little")


def first_of_each(digests: np.ndarray) -> np.ndarray:
    """(rows,) of int64: of every row, the number of the first row with the same digest, which may be itself."""
    _, first, inverse = np.unique(digests, return_index=True, return_inverse=True)
    result: np.ndarray = first[inverse]
    return result


def shingles(text: str, ngram: int) -> set[str]:
    """The character n-grams of `text`; a text shorter than one n-gram is its only one."""
    return {text[start : start + ngram] for start in range(max(1, len(text) - ngram + 1))}


def jaccard(one: set[str], other: set[str]) -> float:
    shared = len(one & other)
    return shared / (len(one) + len(other) - shared)


def signatures(texts: list[str], settings: NearDuplicates) -> list[bytes]:
    """The MinHash of each text's n-grams, `settings.permutations` values each, as bytes."""
    sketch = MinHash(num_perm=settings.permutations, hashfunc=int)  # cleared and filled again: making one costs as much as filling it
    result = []
    for text in texts:
        sketch.clear()
        sketch.update_batch(_shingle_hashes(text, settings.ngram))
        result.append(sketch.hashvalues.tobytes())
    return result


def _shingle_hashes(text: str, ngram: int) -> list[int]:
    """A 32-bit hash of every n-gram at once: a polynomial of its code points, modulo 2^32. datasketch mixes the bits further."""
    points = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
    count = max(1, len(points) - ngram + 1)
    total = np.zeros(count, dtype=np.uint32)
    for offset in range(min(ngram, len(points))):
        total = total * np.uint32(0x01000193) + points[offset : offset + count]  # the FNV prime
    result: list[int] = total.tolist()
    return result


class NearDuplicateIndex:
    """The pairs kept so far. Raises RecipeError for settings that LSH cannot work with."""

    def __init__(self, settings: NearDuplicates) -> None:
        self._settings = settings
        try:
            self._lsh = MinHashLSH(threshold=min(settings.threshold, MAX_LSH_THRESHOLD), num_perm=settings.permutations, weights=WEIGHTS)
        except ValueError as error:
            raise RecipeError(f"corpora.near_duplicates: {error}, with {settings.permutations} permutations; take more, 64 for example") from None
        self._sketch = MinHash(num_perm=settings.permutations)  # one for all: the index copies what it needs of it
        self._texts: list[str] = []

    def earlier(self, text: str, signature: bytes) -> int | None:
        """The number of a remembered text at least `threshold` like this one; or None, and then this text is the next to be remembered."""
        self._sketch.hashvalues = np.frombuffer(signature, dtype=self._sketch.hashvalues.dtype)
        candidates = self._lsh.query(self._sketch)
        if candidates:
            own = shingles(text, self._settings.ngram)
            for number in sorted(candidates):
                if jaccard(own, shingles(self._texts[number], self._settings.ngram)) >= self._settings.threshold:
                    return int(number)
        self._lsh.insert(len(self._texts), self._sketch, check_duplication=False)
        self._texts.append(text)
        return None
