"""The half of the pipeline that sees all rows at once: duplicates, the split, the shards.

In:  `parts/00000.parquet`...: cleaned rows with their digests (and MinHash signatures), in the order of the sources.
Out: a place for every row, and the shards of both splits.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from configs.command import DataError
from configs.schema import Corpora
from corpora.deduplicate import SEPARATOR, NearDuplicateIndex, first_of_each
from corpora.normalise import comparison_key
from corpora.pair import SCHEMA, SPLITS, Shard, ShardWriter, Split, Stage, count_stage

DIGESTS = ("pair_digest", "ja_digest", "en_digest")
SIGNATURE = "signature"
BATCH_ROWS = 2048
TRAIN, HELD_OUT, DROPPED = 0, 1, 2
PLACES: dict[Split, int] = {"train": TRAIN, "held_out": HELD_OUT}


def place(corpora: Corpora, part_splits: list[str], parts: list[Path], near: NearDuplicateIndex | None) -> tuple[list[np.ndarray], list[Stage]]:
    """The place of each row of each part (TRAIN, HELD_OUT or DROPPED), and the counts of the two stages that decided it. Raises DataError.

    `part_splits` says of each part whether its rows are all "train", all "held_out", or to be split "by_text".
    """
    tables = [pq.read_table(part, columns=list(DIGESTS)) for part in parts]
    pair_digests, ja_digests, en_digests = (np.concatenate([table[name].to_numpy() for table in tables]) for name in DIGESTS)
    lengths = [table.num_rows for table in tables]
    keep = first_of_each(pair_digests)
    dropped = Counter({"exact_duplicate": int((~keep).sum())})
    if near:
        before = int(keep.sum())
        _drop_near(parts, near, keep)
        dropped["near_duplicate"] = before - int(keep.sum())
    held_out, by_text = (np.repeat([one == kind for one in part_splits], lengths) for kind in ("held_out", "by_text"))
    available = int((by_text & keep).sum())
    if available < corpora.held_out_pairs:
        raise DataError(f"corpora.held_out_pairs asks for {corpora.held_out_pairs} rows of file sources, {available} are left; lower it, or add data")
    places = np.full(len(keep), DROPPED, dtype=np.uint8)
    places[keep] = split(pair_digests[keep], ja_digests[keep], en_digests[keep], held_out[keep], by_text[keep], corpora.held_out_pairs)
    kept = int(keep.sum())
    stages = [
        count_stage("deduplicate", len(keep), dropped),
        count_stage("split", kept, Counter({"text_is_held_out": int((places[keep] == DROPPED).sum())})),
    ]
    return np.split(places, np.cumsum(lengths)[:-1]), stages


def split(
    pair_digests: np.ndarray, ja_digests: np.ndarray, en_digests: np.ndarray, held_out: np.ndarray, by_text: np.ndarray, count: int
) -> np.ndarray:
    """(rows,) of TRAIN, HELD_OUT or DROPPED: no Japanese and no English text is ever in both splits.

    `held_out` rows lie apart already; `count` more are chosen among the `by_text` rows, those of the lowest digest: which rows these are depends
    on the texts alone, neither on their order nor on the machine. A training row that shares a text with a held-out one is dropped.
    """
    chosen = held_out.copy()
    candidates = np.flatnonzero(by_text)
    chosen[candidates[np.argsort(pair_digests[candidates], kind="stable")[:count]]] = True
    shared = np.isin(ja_digests, ja_digests[chosen]) | np.isin(en_digests, en_digests[chosen])
    train = ~chosen & ~shared
    for digests in (pair_digests, ja_digests, en_digests):
        assert not np.isin(digests[train], digests[chosen]).any()
    return np.where(chosen, HELD_OUT, np.where(train, TRAIN, DROPPED)).astype(np.uint8)


def write_shards(parts: list[Path], places: list[np.ndarray], folder: Path, shard_rows: int) -> dict[Split, list[Shard]]:
    """Writes each split's rows, in order, into `folder`."""
    writers = {name: ShardWriter(folder, name, shard_rows) for name in SPLITS}
    with tqdm(total=sum(map(len, places)), desc="write", unit="rows", unit_scale=True) as bar:
        for part, part_places in zip(parts, places, strict=True):
            row = 0
            for batch in _batches(part, SCHEMA.names):
                rows, here = pa.Table.from_batches([batch]), part_places[row : row + batch.num_rows]
                for name, writer in writers.items():
                    writer.write(rows.filter(pa.array(here == PLACES[name])))
                row += batch.num_rows
                bar.update(batch.num_rows)
    return {name: writer.close() for name, writer in writers.items()}


def _drop_near(parts: list[Path], near: NearDuplicateIndex, keep: np.ndarray) -> None:
    """Clears `keep` where a row is nearly an earlier kept one."""
    row = 0
    with tqdm(total=len(keep), desc="near duplicates", unit="rows", unit_scale=True) as bar:
        for part in parts:
            for batch in _batches(part, ["ja", "en", SIGNATURE]):
                for ja, en, signature in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                    if keep[row]:
                        keep[row] = near.is_new(f"{comparison_key(ja)}{SEPARATOR}{comparison_key(en)}", signature)
                    row += 1
                bar.update(batch.num_rows)


def _batches(part: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(part) as file:
        yield from file.iter_batches(batch_size=BATCH_ROWS, columns=columns)
