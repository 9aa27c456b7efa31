"""Turns the newest checkpoint into encoders that stand alone and pipelines that unmodified
diffusers loads.
"""

import re
import sys
from pathlib import Path

from configs import artefact
from configs.errors import DataError, one_line
from configs.files import file_sha256, whole_folder
from configs.references import ModelName, is_single_file
from configs.schema.recipe import Recipe
from distill.checkpoints import checkpoint
from distill.encoders.family import Family
from distill.encoders.teacher import load_text_encoders
from distill.export import agreement, pipeline_folder, single_file
from distill.export.push import push as upload
from distill.model_card import model_card
from distill.run import inputs, run_folder
from distill.sdxl.base import settled
from distill.sdxl.repository import INDEX, STEMS, fetch
from distill.unpack import door
from distill.verify.record import (
    AGREEMENT,
    RETRAINED_BELOW,
    TEACHER_FILE,
    VERIFICATION,
    Verification,
)

VARIANT = re.compile(r"text_encoder(?:_2)?/model\.(\w+)\.safetensors")


def export(recipe: Recipe, assemble: str | None = None, in_one_file: bool = False) -> list[Path]:
    """The finished folders meant for use. `in_one_file`: each pipeline as one file too.

    Raises DataError when something read is missing, damaged or does not fit, or is in the way.
    """
    if in_one_file and recipe.export.encoders_only and not assemble:
        raise DataError(
            "--single-file: export.encoders_only leaves no pipeline to write; set it to false"
        )
    recipe, family = settled(recipe)
    folder = recipe.run_dir / "export"
    newest = checkpoint.newest(recipe.run_dir / "distill", ["student.safetensors"])
    if newest is None:
        raise DataError(
            f"{recipe.run_dir / 'distill'}: there is no finished checkpoint; run distill.train "
            "first"
        )
    made_from = {
        "recipe": recipe.name,
        "checkpoint": newest.name,
        "manifest_sha256": file_sha256(newest / checkpoint.MANIFEST),
    }
    sources = _assembled_from(assemble) if assemble else _sources(recipe)
    provenances = {
        name: {**made_from, "teacher": public_name(source), **_file_of(source)}
        for name, source in {"encoders": recipe.distill.base, **sources}.items()
    }
    variants = tuple(recipe.export.variants)
    finished = {
        name: is_finished(folder / name, provenance, variants)
        for name, provenance in provenances.items()
    }
    if not assemble and not all(finished[name] for name in sources):
        _check_pipelines(recipe)
    for name, provenance in provenances.items():
        if finished[name]:
            if name in sources:
                _check_same_weights(folder / name, Path(sources[name].path))
            stored = stored_export(folder / name)
            assert stored is not None
            _warn(folder / name, stored.made_from)
            model_card.write(folder / name, recipe, stored.made_from)  # settings may be others now
            print(f"{folder / name}: already exported from {newest.name}")
            continue
        compared = assemble is not None and name in sources
        _write(folder / name, recipe, family, newest, sources.get(name), provenance, compared)
        print(f"{folder / name}: written from {newest.name}, loaded again and compared")
    for name in sources if in_one_file else ():
        single_file.write(folder / name)
    return [folder / name for name in sources or ["encoders"]]


def public_name(reference: str) -> str:
    """A source's name without the machine's folders: what may be written into a repository."""
    return Path(reference).name if Path(reference).exists() else reference


def is_finished(folder: Path, provenance: dict[str, str], variants: tuple[str, ...]) -> bool:
    """Whether `folder` holds this very export, undamaged.

    Raises DataError if it holds anything else.
    """
    stored = stored_export(folder)
    if stored is None:
        return False
    found = {key: value for key, value in stored.made_from.items() if key != AGREEMENT}
    if found != provenance:
        made_from = (
            f"{found.get('checkpoint')} of {found.get('recipe')}, teacher {found.get('teacher')}"
        )
        raise DataError(
            f"{folder}: holds another export ({made_from}); move it away, or delete it to export "
            f"{provenance['checkpoint']}"
        )
    if (written := written_variants(stored)) != set(variants):
        raise DataError(
            f"{folder}: was exported with export.variants=[{','.join(sorted(written))}], the recipe"
            f" now says [{','.join(variants)}]; delete it to export it with these, or set the old "
            "ones"
        )
    return is_undamaged(folder, stored)


