"""From sources to a folder of pairs.

In:  the recipe's `corpora` section.
Out: `<run>/pairs/` (see corpora/pair.py). datatrove runs the first half, one task a part of a source: read, normalise, filter, identify the
     languages; its executor skips the tasks a marker says are finished. The second half sees all rows at once: duplicates, split, shards.
     Until the end everything lies in `<run>/pairs.unfinished-<digest of settings and inputs>/`; the same command goes on from there.
     The bytes of the shards depend on the settings and the inputs alone, not on `workers`, the executor or interruptions.
"""

import hashlib
import json
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from configs.command import DataError
from configs.files import file_sha256, whole
from configs.schema import Corpora, Recipe, resolve_model
from corpora import assemble, deduplicate, executor, filters, language_id, sources
from corpora.normalise import comparison_key, normalise
from corpora.pair import FORMAT, SCHEMA, Manifest, Stage, count_stage, read_manifest, write_manifest


def prepare(recipe: Recipe) -> tuple[Manifest, bool]:
    """The manifest of `<run>/pairs`, and whether it was made just now. Raises DataError and RecipeError."""
    corpora, folder = recipe.corpora, recipe.run_dir / "pairs"
    settings = corpora.model_dump(mode="json", exclude={"workers", "executor"})  # who does the work changes no byte
    fingerprint = _digest([FORMAT, settings])
    if folder.exists():
        return _finished(folder, fingerprint, corpora), False
    inputs = [*sources.inputs(corpora), language_id.model_file(corpora.language_id)]
    language_id.load(corpora.language_id.model)  # a damaged model or hopeless settings are told before the work, not after
    near = deduplicate.NearDuplicateIndex(corpora.near_duplicates) if corpora.near_duplicates else None
    parts = sources.plan(corpora)
    work = recipe.run_dir / f"pairs.unfinished-{_digest([fingerprint, list(map(str, inputs)), list(map(str, parts))])[:12]}"
    (work / "parts").mkdir(parents=True, exist_ok=True)
    stages = _clean_all(corpora, parts, work)
    part_files = [work / "parts" / f"{rank:05d}.parquet" for rank in range(len(parts))]
    places, more_stages = assemble.place(corpora, [part.split for part in parts], part_files, near)
    if not any((one == assemble.TRAIN).any() for one in places):
        raise DataError(f"no pair is left to train on; {_losses(stages + more_stages)}; loosen the filters, or add data")
    finished = work / "pairs"
    shutil.rmtree(finished, ignore_errors=True)  # shards of an interrupted run, without a manifest
    finished.mkdir()
    shards = assemble.write_shards(part_files, places, finished, corpora.shard_rows)
    manifest = Manifest(format=FORMAT, fingerprint=fingerprint, settings=settings, inputs=inputs, stages=stages + more_stages, splits=shards)
    write_manifest(finished, manifest)
    finished.rename(folder)
    shutil.rmtree(work)
    return manifest, True


def _finished(folder: Path, fingerprint: str, corpora: Corpora) -> Manifest:
    """The manifest of pairs made earlier, if they are this recipe's. Raises DataError."""
    manifest = read_manifest(folder)
    if manifest.fingerprint != fingerprint:
        raise DataError(f"{folder}: holds pairs made by other settings of `corpora`; give this recipe another `run`, or move the folder away")
    known = {one.path for one in manifest.inputs}
    changed = [path for source in corpora.sources for path in sources.local_paths(source) if path not in known]
    for one in manifest.inputs:
        path = Path(resolve_model(one.path))
        # raw texts may be gone once the pairs are made, or far away; there, they must be the same
        if path.is_file() and (path.stat().st_size != one.bytes or file_sha256(path) != one.sha256):
            changed.append(one.path)
    if changed:
        raise DataError(f"{folder}: {changed[0]} has changed since the pairs were made; give this recipe another `run`, or move the folder away")
    return manifest


def _losses(stages: list[Stage]) -> str:
    dropped = sum((Counter(stage.dropped) for stage in stages), Counter[str]())
    return f"{stages[0].rows_in} rows came in, dropped were " + ", ".join(f"{count} {reason}" for reason, count in dropped.most_common(5))


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


