"""From metadata and pictures to a folder of Japanese-English pairs.

In:  the recipe's `captions` section; `language_id`, `filters`, `workers` and `executor` of its
     `corpora` section.
Out: `<run>/captions/`: shards of pairs with similarity and URL, a manifest and a data card as in
     `<run>/pairs`; `corpora.prepare` reads it as a parquet source. Until it is complete, everything
     is in `<run>/captions.unfinished-<digest>/`, from where the same command continues. The bytes
     depend on settings and inputs alone, not on `workers`, the executor or interruptions.
"""

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from configs.errors import DataError, RecipeError
from configs.files import publish, remove_unfinished, unfinished, value_sha256, whole
from configs.schema.captions import Captions, Files, Shards
from configs.schema.recipe import Recipe
from configs.secrets import masked_tree
from corpora import executor
from corpora.captions import card, choose, clean, images, score, translate
from corpora.card.histograms import Histograms
from corpora.dropped import DroppedRecord
from corpora.filters import language_id
from corpora.pair import (
    FORMAT,
    Input,
    PairsManifest,
    ShardWriter,
    StageCounts,
    count_stages,
    losses,
    read_manifest,
    write_manifest,
)
from corpora.sources import files, laion

FOLDER = "captions"


def make(recipe: Recipe) -> tuple[PairsManifest, bool]:
    """The manifest of `<run>/captions`, and whether it was made just now.

    Raises DataError and RecipeError.
    """
    captions, folder = recipe.captions, recipe.run_dir / FOLDER
    if captions is None:
        raise RecipeError(
            "the recipe has no section `captions`; write one (configs/sdxl_jp.yaml has an "
            "example), or go on with corpora.prepare"
        )
    settings = {"captions": masked_tree(captions.model_dump(mode="json"))}
    settings |= {
        name: recipe.corpora.model_dump(mode="json")[name] for name in ("language_id", "filters")
    }
    settings |= {} if recipe.language == "ja" else {"language": recipe.language}
    fingerprint = value_sha256([FORMAT, FOLDER, settings])
    if folder.exists():
        manifest = _finished(folder, fingerprint)
        remove_unfinished(folder)
        return manifest, False
    # load the model first: a damaged one should fail before the work, not after
    language_id.load(recipe.corpora.language_id.model, recipe.language)
    if captions.unsafe:
        laion.check_ratings(captions.source)
    inputs = _inputs(recipe, captions)
    work = unfinished(folder, value_sha256([fingerprint, list(map(str, inputs))]))
    work.mkdir(parents=True, exist_ok=True)
    records, cleaned = _clean(recipe, captions, work), clean.Cleaned(work / "cleaned")
    rows, lost = _choose(recipe, captions, cleaned, work)
    if not rows:
        raise DataError(
            f"no caption is left to translate; {losses(_stages(records, cleaned, lost))}; loosen "
            "the filters, or add data"
        )
    records += _translate(recipe, captions, cleaned, work)
    finished = _folder(work / "finished", empty=True)
    histograms = Histograms()
    writer = ShardWriter(finished, "train", captions.shard_rows, translate.SCHEMA)
    for file in sorted((work / "translated").glob("*.parquet")):
        rows = pq.read_table(file)
        writer.write(rows)
        histograms.add(rows)
    stages = _stages(records, cleaned, lost)
    manifest = PairsManifest(
        format=FORMAT,
        fingerprint=fingerprint,
        settings=settings,
        inputs=inputs,
        stages=stages,
        splits={"train": writer.close()},
    )
    write_manifest(finished, manifest)
    card.write(captions, records, cleaned, lost, manifest, histograms, finished)
    publish(finished, folder)
    shutil.rmtree(work)
    return manifest, True


def _clean(recipe: Recipe, captions: Captions, work: Path) -> list[DroppedRecord]:
    parts, folder = laion.plan(captions.source), _folder(work / "cleaned")
    corpora = recipe.corpora
    executor.run(
        clean.CleanCaptions(captions, corpora, parts, folder),
        work / "datatrove" / "clean",
        corpora.workers,
        "clean",
        corpora.executor,
    )
    return _records(folder, len(parts))