def stored_export(folder: Path) -> Verification | None:
    """What an export says of itself; None where nothing is there.

    Raises DataError if the folder holds anything else.
    """
    if not folder.exists():
        return None
    try:
        return Verification.read(folder / VERIFICATION, "move it away")
    except DataError as error:
        raise DataError(
            f"{folder}: holds something that is no export of this project, or a damaged one "
            f"({error})"
        ) from None


def is_undamaged(folder: Path, stored: Verification) -> bool:
    """Whether every file has its digest; says on stderr which has not."""
    try:
        artefact.check_files(folder, stored.files, "it is exported again", VERIFICATION)
    except DataError as error:
        print(one_line(error), file=sys.stderr)
        return False
    return True


def written_variants(stored: Verification) -> set[str]:
    """The half-precision weights an export has, by its text encoders' files."""
    found = (VARIANT.fullmatch(name) for name in stored.files)
    return {match[1] for match in found if match}


def _check_same_weights(folder: Path, sdxl: Path) -> None:
    """Names of folders are no digests: another SDXL may have the same. Raises DataError."""
    files = Verification.read(folder / VERIFICATION, "export it again").files
    for path in sorted(path for part in STEMS for path in (sdxl / part).glob("*.safetensors")):
        name = f"{path.parent.name}/{path.name}"
        linked = (folder / name).is_file() and (folder / name).samefile(path)
        if not linked and files.get(name) != file_sha256(path):
            raise DataError(
                f"{folder}: was put together from another SDXL of this name, {path} is not in it;"
                " move it away, or rename the SDXL's folder"
            )


def _assembled_from(reference: str) -> dict[str, ModelName]:
    """The source of `--assemble`, by the name of its folder; a single file is unpacked.

    Raises DataError.
    """
    if is_single_file(reference):
        fetch(reference)
        return {Path(reference).stem: ModelName(reference)}
    source = ModelName(reference)
    return {Path(source.path).name: source}


def _file_of(source: ModelName) -> dict[str, str]:
    """The digest of the single file that a source was unpacked from. Raises DataError."""
    found = door.sha256_of_source(source.path)
    return {TEACHER_FILE: found} if found else {}


def _agreement(recipe: Recipe, family: Family, source: str) -> dict[str, str]:
    """How far the source's own text encoders are the teacher's, for the record; nothing where it
    has none that can be read, since they are not exported.
    """
    try:
        folder = fetch(source, [INDEX, "t*/*.json", "t*/*.safetensors", "t*/*.txt"])
        teacher = load_text_encoders(recipe.distill.base.path, family, recipe.distill.teacher)
        return {AGREEMENT: f"{agreement.agreement(teacher, folder, family):.4f}"}
    except DataError as error:
        print(
            f"{source}: its own text encoders are not compared with the teacher's "
            f"({one_line(error)})",
            file=sys.stderr,
        )
        return {}


def _warn(folder: Path, made_from: dict[str, str]) -> None:
    figure = made_from.get(AGREEMENT)
    if figure is not None and float(figure) < RETRAINED_BELOW:
        print(
            f"{folder}: the text encoders of {made_from['teacher']} were trained: they agree with "
            f"the teacher's to {figure} (cosine; 1 is equal, warned below {RETRAINED_BELOW}), so "
            "its UNet reads other states than the student learnt; distil from it instead "
            "(distill.base)",
            file=sys.stderr,
        )


