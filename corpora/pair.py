"""The project's record, a caption in two languages, and the folder of shards that holds them.

In/out: `<run>/pairs/`: `train-00000.parquet`..., `held_out-00000.parquet`... and `manifest.json`,
        which records the SHA-256 and row count of every shard, the settings that made them, and the
        rows each stage dropped, by reason. The folder appears whole or not at all.

    for pair in read_pairs("runs/toyworld/pairs", "held_out", limit=3): print(pair.text, pair.en)
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import AfterValidator, model_validator
from tqdm import tqdm

from configs.errors import DataError
from configs.files import file_sha256, inside, whole
from configs.records import Record
from configs.secrets import masked

# to be increased when pairs made by an older version must not be used by this one
FORMAT: Literal[2] = 2
MANIFEST = "manifest.json"
SAMPLED_AT_ONCE = 4096  # pairs
REMEDY = "move the folder away and run: python -m corpora.prepare RECIPE"

Split = Literal["train", "held_out"]
SPLITS: tuple[Split, ...] = get_args(Split)


class Pair(NamedTuple):
    """One caption in both languages. The probabilities are the language identifier's, 0 to 1."""

    id: str
    text: str
    en: str
    source: str
    licence: str
    text_language_probability: float
    en_language_probability: float


SCHEMA = pa.schema(
    [
        pa.field(name, pa.float32() if kind is float else pa.string(), nullable=False)
        for name, kind in Pair.__annotations__.items()
    ]
)


class Input(Record):
    """A file the pairs were made from."""

    source: str
    path: Annotated[str, AfterValidator(masked)]  # a URL may hold a password or a signature
    bytes: int
    sha256: str


class StageCounts(Record):
    """Row counts of one stage: `rows_in` is the sum of `dropped`, by reason, and `rows_out`."""

    name: str
    rows_in: int
    dropped: dict[str, int]
    rows_out: int

    @model_validator(mode="after")
    def _every_row_is_accounted_for(self) -> "StageCounts":
        if self.rows_in != self.rows_out + sum(self.dropped.values()):
            raise ValueError(
                f"stage {self.name}: {self.rows_in} rows in are not {self.rows_out} rows out + "
                f"{sum(self.dropped.values())} dropped"
            )
        return self


def count_stage(name: str, rows_in: int, dropped: Counter[str]) -> StageCounts:
    """The counts of a stage that dropped these of its rows."""
    return StageCounts(
        name=name,
        rows_in=rows_in,
        dropped=dict(sorted(dropped.items())),
        rows_out=rows_in - dropped.total(),
    )


def count_stages(rows: int, dropped: Iterable[tuple[str, Counter[str]]]) -> list[StageCounts]:
    """The counts of consecutive stages: `rows` enter the first, what each lets through enters the
    next.
    """
    stages: list[StageCounts] = []
    for name, reasons in dropped:
        stages.append(count_stage(name, rows, reasons))
        rows = stages[-1].rows_out
    return stages


def losses(stages: list[StageCounts]) -> str:
    """Rows in and the five most frequent drop reasons, for a message."""
    dropped = sum((Counter(stage.dropped) for stage in stages), Counter[str]())
    return f"{stages[0].rows_in} rows came in, dropped were " + ", ".join(
        f"{count} {reason}" for reason, count in dropped.most_common(5)
    )


class Shard(Record):
    file: str
    rows: int
    bytes: int
    sha256: str


class PairsManifest(Record):
    """`manifest.json`. A manifest whose counts do not add up cannot be made, written or read."""

    format: Literal[2]
    fingerprint: str
    settings: dict[str, Any]
    inputs: list[Input]
    stages: list[StageCounts]
    splits: dict[Split, list[Shard]]

    @model_validator(mode="after")
    def _the_stages_join(self) -> "PairsManifest":
        for before, after in zip(self.stages, self.stages[1:], strict=False):
            if before.rows_out != after.rows_in:
                raise ValueError(
                    f"{before.rows_out} rows left stage {before.name}, {after.rows_in} came into "
                    f"{after.name}"
                )
        written = sum(map(self.rows, SPLITS))
        if not self.stages or self.stages[-1].rows_out != written:
            raise ValueError(
                f"the shards hold {written} rows, not those the last stage let through"
            )
        return self

    def rows(self, split: Split) -> int:
        return sum(shard.rows for shard in self.splits.get(split, []))

    def funnel(self) -> str:
        """Rows in, rows dropped by stage and reason, rows out by split, as a text table."""
        total = self.stages[0].rows_in
        rows = [("rows in", "", total)]
        for one in self.stages:
            # most rows first
            rows += [
                (one.name, reason, -count)
                for reason, count in sorted(one.dropped.items(), key=lambda item: -item[1])
                if count
            ]
        rows += [("rows out", split, self.rows(split)) for split in SPLITS]
        width = max(len(reason) for _, reason, _ in rows)
        return "\n".join(
            f"{name:<12}  {reason:<{width}}  {count:>13,}  {abs(count) / total:>7.2%}"
            for name, reason, count in rows
        )


