"""First half of the pipeline, row by row: read, normalise, filter, identify languages, count
tokens.

In:  the parts of the sources (corpora/sources) and the recipe's `corpora` section.
Out: for part 12, `parts/00012.parquet`: the kept rows with their digests; `dropped/00012.parquet`:
     id and reason of the others; and, written last, `parts/00012.json`: counts and sample texts.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from configs.files import whole
from configs.schema.corpora import Corpora
from configs.schema.sources import Source
from corpora import assemble, sources
from corpora.dropped import DroppedRecord, Drops, by_text
from corpora.filters import clip_tokens, deduplicate, language_id, residue, rules
from corpora.filters.normalise import comparison_key
from corpora.pair import SCHEMA

# to be increased when unfinished files of an older version must not be used by this one
FORMAT = 3
STAGES = ("read", "filter", "language_id", "clip_tokens")
OPTIONAL = ("clip_tokens", "semantic")  # sections of the recipe by the same names


def stages(corpora: Corpora) -> list[str]:
    """The STAGES that the recipe asks for."""
    return [stage for stage in STAGES if stage not in OPTIONAL or getattr(corpora, stage)]


@dataclass
class CleanPart:
    """Executor task: part `rank` of the plan becomes its three files below `folder`."""

    corpora: Corpora
    parts: list[sources.Part]
    folder: Path

    @property
    def rows(self) -> list[int]:
        return [part.rows for part in self.parts]

    def files(self, rank: int) -> list[Path]:
        return [
            kept_file(self.folder, rank),
            dropped_file(self.folder, rank),
            _record(self.folder, rank),
        ]

    def __call__(self, data: object, rank: int, world_size: int) -> None:
        assert world_size == len(self.parts)
        part = self.parts[rank]
        source = self.corpora.sources[part.source]
        drops, schema, rows_out = Drops(), part_schema(self.corpora), 0
        with (
            whole(kept_file(self.folder, rank)) as temporary,
            pq.ParquetWriter(temporary, schema, compression="lz4") as writer,
        ):
            tables = (
                clean(batch, self.corpora, source, schema, drops)
                for batch in sources.read(source, part)
            )
            for table in tables:
                rows_out += table.num_rows
                writer.write_table(table)
        assert part.rows == rows_out + len(drops.ids), (
            "a row was lost between reading and writing a part"
        )
        with whole(dropped_file(self.folder, rank)) as temporary:
            pq.write_table(drops.table(), temporary, compression="lz4")
        dropped = {stage: dict(drops.counts(stage)) for stage in STAGES}
        PartRecord(dropped=dropped, samples=by_text(drops.samples), rows_out=rows_out).write(
            _record(self.folder, rank)
        )


class PartRecord(DroppedRecord):
    """The drops of one part, and the number of rows kept."""

    rows_out: int


def read_record(folder: Path, rank: int) -> PartRecord:
    """Raises DataError."""
    return PartRecord.read(_record(folder, rank), f"delete {folder} and run the same command again")


def kept_file(folder: Path, rank: int) -> Path:
    return folder / "parts" / f"{rank:05d}.parquet"


def dropped_file(folder: Path, rank: int) -> Path:
    return folder / "dropped" / f"{rank:05d}.parquet"


def _record(folder: Path, rank: int) -> Path:
    return folder / "parts" / f"{rank:05d}.json"


def part_schema(corpora: Corpora) -> pa.Schema:
    extra = [(name, pa.uint64()) for name in assemble.DIGESTS] + (
        [(assemble.NEAR_DIGEST, pa.uint64())] if corpora.near_duplicates else []
    )
    return pa.schema([*SCHEMA, *(pa.field(*one, nullable=False) for one in extra)])


def clean(
    batch: sources.RowBatch, corpora: Corpora, source: Source, schema: pa.Schema, drops: Drops
) -> pa.Table:
    """The rows of `batch` that pass all filters, with their digests; the others go to `drops`."""
    licence, (limits, _) = sources.licence(source), corpora.filters_of(source)
    for id, reason in batch.dropped:
        drops.add("read", reason, id)
    kept: list[tuple[str, str, str, str]] = []
    for id, name, *sides in zip(batch.ids, batch.sources, batch.text, batch.en, strict=True):
        text, en = residue.stored(sides[0], sides[1], limits)
        dropping = rules.drop_reason(text, en, limits)
        if dropping is None:
            kept.append((id, name, text, en))
        else:
            drops.add("filter", dropping, id, text, en)
    text_verdicts, en_verdicts = _languages(kept, corpora, source)
    limit = corpora.clip_tokens
    tokens = clip_tokens.counts([en for _, _, _, en in kept], limit) if limit else [0] * len(kept)
    rows = []
    for (id, name, text, en), text_verdict, en_verdict, count in zip(
        kept, text_verdicts, en_verdicts, tokens, strict=True
    ):
        if wrong := text_verdict.reason or en_verdict.reason:
            drops.add("language_id", wrong, id, text, en)
            continue
        if limit and count > limit.most:
            drops.add("clip_tokens", clip_tokens.REASON, id, text, en)
            continue
        probabilities = text_verdict.probability, en_verdict.probability
        rows.append((id, text, en, name, licence, *probabilities, *_digests(text, en, corpora)))
    columns: list[Any] = list(zip(*rows, strict=True)) or [()] * len(schema)
    return pa.table(
        [pa.array(column, kind) for column, kind in zip(columns, schema.types, strict=True)],
        schema=schema,
    )


def _languages(
    kept: list[tuple[str, str, str, str]], corpora: Corpora, source: Source
) -> tuple[list[language_id.Verdict], list[language_id.Verdict]]:
    code = corpora.text_language.code
    (least, _), (least_en, _) = corpora.min_probabilities(source)
    model = language_id.load(corpora.language_id.model, code)
    text = language_id.judged(model, [text for _, _, text, _ in kept], code, least)
    return text, language_id.judged(model, [en for _, _, _, en in kept], "en", least_en)


def _digests(text: str, en: str, corpora: Corpora) -> list[int]:
    """The values of assemble.DIGESTS, then the near digest if the recipe asks for it."""
    keys = comparison_key(text), comparison_key(en)
    found = [deduplicate.digest(*keys), deduplicate.digest(keys[0]), deduplicate.digest(keys[1])]
    near = corpora.near_duplicates
    return [*found, deduplicate.near_digest(*keys, near)] if near else found