def _sources(recipe: Recipe) -> dict[str, ModelName]:
    """What each pipeline is assembled from, by the name of its folder."""
    if recipe.export.encoders_only:
        return {}
    return {"base": recipe.distill.base} | (
        {"refiner": recipe.distill.refiner} if recipe.distill.refiner else {}
    )


def _write(
    folder: Path,
    recipe: Recipe,
    family: Family,
    checkpoint: Path,
    source: str | None,
    made_from: dict[str, str],
    compared: bool,
) -> None:
    """`compared`: with the teacher's text encoders, where `source` is another pipeline."""
    with whole_folder(folder, replace=folder.exists()) as partial:
        if source is None:
            _check_initial_student(recipe)
            student = pipeline_folder.Student(
                checkpoint / "student.safetensors", recipe.run_dir / "initial_student" / "tokenizer"
            )
            configs = fetch(recipe.distill.base, ["model_index.json", "text_encoder*/config.json"])
            pipeline_folder.write_encoders(
                partial, student, configs, family, tuple(recipe.export.variants)
            )
        else:
            rest = fetch(source, *patterns(recipe))
            pipeline_folder.assemble(partial, folder.parent / "encoders", rest, family)
            if compared:
                made_from = made_from | _agreement(recipe, family, source)
                _warn(folder, made_from)
        pipeline_folder.verify(partial, made_from, recipe.text_language.verification_prompts)
        if folder.exists():
            _check_sources(folder, partial)
        model_card.write(partial, recipe, made_from)


def _check_initial_student(recipe: Recipe) -> None:
    """The tokenizer must be the one the run was trained with. Raises DataError."""
    folder = recipe.run_dir / "initial_student"
    found, trained = (
        inputs.initial_student(folder),
        run_folder.read_inputs(recipe.run_dir / "distill"),
    )
    if found != trained.get(inputs.INITIAL_STUDENT):
        raise DataError(
            f"{folder}: not the one this run was trained with; put that one back, or train again "
            "with run=ANOTHER_FOLDER"
        )


def _check_pipelines(recipe: Recipe) -> None:
    """The rest of the recipe's own pipelines must be what it was when the run began.

    Raises DataError.
    """
    trained = run_folder.recorded_inputs(recipe.run_dir / "distill")
    for name, digest in inputs.of_pipelines(recipe.distill).items():
        if trained.get(name, digest) != digest:
            raise DataError(
                f"{name}: its UNet, autoencoder, scheduler or index has changed since this run "
                "began; put the old files "
                "back, or give the folder by --assemble to take it as it is"
            )


def _check_sources(damaged: Path, again: Path) -> None:
    """What replaces a damaged export must have its files: they are hard links, so their source may
    be damaged too. Raises DataError.
    """
    old, new = (
        Verification.read(folder / VERIFICATION, "export it again").files
        for folder in (damaged, again)
    )
    for name in old.keys() & new.keys():
        if old[name] != new[name]:
            raise DataError(
                f"{damaged / name}: damaged, and so is what it was made from; fetch the SDXL "
                "folders again, then export again"
            )


def patterns(recipe: Recipe) -> tuple[list[str], list[str]]:
    """To fetch and not to fetch of a pipeline on the hub: everything but its text encoders, in the
    precisions asked for.
    """
    wanted = ["model_index.json", "LICENSE*", "scheduler/*.json", "feature_extractor/*.json"]
    wanted += [
        f"{part}/*.{kind}"
        for part in ("unet", "vae", "safety_checker")
        for kind in ("json", "safetensors")
    ]
    return wanted, [
        "*.non_ema.*",
        *(f"*.{one}.*" for one in ("fp16", "bf16") if one not in recipe.export.variants),
    ]


def publish(folder: Path, recipe: Recipe, repository: str, public: bool) -> None:
    """Brings the card up to date (the evaluation comes after the export), then uploads.

    Raises DataError.
    """
    stored = Verification.read(folder / VERIFICATION, "run distill.export again")
    model_card.write(folder, recipe, stored.made_from, repository)
    print(f"{folder}: uploaded to {upload(folder, repository, public)}")