@dataclass
class CleanPart:
    """The task datatrove runs: part number `rank` of the plan becomes `parts/00012.parquet` and, after it, `parts/00012.json` with its counts."""

    corpora: Corpora
    parts: list[sources.Part]
    folder: Path

    @property
    def rows(self) -> list[int]:
        return [part.rows for part in self.parts]

    def __call__(self, data: object, rank: int, world_size: int) -> None:
        assert world_size == len(self.parts)
        part = self.parts[rank]
        source = self.corpora.sources[part.source]
        counts: dict[str, Counter[str]] = {"read": Counter(), "filter": Counter(), "language_id": Counter()}
        schema = _part_schema(self.corpora)
        rows_out = 0
        with whole(self.folder / f"{rank:05d}.parquet") as temporary, pq.ParquetWriter(temporary, schema, compression="lz4") as writer:
            for batch in sources.read(source, part):
                counts["read"] += batch.dropped
                table = clean(batch, self.corpora, sources.licence(source), schema, counts)
                rows_out += table.num_rows
                writer.write_table(table)
        assert part.rows == rows_out + sum(count.total() for count in counts.values()), "a row was lost between reading and writing a part"
        with whole(self.folder / f"{rank:05d}.json") as temporary:
            temporary.write_text(json.dumps({"rows_in": part.rows, "dropped": counts, "rows_out": rows_out}), encoding="utf-8")


def _part_schema(corpora: Corpora) -> pa.Schema:
    extra = [(name, pa.uint64()) for name in assemble.DIGESTS] + ([(assemble.SIGNATURE, pa.binary())] if corpora.near_duplicates else [])
    return pa.schema([*SCHEMA, *(pa.field(*one, nullable=False) for one in extra)])


def clean(batch: sources.Batch, corpora: Corpora, licence: str, schema: pa.Schema, counts: dict[str, Counter[str]]) -> pa.Table:
    """The rows of `batch` that pass the filters and the language id, with what the second half needs; adds what is dropped to `counts`."""
    kept: list[tuple[str, str, str, str]] = []
    for id, source, ja, en in zip(batch.ids, batch.sources, map(normalise, batch.ja), map(normalise, batch.en), strict=True):
        reason = filters.drop_reason(ja, en, corpora.filters)
        if reason is None:
            kept.append((id, source, ja, en))
        else:
            counts["filter"][reason] += 1
    model = language_id.load(corpora.language_id.model)
    ja_probabilities = language_id.probabilities(model, [ja for _, _, ja, _ in kept], "ja")
    en_probabilities = language_id.probabilities(model, [en for _, _, _, en in kept], "en")
    columns: dict[str, list[object]] = {name: [] for name in schema.names}
    keys = []
    for (id, source, ja, en), ja_probability, en_probability in zip(kept, ja_probabilities, en_probabilities, strict=True):
        if ja_probability < corpora.language_id.min_probability:
            counts["language_id"]["ja_is_not_japanese"] += 1
        elif en_probability < corpora.language_id.min_probability:
            counts["language_id"]["en_is_not_english"] += 1
        else:
            ja_key, en_key = comparison_key(ja), comparison_key(en)
            keys.append(f"{ja_key}{deduplicate.SEPARATOR}{en_key}")
            digests = deduplicate.digest(ja_key, en_key), deduplicate.digest(ja_key), deduplicate.digest(en_key)
            row = (id, ja, en, source, licence, ja_probability, en_probability, *digests)
            for name, value in zip(schema.names, row, strict=False):
                columns[name].append(value)
    if corpora.near_duplicates:
        columns[assemble.SIGNATURE] = list(deduplicate.signatures(keys, corpora.near_duplicates))
    return pa.table(columns, schema=schema)


def _clean_all(corpora: Corpora, parts: list[sources.Part], work: Path) -> list[Stage]:
    """Runs the first half over all parts and adds up its counts."""
    folder = work / "parts"
    executor.run(CleanPart(corpora, parts, folder), work / "datatrove", corpora.workers, "clean", corpora.executor)
    stages = []
    counts = [json.loads((folder / f"{rank:05d}.json").read_text(encoding="utf-8")) for rank in range(len(parts))]
    rows = sum(part.rows for part in parts)
    for name in ("read", "filter", "language_id"):
        dropped = sum((Counter(count["dropped"][name]) for count in counts), Counter[str]())
        stages.append(count_stage(name, rows, dropped))
        rows = stages[-1].rows_out
    assert rows == sum(count["rows_out"] for count in counts)
    return stages
