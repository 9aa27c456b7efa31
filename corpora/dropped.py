"""Every dropped row with stage and reason, and a few sample texts per reason.

In/out: `<run>/pairs/dropped.parquet`: id, stage and reason of every dropped row, in the order of
        the sources; where they apply, the id of the row kept instead and the score that was too
        low. The same bytes for any number of workers and after an interruption.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from configs.errors import DataError
from configs.files import whole
from configs.records import Record
from corpora.filters.deduplicate import digest
from corpora.pair import REMEDY

FILE = "dropped.parquet"
SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("other_id", pa.string()),
        pa.field("score", pa.float32()),
    ]
)
SAMPLES = 5  # per reason
SAMPLE_CHARACTERS = 160
BATCH_ROWS = 1 << 16
# what follows the source's name in an id: news:000000012, toyworld:train:000012
SPLIT_AND_NUMBER = r"(:train|:held_out)?:[0-9]+$"

# stage -> reason -> digest -> fields of a sample; chosen by digest, so by the texts alone
Samples = dict[str, dict[str, dict[int, list[str]]]]


class Drops:
    """Collects the rows that one part drops."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.stages: list[str] = []
        self.reasons: list[str] = []
        self.scores: list[float | None] = []
        self.samples: Samples = {}

    def add(
        self,
        stage: str,
        reason: str,
        id: str,
        text: str = "",
        en: str = "",
        score: float | None = None,
    ) -> None:
        """An unreadable row has empty texts; its sample is then chosen by its id."""
        self.ids.append(id)
        self.stages.append(stage)
        self.reasons.append(reason)
        self.scores.append(score)
        keep_sample(
            self.samples,
            stage,
            reason,
            digest(text, en) if text or en else digest(id),
            [id, text, en],
        )

    def counts(self, stage: str) -> Counter[str]:
        return Counter(
            reason for one, reason in zip(self.stages, self.reasons, strict=True) if one == stage
        )

    def table(self) -> pa.Table:
        nothing = [None] * len(self.ids)
        return table(self.ids, self.stages, self.reasons, nothing, self.scores)


class DroppedRecord(Record):
    """What one piece of work dropped: row counts and sample texts, by stage and reason."""

    dropped: dict[str, dict[str, int]]
    samples: dict[str, dict[str, dict[str, list[str]]]]


def by_text(samples: Samples) -> dict[str, dict[str, dict[str, list[str]]]]:
    """The samples with string keys, for JSON."""
    return {
        stage: {
            reason: {str(number): fields for number, fields in by_digest.items()}
            for reason, by_digest in reasons.items()
        }
        for stage, reasons in samples.items()
    }


def table(*columns: Any) -> pa.Table:
    """`columns`: an Arrow array or a list for each field of SCHEMA."""
    return pa.table(list(columns), schema=SCHEMA)


def keep_sample(samples: Samples, stage: str, reason: str, number: int, fields: list[str]) -> None:
    """Keeps the SAMPLES lowest numbers of each reason; of equal numbers, the first sample."""
    kept = samples.setdefault(stage, {}).setdefault(reason, {})
    if len(kept) < SAMPLES or number < max(kept):
        kept.setdefault(number, [shortened(one) for one in fields])
        if len(kept) > SAMPLES:
            del kept[max(kept)]


def shortened(text: str) -> str:
    return text if len(text) <= SAMPLE_CHARACTERS else text[: SAMPLE_CHARACTERS - 1] + "…"


def write(path: Path, tables: Iterable[pa.Table]) -> None:
    """Writes the tables as one file. Equal rows give equal bytes, however they were batched."""
    with (
        whole(path) as temporary,
        pq.ParquetWriter(temporary, SCHEMA, compression="zstd") as writer,
    ):
        pending = SCHEMA.empty_table()
        for one in tables:
            pending = pa.concat_tables([pending, one])
            while pending.num_rows >= BATCH_ROWS:
                writer.write_table(pending.slice(0, BATCH_ROWS).combine_chunks())
                pending = pending.slice(BATCH_ROWS)
        writer.write_table(pending.combine_chunks())


def find(path: Path, ids: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The records of those ids that were dropped. Raises DataError for a damaged file."""
    wanted = pa.array(list(ids), pa.string())
    found = [batch.filter(pc.is_in(batch.column("id"), wanted)) for batch in batches(path)]
    return {row["id"]: row for batch in found for row in batch.to_pylist()}


def of_reason(path: Path, reason: str) -> Iterator[str]:
    """Ids of the rows dropped for this reason, in order. Raises DataError for a damaged file."""
    for batch in batches(path):
        yield from batch.filter(pc.equal(batch.column("reason"), reason)).column("id").to_pylist()


def by_source(path: Path) -> dict[str, Counter[tuple[str, str]]]:
    """Per source, how many rows each (stage, reason) dropped.

    Raises DataError for a damaged file.
    """
    result: dict[str, Counter[tuple[str, str]]] = {}
    for batch in batches(path):
        names = pc.replace_substring_regex(batch.column("id"), SPLIT_AND_NUMBER, "")
        table = pa.table(
            {"source": names, "stage": batch.column("stage"), "reason": batch.column("reason")}
        )
        for row in table.group_by(table.column_names).aggregate([([], "count_all")]).to_pylist():
            result.setdefault(row["source"], Counter())[row["stage"], row["reason"]] += row[
                "count_all"
            ]
    return result


def batches(path: Path) -> Iterator[pa.RecordBatch]:
    """The rows, in order. Raises DataError for a damaged file."""
    try:
        with pq.ParquetFile(path) as file:
            yield from file.iter_batches(batch_size=BATCH_ROWS)
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{path}: cannot be read ({' '.join(str(error).split())}); {REMEDY}"
        ) from None
