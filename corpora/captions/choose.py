"""Which captions are worth a translation: of equal ones the one that fits its picture best, of these the best `keep`.

In:  the cleaned captions; what the scoring left, or their own `similarity`.
Out: rows in ascending order, their similarities, and the counts of the stages that chose them.
"""

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from corpora.captions.clean import Cleaned
from corpora.captions.top_k import top_k
from corpora.pair import Stage, count_stage

NOT_IN_ANY_SHARD = "no_picture"


def similarities(cleaned: Cleaned, scored: Path) -> tuple[np.ndarray, Counter[str]]:
    """(rows,) float32, NaN where a caption has none, and why. Of several pictures of one caption the first shard's counts."""
    values = np.full(cleaned.rows, np.nan, dtype=np.float32)
    reasons, code = [NOT_IN_ANY_SHARD], np.zeros(cleaned.rows, dtype=np.uint8)
    for file in sorted(scored.glob("*.parquet"), reverse=True):  # so that what is written last is the first's
        table = pq.read_table(file)
        given = table.filter(pc.is_valid(table["similarity"]))
        values[given["row"].to_numpy()[::-1]] = given["similarity"].to_numpy()[::-1]
        without = table.filter(pc.is_null(table["similarity"]))
        for row, reason in zip(without["row"].to_pylist()[::-1], without["reason"].to_pylist()[::-1], strict=True):
            if reason not in reasons:
                reasons.append(reason)
            code[row] = reasons.index(reason)
    missing = np.isnan(values)
    return values, Counter({reasons[number]: int(count) for number, count in enumerate(np.bincount(code[missing], minlength=1)) if count})


def choose(values: np.ndarray, missing: Counter[str], digests: np.ndarray, keep: int | None) -> tuple[np.ndarray, np.ndarray, list[Stage]]:
    """Rows (K,) int64, ascending, and their similarities (K,) float32: a function of the rows alone, ties go to the earlier row."""
    rows = np.flatnonzero(~np.isnan(values))
    first = best_of_equal(digests[rows], values[rows])
    distinct = rows[first]
    stages = [
        count_stage("picture", len(values), missing),
        count_stage("deduplicate", len(rows), Counter({"equal_caption": len(rows) - len(distinct)})),
    ]
    _, chosen = top_k([(values[distinct], distinct)], len(distinct) if keep is None else keep)
    stages.append(count_stage("rank", len(distinct), Counter({"not_among_the_best": len(distinct) - len(chosen)})))
    kept = np.sort(chosen.astype(np.int64))
    return kept, values[kept], stages


def best_of_equal(digests: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Positions, ascending, of the highest value of each digest; of equal values the first."""
    order = np.lexsort((-values, digests))  # stable
    is_first = np.ones(len(order), dtype=bool)
    is_first[1:] = digests[order][1:] != digests[order][:-1]
    return np.sort(order[is_first])
