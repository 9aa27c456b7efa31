"""From sources of captioned pictures to `<run>/pictures`: rows, buckets and cached latents.

In:  the recipe's `pictures` section; the VAE of `distill.base`; for counting long captions the
     tokenizers of the student and the teacher.
Out: `<run>/pictures/` (see `finetune/pictures/store.py`). Until the end what is encoded lies in
     `<run>/pictures.unfinished-<digest of the VAE>/`; the same command goes on from there. Latents
     are found again by what they are of, so a change encodes what has changed and nothing else.
"""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from configs import artefact
from configs.errors import DataError, RecipeError
from configs.files import (
    check_room,
    link,
    remove_unfinished,
    unfinished,
    value_sha256,
    whole_folder,
)
from configs.schema.pictures import PictureData
from configs.schema.recipe import Recipe
from corpora.pair import Split
from distill.sdxl.pipelines import quiet
from finetune.pictures import buckets, held_out, latent_files, plan, store
from finetune.pictures.encoding import LatentEncoding
from finetune.pictures.latent_files import LatentFile, LatentReader, LatentWriter, Place
from finetune.pictures.plan import Plan
from finetune.pictures.store import FOLDER, ROWS, SCHEMA, SourceCounts, StoreDetails
from finetune.pictures.vae import VaeFolder

VAE, SETTINGS, PICTURES = "the VAE of distill.base", "the settings of pictures", "the pictures"
LAYOUT = 1  # of the folder; another number makes it anew


class Made(NamedTuple):
    """`encoded`: crops that went through the VAE just now; `is_new`: whether the folder was
    written.
    """

    details: StoreDetails
    encoded: int
    is_new: bool


def make(recipe: Recipe) -> Made:
    """Raises DataError and RecipeError."""
    settings, folder = recipe.pictures, recipe.run_dir / FOLDER
    if settings is None:
        raise RecipeError(
            "the recipe has no section `pictures`; write one (docs/finetuning.md has an example)"
        )
    quiet()
    vae = VaeFolder(recipe.distill.base)
    _check_sides(settings, vae)
    before = _earlier(folder)
    planned = plan.make(recipe, settings)
    held_out.check(len(planned.pictures), settings.held_out)
    made_from = {**_wanted(settings, vae), PICTURES: planned.sha256}
    work = unfinished(folder, made_from[VAE])
    if before is not None and artefact.changed(before, made_from) is None and _is_whole(folder):
        remove_unfinished(folder)
        return Made(store.details(before, folder), 0, is_new=False)
    cached = _cached(folder, work, before, made_from[VAE])
    encoded = _encode(vae, settings, planned, cached, work)
    if not planned.pictures:
        raise DataError(f"no picture is left; {plan.losses(planned)}; correct the sources")
    with whole_folder(folder, replace=True) as partial:
        files = _gather(planned, cached.values(), partial)
        rows_before = folder if before is not None else work
        details = _write_rows(settings, planned, files, rows_before, vae, partial)
        known = {one.path.name: one.sha256 for one in files}
        artefact.seal(partial, made_from, details.model_dump(mode="json"), known)
        _keep(partial, work)
    remove_unfinished(folder)
    return Made(details, encoded, is_new=True)


def check_current(recipe: Recipe, manifest: artefact.ArtefactManifest) -> None:
    """Whether the finished folder is of this recipe's settings and VAE; its sources are not looked
    at. Raises DataError.
    """
    assert recipe.pictures is not None
    for name, digest in _wanted(recipe.pictures, VaeFolder(recipe.distill.base)).items():
        if manifest.made_from.get(name) != digest:
            others = "are others" if name == SETTINGS else "is another one"
            raise DataError(
                f"{recipe.run_dir / FOLDER}: {name} {others} now than when it was made; "
                f"{store.WAY_OUT}"
            )


def _wanted(settings: PictureData, vae: VaeFolder) -> dict[str, str]:
    """Digests of what the folder is made from, but for the pictures."""
    return {
        VAE: vae.sha256,
        SETTINGS: value_sha256([LAYOUT, settings.model_dump(mode="json")]),
    }


def _check_sides(settings: PictureData, vae: VaeFolder) -> None:
    """Raises RecipeError for a bucket that is no whole number of latents."""
    for size in buckets.sizes(settings.resolution, settings.buckets):
        if any(side % vae.pixels_a_latent for side in size):
            raise RecipeError(
                f"a bucket of {latent_files.bucket_name(size)} pixels is no whole number of "
                f"latents, each of which is {vae.pixels_a_latent} pixels wide; correct "
                "pictures.resolution or pictures.buckets"
            )


def _earlier(folder: Path) -> artefact.ArtefactManifest | None:
    """The manifest of what an earlier run made, its rows undamaged. Raises DataError: made anew,
    it might hold out what has been trained on.
    """
    if not folder.exists():
        return None
    way_out = "move the folder away and run the same command again"
    manifest = artefact.ArtefactManifest.read(folder / artefact.MANIFEST, way_out)
    artefact.check_files(folder, {ROWS: manifest.files.get(ROWS, "")}, way_out)
    return manifest


def _cached(
    folder: Path, work: Path, before: artefact.ArtefactManifest | None, vae: str
) -> dict[str, LatentFile]:
    """By file name, all latents at hand that this VAE made; a damaged file is as if not there."""
    found = latent_files.undamaged(work)
    if before is not None and before.made_from.get(VAE) == vae:
        found += latent_files.undamaged(folder)
    return {one.path.name: one for one in found}


