"""Chooses the captions to translate: of equal ones the one that fits its picture best, of these the
best `keep`.

In:  the cleaned captions; the scores, or the captions' own `similarity`.
Out: row indices in ascending order, and the rows that each stage dropped.
"""

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from corpora.captions.clean import Cleaned
from corpora.pair import StageCounts, count_stages

NOT_IN_ANY_SHARD = "no_picture"

Rows = dict[str, np.ndarray]  # drop reason -> (N,) row indices


def similarities(cleaned: Cleaned, scored: Path) -> tuple[np.ndarray, Rows]:
    """(rows,) float32, NaN where a caption has none; and the rows without one, by reason.

    If a caption has several pictures, the first shard's counts.
    """
    values = np.full(cleaned.rows, np.nan, dtype=np.float32)
    reasons, code = [NOT_IN_ANY_SHARD], np.zeros(cleaned.rows, dtype=np.uint8)
    # in reverse, so that the first shard overwrites the others
    for file in sorted(scored.glob("*.parquet"), reverse=True):
        table = pq.read_table(file)
        with_score = table.filter(pc.is_valid(table["similarity"]))
        values[with_score["row"].to_numpy()[::-1]] = with_score["similarity"].to_numpy()[::-1]
        without_score = table.filter(pc.is_null(table["similarity"]))
        for row, reason in zip(
            without_score["row"].to_pylist()[::-1],
            without_score["reason"].to_pylist()[::-1],
            strict=True,
        ):
            if reason not in reasons:
                reasons.append(reason)
            code[row] = reasons.index(reason)
    missing = np.isnan(values)
    found = {
        reason: np.flatnonzero(missing & (code == number)) for number, reason in enumerate(reasons)
    }
    return values, {reason: rows for reason, rows in found.items() if len(rows)}


def column(cleaned: Cleaned) -> tuple[np.ndarray, Rows]:
    """The same from the metadata's own similarities."""
    values = cleaned.column("similarity").astype(np.float32)
    return values, {"no_similarity": np.flatnonzero(np.isnan(values))}


def choose(
    values: np.ndarray, missing: Rows, digests: np.ndarray, keep: int | None
) -> tuple[np.ndarray, dict[str, Rows]]:
    """Kept rows (K,) int64, ascending, and the rows that each stage drops. Ties go to the earlier
    row.
    """
    rows = np.flatnonzero(~np.isnan(values))
    distinct = rows[best_of_equal(digests[rows], values[rows])]
    kept = np.sort(distinct[np.argsort(-values[distinct], kind="stable")[:keep]])
    equal, others = (
        np.setdiff1d(some, left, assume_unique=True)
        for some, left in ((rows, distinct), (distinct, kept))
    )
    return kept, {
        "picture": missing,
        "deduplicate": {"equal_caption": equal},
        "rank": {"not_among_the_best": others},
    }


def count(rows: int, lost: dict[str, Rows]) -> list[StageCounts]:
    """Row counts of the stages of `choose`."""
    return count_stages(
        rows,
        (
            (name, Counter({reason: len(found) for reason, found in some.items()}))
            for name, some in lost.items()
        ),
    )


def best_of_equal(digests: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Positions, ascending, of the highest value of each digest; ties go to the first."""
    order = np.lexsort((-values, digests))  # stable
    is_first = np.ones(len(order), dtype=bool)
    is_first[1:] = digests[order][1:] != digests[order][:-1]
    return np.sort(order[is_first])
