"""Second half of the pipeline, over all rows at once: deduplication, the split, the shards.

In:  `parts/00000.parquet`...: cleaned rows with their digests, in the order of the sources.
Out: the split or drop reason of every row, the shards of both splits, the rows of
     `dropped.parquet`.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from configs.errors import DataError
from configs.schema.corpora import Corpora
from corpora import dropped
from corpora.filters.deduplicate import first_of_each
from corpora.pair import SCHEMA, SPLITS, Shard, ShardWriter, Split, StageCounts, count_stage

DIGESTS = ("pair_digest", "text_digest", "en_digest")
NEAR_DIGEST = "near_digest"
BATCH_ROWS = 2048
TRAIN, HELD_OUT, DROPPED, EXACT_DUPLICATE, NEAR_DUPLICATE, LOW_MARGIN, LOW_ALIGNMENT = range(7)
PLACES: dict[Split, int] = {"train": TRAIN, "held_out": HELD_OUT}
# stage and reason of a dropped row
REASONS = {
    EXACT_DUPLICATE: ("deduplicate", "exact_duplicate"),
    NEAR_DUPLICATE: ("deduplicate", "near_duplicate"),
    LOW_MARGIN: ("semantic", "low_margin"),
    LOW_ALIGNMENT: ("semantic", "low_alignment"),
    DROPPED: ("split", "text_is_held_out"),
}


@dataclass
class Fates:
    """Per row of all parts, in order: `places` = its split or drop reason, TRAIN ... LOW_ALIGNMENT;
    `others` = index of the row kept instead of a duplicate.
    """

    places: np.ndarray
    others: np.ndarray  # -1: none
    scores: np.ndarray  # of corpora/filters/semantic.py; NaN: not measured
    digests: np.ndarray  # of both texts together
    starts: np.ndarray  # (parts + 1,): index of each part's first row, then the number of rows

    @property
    def is_left(self) -> np.ndarray:
        """(rows,) bool: the rows that no stage has dropped yet."""
        result: np.ndarray = self.places == DROPPED
        return result


def without_duplicates(corpora: Corpora, parts: list[Path]) -> tuple[Fates, StageCounts]:
    """Marks and counts exact and near duplicates of earlier rows.

    All other rows stay DROPPED until `place_rest`.
    """
    pair_digests = _digests(parts, "pair_digest")
    rows = np.arange(len(pair_digests))
    places, others = np.full(len(rows), DROPPED, dtype=np.uint8), first_of_each(pair_digests)
    places[others != rows] = EXACT_DUPLICATE
    if corpora.near_duplicates:
        # The first row of a near digest is no exact duplicate: its original would come before it.
        first = first_of_each(_digests(parts, NEAR_DIGEST))
        is_near = (first != rows) & (places != EXACT_DUPLICATE)
        places[is_near], others[is_near] = NEAR_DUPLICATE, first[is_near]
    others[others == rows] = -1
    starts = np.cumsum([0, *(pq.read_metadata(part).num_rows for part in parts)])
    codes = (EXACT_DUPLICATE, *([NEAR_DUPLICATE] if corpora.near_duplicates else []))
    counts = Counter({REASONS[code][1]: int((places == code).sum()) for code in codes})
    scores = np.full(len(rows), np.nan, dtype=np.float32)
    return Fates(places, others, scores, pair_digests, starts), count_stage(
        "deduplicate", len(rows), counts
    )


def without_low_scores(fates: Fates, scores: np.ndarray, least: float, place: int) -> StageCounts:
    """Marks as `place`, and counts, the rows whose score is below `least`; NaN (not measured)
    passes.
    """
    rows_in, is_low = int(fates.is_left.sum()), scores < least
    assert not (is_low & ~fates.is_left).any()
    fates.places[is_low], fates.scores[:] = place, scores
    return count_stage("semantic", rows_in, Counter({REASONS[place][1]: int(is_low.sum())}))


def place_rest(
    corpora: Corpora, part_splits: list[str], parts: list[Path], fates: Fates
) -> StageCounts:
    """Assigns the remaining rows to the splits; counts those that must be dropped.

    `part_splits`, per part: its rows are all "train", all "held_out", or are split "by_text".
    Raises DataError if too few rows are left to hold out.
    """
    text_digests, en_digests = _digests(parts, "text_digest"), _digests(parts, "en_digest")
    places, keep = fates.places, fates.is_left
    lengths = np.diff(fates.starts)
    held_out, by_text = (
        np.repeat([part_split == kind for part_split in part_splits], lengths)
        for kind in ("held_out", "by_text")
    )
    available = int((by_text & keep).sum())
    if available < corpora.held_out_pairs:
        raise DataError(
            f"corpora.held_out_pairs asks for {corpora.held_out_pairs} rows of file sources, "
            f"{available} are left; lower it, or add data"
        )
    places[keep] = split(
        fates.digests[keep],
        text_digests[keep],
        en_digests[keep],
        held_out[keep],
        by_text[keep],
        corpora.held_out_pairs,
    )
    for digests in (en_digests, text_digests):
        _find_equal(
            digests,
            np.flatnonzero(places == DROPPED),
            np.flatnonzero(places == HELD_OUT),
            fates.others,
        )
    return count_stage(
        "split", int(keep.sum()), Counter(text_is_held_out=int((places == DROPPED).sum()))
    )


def _digests(parts: list[Path], name: str) -> np.ndarray:
    """(rows,) of uint64: one column of all parts."""
    return np.concatenate(
        [pq.read_table(part, columns=[name]).column(name).to_numpy() for part in parts]
    )


def split(
    pair_digests: np.ndarray,
    text_digests: np.ndarray,
    en_digests: np.ndarray,
    held_out: np.ndarray,
    by_text: np.ndarray,
    count: int,
) -> np.ndarray:
    """(rows,) of TRAIN, HELD_OUT or DROPPED; no text of either language is in both splits.

    `held_out` rows are held out already. `count` more are taken from the `by_text` rows, lowest
    digest first, so the choice depends on the texts alone, not on row order or machine. A training
    row that shares a text with a held-out row is dropped.
    """
    chosen = held_out.copy()
    candidates = np.flatnonzero(by_text)
    chosen[candidates[np.argsort(pair_digests[candidates], kind="stable")[:count]]] = True
    shared = np.isin(text_digests, text_digests[chosen]) | np.isin(en_digests, en_digests[chosen])
    train = ~chosen & ~shared
    for digests in (pair_digests, text_digests, en_digests):
        assert not np.isin(digests[train], digests[chosen]).any()
    return np.where(chosen, HELD_OUT, np.where(train, TRAIN, DROPPED)).astype(np.uint8)


def write_shards(
    parts: list[Path],
    fates: Fates,
    folder: Path,
    shard_rows: int,
    seen: Callable[[pa.Table], None],
) -> dict[Split, list[Shard]]:
    """Writes each split's rows, in order, into `folder`; calls `seen` on every table written."""
    writers = {name: ShardWriter(folder, name, shard_rows) for name in SPLITS}
    with tqdm(total=len(fates.places), desc="write", unit="rows", unit_scale=True) as bar:
        row = 0
        for part in parts:
            for batch in _batches(part, SCHEMA.names):
                rows, places = (
                    pa.Table.from_batches([batch]),
                    fates.places[row : row + batch.num_rows],
                )
                for name, writer in writers.items():
                    own = rows.filter(pa.array(places == PLACES[name]))
                    writer.write(own)
                    seen(own)
                row += batch.num_rows
                bar.update(batch.num_rows)
    return {name: writer.close() for name, writer in writers.items()}


