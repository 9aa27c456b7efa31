"""From metadata to clean Japanese captions: the cheap stages, before any picture is opened.

In:  parts of the metadata (corpora/sources/laion.py).
Out: `cleaned/00000.parquet` of SCHEMA for each part, and `00000.json`: counts and samples of the
     rows each stage dropped, by reason.

Later stages identify a caption by its row: its index among the cleaned captions of all parts.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from configs.files import whole
from configs.schema.captions import Captions
from configs.schema.corpora import Corpora
from configs.schema.filters import Filters as Limits
from corpora import dropped
from corpora.filters import deduplicate, language_id, residue, rules
from corpora.filters.normalise import comparison_key
from corpora.sources import laion
from corpora.sources.part import Part

STAGES = ("read", "unsafe", "filter", "language_id")
SCHEMA = pa.schema(
    [
        *(laion.SCHEMA.field(name) for name in ("id", "text", "url", "licence", "similarity")),
        pa.field("text_language_probability", pa.float32(), nullable=False),
        # of the comparison key
        pa.field("text_digest", pa.uint64(), nullable=False),
        # of URL and caption, which a shard of pictures has too
        pa.field("picture_digest", pa.uint64(), nullable=False),
    ]
)
LABELS = ("NSFW", "UNSURE", "UNLIKELY")  # LAION's
# the pair filters that judge one text: they get the caption as both sides
FILTERS = (
    rules.empty,
    rules.too_long,
    rules.too_short,
    rules.damaged,
    rules.placeholder,
    rules.no_own_script,
    rules.markup,
    rules.address,
    rules.file_name,
    rules.unsafe,
)


def drop_reason(text: str, limits: Limits) -> str | None:
    """The name of the first filter that drops the caption, or None."""
    found = (rules.reason(drops, limits) for drops in FILTERS if drops(text, text, limits))
    return next(found, None)


def unsafe_reason(label: str | None, probability: float | None, captions: Captions) -> str | None:
    """Why the rating drops a caption: its label, `unsafe_probability`, `unknown_rating`, or None.

    An unrated picture is kept: LAION's own NSFW column is often null. A label that LAION does not
    have is dropped if UNSURE ones are. An empty `captions.unsafe` drops nothing.
    """
    unsafe = {one.upper() for one in captions.unsafe}
    if not unsafe:
        return None
    if label in unsafe:
        return label
    if probability is not None and probability > captions.max_unsafe_probability:
        return "unsafe_probability"
    return "unknown_rating" if label not in (None, *LABELS) and "UNSURE" in unsafe else None


def picture_digest(url: str, text: str) -> int:
    return deduplicate.digest(url, text)


class Lost:
    """Rows that one piece of work drops: counts by stage and reason, and sample texts."""

    def __init__(self, stages: Iterable[str]) -> None:
        self.counts: dict[str, Counter[str]] = {stage: Counter() for stage in stages}
        self.samples: dropped.Samples = {}

    def add(self, stage: str, reason: str, id: str, text: str, en: str = "") -> None:
        self.counts[stage][reason] += 1
        dropped.keep_sample(
            self.samples, stage, reason, deduplicate.digest(text, en), [id, text, en]
        )

    @property
    def rows(self) -> int:
        return sum(count.total() for count in self.counts.values())

    def write(self, path: Path) -> None:
        counts = {stage: dict(reasons) for stage, reasons in self.counts.items()}
        dropped.DroppedRecord(dropped=counts, samples=dropped.by_text(self.samples)).write(path)


@dataclass
class CleanCaptions:
    """Executor task: cleans part `rank` of the metadata."""

    captions: Captions
    corpora: Corpora
    parts: list[Part]
    folder: Path

    @property
    def rows(self) -> list[int]:
        return [part.rows for part in self.parts]

    def files(self, rank: int) -> list[Path]:
        return [self.folder / f"{rank:05d}.parquet", self.folder / f"{rank:05d}.json"]

    def __call__(self, data: object, rank: int, world_size: int) -> None:
        part = self.parts[rank]
        lost, rows_out = Lost(STAGES), 0
        with (
            whole(self.folder / f"{rank:05d}.parquet") as temporary,
            pq.ParquetWriter(temporary, SCHEMA, compression="lz4") as writer,
        ):
            for batch, unread in laion.captions(self.captions.source, part):
                lost.counts["read"].update(unread)
                table = self._clean(batch, lost)
                rows_out += table.num_rows
                writer.write_table(table)
        assert part.rows == rows_out + lost.rows, (
            "a row was lost between reading and writing a part"
        )
        lost.write(self.folder / f"{rank:05d}.json")

    def _clean(self, batch: pa.RecordBatch, lost: Lost) -> pa.Table:
        kept = []
        for row in batch.to_pylist():
            row["text"] = residue.japanese(row["text"])
            if rating := unsafe_reason(row["nsfw"], row["unsafe_probability"], self.captions):
                lost.add("unsafe", rating, row["id"], row["text"])
            elif reason := drop_reason(row["text"], self.corpora.filters):
                lost.add("filter", reason, row["id"], row["text"])
            else:
                kept.append(row)
        code = self.corpora.text_language.code
        model = language_id.load(self.corpora.language_id.model, code)
        columns: dict[str, list[object]] = {name: [] for name in SCHEMA.names}
        verdicts = language_id.judged(
            model, [row["text"] for row in kept], code, self.corpora.language_id.min_probability
        )
        for row, verdict in zip(kept, verdicts, strict=True):
            if verdict.reason:
                lost.add("language_id", verdict.reason, row["id"], row["text"])
                continue
            row["text_language_probability"] = verdict.probability
            row["text_digest"] = deduplicate.digest(comparison_key(row["text"]))
            row["picture_digest"] = picture_digest(row["url"], row["text"])
            for name, values in columns.items():
                values.append(row[name])
        return pa.table(columns, schema=SCHEMA)


@dataclass(frozen=True)
class Cleaned:
    """The cleaned captions in `folder`, by row."""

    folder: Path

    @cached_property
    def files(self) -> list[Path]:
        return sorted(self.folder.glob("*.parquet"))

    @cached_property
    def starts(self) -> np.ndarray:
        """(parts + 1,): index of each part's first row, then the number of rows."""
        return np.cumsum([0, *(pq.read_metadata(file).num_rows for file in self.files)])

    @property
    def rows(self) -> int:
        return int(self.starts[-1])

    def column(self, name: str) -> np.ndarray:
        """One numeric column of all rows; null becomes NaN."""
        found = [pq.read_table(file, columns=[name])[name].to_numpy() for file in self.files]
        return np.concatenate(found)

    def take(self, rows: np.ndarray, columns: list[str]) -> pa.Table:
        """These rows, which must ascend; reads whole parts."""
        found = []
        for number, file in enumerate(self.files):
            start, stop = np.searchsorted(rows, self.starts[number : number + 2])
            if start < stop:
                found.append(
                    pq.read_table(file, columns=columns).take(
                        rows[start:stop] - self.starts[number]
                    )
                )
        return pa.concat_tables(found)