def read_manifest(folder: str | Path) -> PairsManifest:
    """Reads the manifest and checks that every shard is there in its full length.

    Raises DataError.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(
            f"{folder}: there are no pairs yet; make them with: python -m corpora.prepare RECIPE"
        )
    manifest = PairsManifest.read(folder / MANIFEST, REMEDY)
    for shard in (shard for split in SPLITS for shard in manifest.splits.get(split, [])):
        path = inside(folder, shard.file)
        found = path.stat().st_size if path.is_file() else None
        if found != shard.bytes:
            state = "missing" if found is None else f"{found} bytes long, not {shard.bytes}"
            raise DataError(f"{path}: {state}, though the manifest lists it; {REMEDY}")
    return manifest


def read_batches(
    folder: str | Path, split: Split, columns: list[str] | None = None, batch_rows: int = 8192
) -> Iterator[pa.RecordBatch]:
    """Streams one split as Arrow batches, in shard order. A shard's digest is checked before its
    first row.

    Raises DataError at once for a missing or incomplete folder, and on reaching a corrupt shard.
    """
    assert split in SPLITS, split
    return _read_shards(
        Path(folder), read_manifest(folder).splits.get(split, []), columns, batch_rows
    )


def read_sample(folder: str | Path, most: int) -> Iterator[tuple[list[str], list[str]]]:
    """Texts and English of at most about `most` training pairs, every n-th one, some at a time.
    Shows a bar. Raises DataError as `read_batches` does.
    """
    rows = read_manifest(folder).rows("train")
    step = max(1, -(-rows // most))
    batches = read_batches(folder, "train", ["text", "en"], SAMPLED_AT_ONCE * step)
    with tqdm(total=rows, desc="reading pairs", unit="pair") as progress:
        for batch in batches:
            text, en = (column.to_pylist()[::step] for column in batch.columns)
            yield text, en
            progress.update(batch.num_rows)


def read_pairs(folder: str | Path, split: Split, limit: int | None = None) -> Iterator[Pair]:
    """Streams the first `limit` pairs of one split (None: all).

    Raises DataError as `read_batches` does.
    """
    batches = read_batches(folder, split, columns=list(Pair._fields))
    return islice(
        (
            Pair(*row)
            for batch in batches
            for row in zip(*(column.to_pylist() for column in batch.columns), strict=True)
        ),
        limit,
    )


def _read_shards(
    folder: Path, shards: list[Shard], columns: list[str] | None, batch_rows: int
) -> Iterator[pa.RecordBatch]:
    for shard in shards:
        path = inside(folder, shard.file)
        if file_sha256(path) != shard.sha256:
            raise DataError(
                f"{path}: its SHA-256 digest is not the manifest's, so the file is damaged; "
                f"{REMEDY}"
            )
        with pq.ParquetFile(path) as file:
            yield from file.iter_batches(batch_size=batch_rows, columns=columns)


class ShardWriter:
    """Writes tables of pairs as shards of `shard_rows` rows.

    Equal rows give equal bytes, however they were batched.
    """

    def __init__(
        self, folder: Path, split: Split, shard_rows: int, schema: pa.Schema = SCHEMA
    ) -> None:
        self.folder, self.split, self.shard_rows, self.schema = folder, split, shard_rows, schema
        self.shards: list[Shard] = []
        self._pending = schema.empty_table()

    def write(self, rows: pa.Table) -> None:
        self._pending = pa.concat_tables(
            [self._pending, rows.select(self.schema.names).cast(self.schema)]
        )
        while self._pending.num_rows >= self.shard_rows:
            self._write_shard(self._pending.slice(0, self.shard_rows))
            self._pending = self._pending.slice(self.shard_rows)

    def close(self) -> list[Shard]:
        """Writes what is left and returns every shard."""
        if self._pending.num_rows:
            self._write_shard(self._pending)
            self._pending = self.schema.empty_table()
        return self.shards

    def _write_shard(self, rows: pa.Table) -> None:
        path = self.folder / f"{self.split}-{len(self.shards):05d}.parquet"
        with whole(path) as temporary:
            pq.write_table(rows.combine_chunks(), temporary, compression="zstd")
        self.shards.append(
            Shard(
                file=path.name,
                rows=rows.num_rows,
                bytes=path.stat().st_size,
                sha256=file_sha256(path),
            )
        )


def write_manifest(folder: Path, manifest: PairsManifest) -> None:
    manifest.write(folder / MANIFEST)