def dropped_rows(parts: list[Path], earlier: list[Path], fates: Fates) -> Iterator[pa.Table]:
    """The rows of `dropped.parquet`: for each part, those that `earlier` stages dropped, then those
    dropped here.
    """
    others = np.unique(fates.others[fates.others >= 0])
    other_ids = pa.chunked_array(
        [table.column("id").combine_chunks() for table in _rows(parts, fates, others, ["id"])],
        pa.string(),
    ).combine_chunks()
    for number, (part, file) in enumerate(zip(parts, earlier, strict=True)):
        yield pq.read_table(file)
        start, stop = fates.starts[number : number + 2]
        rows = start + np.flatnonzero(~np.isin(fates.places[start:stop], list(PLACES.values())))
        if len(rows):
            ids = (
                pq.read_table(part, columns=["id"])
                .column("id")
                .combine_chunks()
                .take(pa.array(rows - start))
            )
            stages, reasons = zip(
                *(REASONS[code] for code in fates.places[rows].tolist()), strict=True
            )
            # a row with a low score has that, any other the id of the row kept instead
            has_other = fates.others[rows] >= 0
            positions = np.searchsorted(others, fates.others[rows])
            kept = other_ids.take(pa.array(positions, pa.int64(), mask=~has_other))
            is_low = np.isin(fates.places[rows], [LOW_MARGIN, LOW_ALIGNMENT])
            scores = pa.array(fates.scores[rows], pa.float32(), mask=~is_low)
            yield dropped.table(ids, stages, reasons, kept, scores)


def lowest(digests: np.ndarray, rows: np.ndarray, count: int) -> np.ndarray:
    """Of `rows`, the first row of each of the `count` lowest digests: a choice that depends on the
    texts alone.
    """
    found, first = np.unique(digests[rows], return_index=True)
    result: np.ndarray = rows[first[:count]]
    assert len(result) == min(count, len(found))
    return result


def rows_in_full(
    parts: list[Path], fates: Fates, numbers: np.ndarray, columns: list[str]
) -> Iterator[tuple[str, ...]]:
    """The columns of the rows `numbers`, which must ascend."""
    for table in _rows(parts, fates, numbers, columns):
        yield from zip(*(column.to_pylist() for column in table.columns), strict=True)


def _rows(
    parts: list[Path], fates: Fates, numbers: np.ndarray, columns: list[str]
) -> Iterator[pa.Table]:
    assert (np.diff(numbers) > 0).all()
    for part, (start, stop) in zip(parts, pairwise(fates.starts.tolist()), strict=True):
        here = numbers[(numbers >= start) & (numbers < stop)] - start
        if len(here):
            yield pq.read_table(part, columns=columns).take(pa.array(here))


def _find_equal(
    digests: np.ndarray, rows: np.ndarray, among: np.ndarray, others: np.ndarray
) -> None:
    """Writes into `others`, for each of `rows`, the first row of `among` with the same digest, if
    any.
    """
    found, first = np.unique(digests[among], return_index=True)
    if len(found):
        positions = np.minimum(np.searchsorted(found, digests[rows]), len(found) - 1)
        equal = found[positions] == digests[rows]
        others[rows[equal]] = among[first[positions[equal]]]


def _batches(part: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(part) as file:
        yield from file.iter_batches(batch_size=BATCH_ROWS, columns=columns)