def _is_whole(folder: Path) -> bool:
    try:
        artefact.read(folder, "")
    except DataError:
        return False
    return True


def _encode(
    vae: VaeFolder, settings: PictureData, planned: Plan, cached: dict[str, LatentFile], work: Path
) -> int:
    """Encodes what `cached` lacks, adds it there, and says how many crops that was."""
    there = {key for one in cached.values() for keys in one.keys.buckets.values() for key in keys}
    missing: set[str] = set()
    needed = 0
    for one in planned.pictures:
        for key, crop in zip(one.keys, one.crops, strict=True):
            if key not in there:
                missing.add(key)
                area = crop.bucket[0] * crop.bucket[1] // vae.pixels_a_latent**2
                needed += 4 * vae.channels * area  # two tensors of fp16
    if not missing:
        return 0
    check_room(work, 2 * needed)  # some are put together anew at the end
    work.mkdir(parents=True, exist_ok=True)
    writer = LatentWriter(work)
    LatentEncoding(vae.load(), str(vae.base), writer, missing).run(settings, planned)
    cached |= {one.path.name: one for one in writer.written}
    return sum(len(keys) for one in writer.written for keys in one.keys.buckets.values())


def _gather(planned: Plan, cached: Iterable[LatentFile], partial: Path) -> list[LatentFile]:
    """The finished folder's files: large ones whose rows are mostly used are linked, the used rows
    of all others are put together.
    """
    used = {key for one in planned.pictures for key in one.keys}
    linked: list[LatentFile] = []
    loose: dict[str, Place] = {}
    for file in cached:
        places = file.places()
        share = len(used & places.keys()) / len(places)
        if share * file.path.stat().st_size >= latent_files.SHARD_BYTES / 2 and share >= 0.5:
            link(file.path, partial / file.path.name)
            linked.append(LatentFile(partial / file.path.name, file.sha256, file.keys))
        else:
            loose |= places
    for file in linked:
        for key in file.places():
            loose.pop(key, None)
    reader, writer = LatentReader(), LatentWriter(partial, seconds=float("inf"))
    for one in planned.pictures:
        for key in one.keys:
            if (place := loose.get(key)) is not None:
                mean_1CHW, std_1CHW = reader.read([place])
                writer.add(key, place.bucket, mean_1CHW[0], std_1CHW[0])
    writer.flush()
    return linked + writer.written


def _write_rows(
    settings: PictureData,
    planned: Plan,
    files: list[LatentFile],
    rows_before: Path,
    vae: VaeFolder,
    partial: Path,
) -> StoreDetails:
    """`rows_before`: the folder whose rows, if it has any, say who is held out already."""
    places = {key: place for one in files for key, place in one.places().items()}
    sides: dict[str, set[str]] = {"train": set(), "held_out": set()}
    if (rows_before / ROWS).is_file():
        table = store.read_rows(rows_before)
        for picture, split in zip(
            table["picture"].to_pylist(), table["split"].to_pylist(), strict=True
        ):
            sides[split].add(picture)
    apart = held_out.choose(
        (one.sha256 for one in planned.pictures),
        settings.held_out,
        sides["held_out"],
        sides["train"],
    )
    rows = [
        {
            "key": key,
            "picture": one.sha256,
            "split": "held_out" if one.sha256 in apart else "train",
            "source": planned.labels[one.source],
            "file": one.file,
            "texts": one.texts,
            "en": one.en or None,
            "original_width": one.size[0],
            "original_height": one.size[1],
            "bucket_width": crop.bucket[0],
            "bucket_height": crop.bucket[1],
            "crop_top": crop.top,
            "crop_left": crop.left,
            "flip": crop.flip,
            "shard": places[key].path.name,
            "index": places[key].row,
        }
        for one in planned.pictures
        for key, crop in zip(one.keys, one.crops, strict=True)
    ]
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), partial / ROWS)
    return _details(settings, planned, apart, vae)


def _details(settings: PictureData, planned: Plan, apart: set[str], vae: VaeFolder) -> StoreDetails:
    rows: dict[Split, Counter[str]] = {"train": Counter(), "held_out": Counter()}
    for one in planned.pictures:
        split: Split = "held_out" if one.sha256 in apart else "train"
        rows[split].update(latent_files.bucket_name(crop.bucket) for crop in one.crops)
    sources = []
    for number, (label, source) in enumerate(zip(planned.labels, settings.sources, strict=True)):
        own = [one for one in planned.pictures if one.source == number]
        sources.append(
            SourceCounts(
                label=label,
                licence=source.licence,
                pictures=len(own),
                captions=sum(len(one.texts) for one in own),
                en_captions=sum(len(one.en) for one in own),
                dropped=dict(planned.dropped[number].most_common()),
            )
        )
    return StoreDetails(
        sources=sources,
        pictures={"train": len(planned.pictures) - len(apart), "held_out": len(apart)},
        rows={split: dict(sorted(counts.items())) for split, counts in rows.items()},
        captions_cut_at_77=planned.too_long,
        vae=str(vae.base),
        pixels_a_latent=vae.pixels_a_latent,
        scaling=vae.scaling,
    )


def _keep(partial: Path, work: Path) -> None:
    """Links the finished files into the work folder: a kill while one folder takes the other's
    place may cost both.
    """
    work.mkdir(parents=True, exist_ok=True)
    (work / ROWS).unlink(missing_ok=True)
    for path in (*partial.glob(latent_files.PATTERN), partial / ROWS):
        if not (work / path.name).exists():
            link(path, work / path.name)
