"""The k rows of the highest scores, exactly, out of more rows than anyone would sort.

In:  scores and row ids, part by part, in any order. A row's id is its number, below 2^32; no two
     rows share one.
Out: the k best rows, best first; of equal scores the lower id. The result depends on the rows
     alone: not on their order, the parts or the workers. The best of parts that workers chose for
     themselves are the best of all: feed their results as parts.

A score and its id become one 64-bit key that sorts as the pair does, so ties need no code of their
own. A buffer of twice k keys is partitioned whenever it is full, which costs O(1) a row, and what
cannot be among the k any more is not let in. Memory: 16 bytes for each of the k rows and some MB
more, however many rows come in, and at the end 24 for each, to turn keys into scores and ids.
"""

from collections.abc import Iterable

import numpy as np

from configs.errors import DataError

CHUNK = 1 << 20  # rows looked at in one go, and the least room beside the k
SIGN = np.uint32(1 << 31)
IDS = 1 << 32


def top_k(parts: Iterable[tuple[np.ndarray, np.ndarray]], k: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores (K,) float32 and ids (K,) uint32 of the best `k` rows, best first; K is k, or the
    number of rows where there are fewer.

    `parts` gives scores (N,) float32 and ids (N,) of integers. Raises DataError for a score that is
    no number and for an id that has no 32 bits.
    """
    assert k >= 0
    buffer = np.empty(
        k + max(k, CHUNK), dtype=np.uint64
    )  # the system gives the memory where it is first written
    filled, lowest = 0, np.uint64(0)
    for scores, ids in parts:
        assert scores.dtype == np.float32 and scores.shape == ids.shape and scores.ndim == 1, (
            scores.dtype,
            scores.shape,
            ids.shape,
        )
        for start in range(0, len(scores), CHUNK):
            keys = _keys(scores[start : start + CHUNK], ids[start : start + CHUNK])
            keys = keys[keys >= lowest] if k else keys[:0]
            if filled + len(keys) > len(buffer):
                filled = _keep(buffer[:filled], k)
                lowest = buffer[:filled].min()
            buffer[filled : filled + len(keys)] = keys
            filled += len(keys)
    best = buffer[: _keep(buffer[:filled], k)]
    best.sort()
    return _rows(best[::-1])


def _keep(keys: np.ndarray, k: int) -> int:
    """Moves the k highest keys to the front, in no order; gives their number."""
    if len(keys) <= k:
        return len(keys)
    keys.partition(len(keys) - k)
    keys[:k] = keys[len(keys) - k :]
    return k


def _keys(scores: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """(N,) uint64: the score's bits, turned so that they sort as the numbers do, above the id's,
    turned so that the lower sorts higher.
    """
    if np.isnan(scores).any():
        raise DataError(
            f"the score of row {ids[np.isnan(scores)][0]} is not a number; score the rows again"
        )
    if len(ids) and not (ids.min() >= 0 and ids.max() < IDS):
        raise DataError(
            f"row ids from {ids.min()} to {ids.max()} do not fit into 32 bits; number the rows "
            "from 0"
        )
    bits = (scores + np.float32(0)).view(np.uint32)  # -0 + 0 is 0: the two zeros are a tie
    ordered = np.where(bits & SIGN, ~bits, bits | SIGN)
    return (ordered.astype(np.uint64) << np.uint64(32)) | np.uint64(IDS - 1) - ids.astype(np.uint64)


def _rows(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    ordered = (keys >> np.uint64(32)).astype(np.uint32)
    scores = np.where(ordered & SIGN, ordered ^ SIGN, ~ordered).view(np.float32)
    return scores, ~keys.astype(np.uint32)  # the low 32 bits