def _choose(
    recipe: Recipe, captions: Captions, cleaned: clean.Cleaned, work: Path
) -> tuple[int, dict[str, choose.Rows]]:
    """Writes the chosen rows to `kept.npz`; returns their number and the rows that each stage
    dropped.
    """
    if captions.ranker is None:
        values, missing = choose.column(cleaned)
    else:
        scored, corpora = _folder(work / "scored"), recipe.corpora
        executor.run(
            _score_task(captions, cleaned, work, scored),
            work / "datatrove" / "score",
            corpora.workers,
            "score",
            corpora.executor,
        )
        values, missing = choose.similarities(cleaned, scored)
    rows, lost = choose.choose(values, missing, cleaned.column("text_digest"), captions.keep)
    with whole(work / "kept.npz") as temporary, open(temporary, "wb") as file:
        np.savez(file, rows=rows, similarity=values[rows])
    return len(rows), lost


def _score_task(
    captions: Captions, cleaned: clean.Cleaned, work: Path, scored: Path
) -> executor.Task:
    assert captions.ranker is not None
    if isinstance(captions.images, Files):
        return score.ScoreFiles(captions.ranker, captions.images, cleaned, scored)
    assert isinstance(captions.images, Shards)
    shards = images.shards(captions.images.path)
    score.write_index(cleaned, work)
    return score.ScoreShard(
        captions.ranker, shards, work, scored, [images.rows_of(shard) for shard in shards]
    )


def _translate(
    recipe: Recipe, captions: Captions, cleaned: clean.Cleaned, work: Path
) -> list[DroppedRecord]:
    with np.load(work / "kept.npz", allow_pickle=False) as kept:
        pieces = translate.pieces(len(kept["rows"]))
    folder, corpora = _folder(work / "translated"), recipe.corpora
    model = corpora.language_id.model
    task = translate.TranslatePiece(
        captions, model, cleaned, work / "kept.npz", pieces, folder, recipe.run_dir / "models"
    )
    executor.run(
        task, work / "datatrove" / "translate", corpora.workers, "translate", corpora.executor
    )
    return _records(folder, len(pieces))


def _records(folder: Path, count: int) -> list[DroppedRecord]:
    """What each task dropped. Raises DataError."""
    way_out = f"delete {folder.parent} and run the same command again"
    return [DroppedRecord.read(folder / f"{rank:05d}.json", way_out) for rank in range(count)]


def _stages(
    records: list[DroppedRecord], cleaned: clean.Cleaned, lost: dict[str, choose.Rows]
) -> list[StageCounts]:
    """Row counts of every stage, in order."""
    counts: dict[str, Counter[str]] = {}
    for record in records:
        for stage, reasons in record.dropped.items():
            counts.setdefault(stage, Counter()).update(reasons)
    stages = count_stages(
        cleaned.rows + sum(counts[name].total() for name in clean.STAGES),
        [(name, counts.pop(name)) for name in clean.STAGES],
    )
    stages += choose.count(stages[-1].rows_out, lost)
    return stages + count_stages(stages[-1].rows_out, counts.items())


def _inputs(recipe: Recipe, captions: Captions) -> list[Input]:
    """Every input file, with its digest.

    For a shard of pictures its table is recorded, if it has one: the pictures may be terabytes.
    """
    name = captions.source.name
    listed = [(name, path) for path in files.found(captions.source.path)]
    if isinstance(captions.images, Shards):
        for shard in map(Path, images.shards(captions.images.path)):
            table = shard.with_suffix(".parquet")
            listed.append(("images", str(table if table.is_file() else shard)))
    back = captions.back_translation.translator if captions.back_translation else None
    models = {
        "ranker": captions.ranker,
        "translator": captions.translator,
        "back_translation": back,
    }
    for what, settings in models.items():
        folder = Path(settings.model.path) if settings else None
        if folder is not None and folder.is_dir():  # a hub model is identified by its name
            listed += [(what, str(file)) for file in sorted(folder.iterdir()) if file.is_file()]
    result = [
        Input(source=source, path=path, bytes=files.size(path), sha256=files.digest(path))
        for source, path in listed
    ]
    return [*result, language_id.model_file(recipe.corpora.language_id)]


def _finished(folder: Path, fingerprint: str) -> PairsManifest:
    """The manifest of existing captions, if they match this recipe. Raises DataError."""
    manifest = read_manifest(folder)
    if manifest.fingerprint != fingerprint:
        raise DataError(
            f"{folder}: holds captions made by other settings; give this recipe another `run`, or "
            "move the folder away"
        )
    return manifest


def _folder(path: Path, empty: bool = False) -> Path:
    if empty:
        shutil.rmtree(path, ignore_errors=True)
    path.mkdir(exist_ok=True)
    return path
