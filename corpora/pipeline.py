"""From sources to a folder of pairs.

In:  the recipe's `corpora` section.
Out: `<run>/pairs/` (see corpora/pair.py), with the dropped rows (corpora/dropped.py) and the data
     card (corpora/card/data_card.py).

The first half (corpora/clean.py) runs part by part; the executor skips finished parts. The second
half (corpora/assemble.py) sees all rows at once. Until it is complete, everything is in
`<run>/pairs.unfinished-<digest of settings and inputs>/`, from where the same command continues.
The bytes depend on settings and inputs alone, not on `workers`, the executor or interruptions.
"""

import shutil
from collections import Counter
from pathlib import Path

from configs.errors import DataError
from configs.files import file_sha256, publish, remove_unfinished, unfinished, value_sha256
from configs.references import ModelName
from configs.schema.corpora import Corpora, Semantic
from configs.schema.recipe import Recipe
from configs.secrets import masked, masked_tree
from corpora import assemble, clean, dropped, executor, sources
from corpora.card import data_card
from corpora.card.histograms import Histograms
from corpora.filters import clip_tokens, language_id, semantic
from corpora.pair import (
    FORMAT,
    PairsManifest,
    StageCounts,
    count_stages,
    losses,
    read_manifest,
    write_manifest,
)


def prepare(recipe: Recipe) -> tuple[PairsManifest, bool]:
    """The manifest of `<run>/pairs`, and whether it was made just now.

    Raises DataError and RecipeError.
    """
    corpora, folder = recipe.corpora, recipe.run_dir / "pairs"
    settings = recorded_settings(corpora)
    fingerprint = value_sha256([FORMAT, settings])
    if folder.exists():
        manifest = _finished(folder, fingerprint, corpora)
        remove_unfinished(folder)
        return manifest, False
    inputs = [*sources.inputs(corpora), language_id.model_file(corpora.language_id)]
    # load the models first: a damaged one should fail before the work, not after
    language_id.load(corpora.language_id.model, corpora.text_language.code)
    if corpora.clip_tokens:
        clip_tokens.load(corpora.clip_tokens.tokenizer)
    if isinstance(corpora.semantic, Semantic):
        inputs += semantic.model_files(corpora.semantic)
        semantic.load(corpora.semantic.model)
    parts = sources.plan(corpora)
    work_digest = value_sha256(
        [clean.FORMAT, fingerprint, list(map(str, inputs)), list(map(str, parts))]
    )
    work = unfinished(folder, work_digest)
    records = _clean_all(corpora, parts, work)
    part_files = [clean.kept_file(work, rank) for rank in range(len(parts))]
    stages = _count(corpora, parts, records)
    fates, more_stages = _place(corpora, [part.split for part in parts], part_files, work)
    if not (fates.places == assemble.TRAIN).any():
        raise DataError(
            f"no pair is left to train on; {losses(stages + more_stages)}; loosen the filters, or "
            "add data"
        )
    finished = work / "pairs"
    shutil.rmtree(finished, ignore_errors=True)  # shards of an interrupted run, without a manifest
    finished.mkdir()
    histograms = Histograms()
    shards = assemble.write_shards(part_files, fates, finished, corpora.shard_rows, histograms.add)
    manifest = PairsManifest(
        format=FORMAT,
        fingerprint=fingerprint,
        settings=settings,
        inputs=inputs,
        stages=stages + more_stages,
        splits=shards,
    )
    write_manifest(finished, manifest)
    dropped_files = [clean.dropped_file(work, rank) for rank in range(len(parts))]
    dropped.write(finished / dropped.FILE, assemble.dropped_rows(part_files, dropped_files, fates))
    data_card.gather(corpora, parts, records, part_files, fates, finished)
    data_card.render(finished, histograms)
    publish(finished, folder)
    shutil.rmtree(work)
    return manifest, True


def recorded_settings(corpora: Corpora) -> dict[str, object]:
    """The settings that the manifest records. `workers` and `executor` are left out because they
    change no byte, unused stages so that older pairs stay valid.
    """
    left_out = {
        "workers",
        "executor",
        *(one for one in clean.OPTIONAL if not getattr(corpora, one)),
    }
    settings: dict[str, object] = masked_tree(corpora.model_dump(mode="json", exclude=left_out))
    code = corpora.text_language.code  # Japanese is not recorded: older pairs stay valid
    return settings if code == "ja" else {"language": code, **settings}


def _finished(folder: Path, fingerprint: str, corpora: Corpora) -> PairsManifest:
    """The manifest of existing pairs, if they match this recipe. Raises DataError."""
    manifest = read_manifest(folder)
    if manifest.fingerprint != fingerprint:
        raise DataError(
            f"{folder}: holds pairs made by other settings of `corpora`; give this recipe another "
            "`run`, or move the folder away"
        )
    recorded_paths = {one.path for one in manifest.inputs}
    changed = [
        path
        for source in corpora.sources
        for path in sources.local_paths(source)
        if masked(path) not in recorded_paths
    ]
    for one in manifest.inputs:
        path = Path(ModelName(one.path).path)
        # Inputs may be deleted once the pairs are made; those still here must be unchanged.
        if path.is_file() and (path.stat().st_size != one.bytes or file_sha256(path) != one.sha256):
            changed.append(one.path)
    if changed:
        raise DataError(
            f"{folder}: {changed[0]} has changed since the pairs were made; give this recipe "
            "another `run`, or move the folder away"
        )
    return manifest


def _clean_all(corpora: Corpora, parts: list[sources.Part], work: Path) -> list[clean.PartRecord]:
    """Runs the first half over all parts."""
    for name in ("parts", "dropped"):
        (work / name).mkdir(parents=True, exist_ok=True)
    executor.run(
        clean.CleanPart(corpora, parts, work),
        work / "datatrove",
        corpora.workers,
        "clean",
        corpora.executor,
    )
    return [clean.read_record(work, rank) for rank in range(len(parts))]


def _place(
    corpora: Corpora, part_splits: list[str], part_files: list[Path], work: Path
) -> tuple[assemble.Fates, list[StageCounts]]:
    """Runs the second half's stages over all rows: duplicates, margins, the split."""
    fates, deduplicated = assemble.without_duplicates(corpora, part_files)
    stages = [deduplicated]
    if corpora.semantic:
        folder = work / "semantic"
        task = semantic.MeasurePart.of(
            corpora.semantic, part_files, folder, fates.is_left, fates.starts
        )
        executor.run(
            task, work / "datatrove" / "semantic", corpora.workers, "semantic", corpora.executor
        )
        low = (
            (corpora.semantic.min_margin, assemble.LOW_MARGIN)
            if isinstance(corpora.semantic, Semantic)
            else (corpora.semantic.min_score, assemble.LOW_ALIGNMENT)
        )
        stages.append(assemble.without_low_scores(fates, task.scores(), *low))
    return fates, [*stages, assemble.place_rest(corpora, part_splits, part_files, fates)]


def _count(
    corpora: Corpora, parts: list[sources.Part], records: list[clean.PartRecord]
) -> list[StageCounts]:
    """Row counts of the first half's stages, over all parts."""
    dropped = {
        name: sum((Counter(record.dropped.get(name, {})) for record in records), Counter[str]())
        for name in clean.stages(corpora)
    }
    stages = count_stages(sum(part.rows for part in parts), dropped.items())
    assert stages[-1].rows_out == sum(record.rows_out for record in records)
    return stages
