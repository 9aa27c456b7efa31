"""Digests of all that a training is made from: pairs, initial student, and of the teacher what is
read of its folders.

In:  the run folder and the model folders (or hub names) of a recipe.
Out: SHA-256 digests by a name that a user knows.

Text encoders are read whole, so their files are digested whole (SDXL's: 3 GB, a few seconds). Of a
UNet (10 GB) training reads the projections of its cross-attention alone: they are digested, not the
file.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from configs import artefact, stored_weights
from configs.errors import DataError
from configs.files import file_sha256, value_sha256
from configs.schema.distill import INFLUENCE_CALLS, STATISTICS_PROMPTS, Distill
from configs.schema.recipe import Recipe
from corpora import pair
from distill.encoders.family import Family
from distill.encoders.teacher import replacement
from distill.objective.projections import Projections
from distill.sdxl.repository import fetch, fetch_parts
from distill.unpack import door

PAIRS = "the pairs"
INITIAL_STUDENT, STUDENT_TOKENIZER = "the initial student", "the student's tokenizer"
TEACHER_TOKENIZERS = "distill.base's tokenizers"
COMPOSED = "distill.composed_share"
RARE_WORDS = "distill.repeat_words_below"
OF_TOKENS = (PAIRS, STUDENT_TOKENIZER, TEACHER_TOKENIZERS, COMPOSED, RARE_WORDS)
REMAKE = "run python -m vocab_init with this recipe"
TO_READ = "neighbors.jsonl"  # for people; nothing is computed from it


def of_tokens(recipe: Recipe, family: Family) -> dict[str, str]:
    """What the ids of the training pairs depend on. Raises DataError."""
    return _of_tokens(recipe, family, initial_student_files(recipe.run_dir / "initial_student"))


def of_tokens_among(of_training: dict[str, str]) -> dict[str, str]:
    """`of_tokens`, from digests that are known."""
    return {name: of_training[name] for name in OF_TOKENS if name in of_training}


def _of_tokens(recipe: Recipe, family: Family, student: dict[str, str]) -> dict[str, str]:
    tokenizer = {name: digest for name, digest in student.items() if name.startswith("tokenizer/")}
    folder = fetch(recipe.distill.base, ["tokenizer*/*.json", "tokenizer*/*.txt"])
    files = [path for part in family.parts.values() for path in (folder / part.tokenizer).glob("*")]
    return {
        PAIRS: _pairs(recipe),
        STUDENT_TOKENIZER: value_sha256(tokenizer),
        TEACHER_TOKENIZERS: _files(folder, files),
        **_composed(recipe.distill),
        **({RARE_WORDS: "counted"} if recipe.distill.repeat_words_below else {}),
    }


def _composed(settings: Distill) -> dict[str, str]:
    """What decides which prompts are composed, where any are."""
    drawn = [settings.composed_share, settings.seed]
    return {COMPOSED: value_sha256(drawn)} if settings.composed_share else {}


def of_training(recipe: Recipe, family: Family) -> dict[str, str]:
    """All that a run is made from. Raises DataError."""
    settings = recipe.distill
    student = initial_student_files(recipe.run_dir / "initial_student")
    return {
        **_of_tokens(recipe, family, student),
        **_text_encoders(settings, family),
        **_unets(settings),
        **_single_files(settings),
        "the settings of distill": value_sha256(_measuring(settings)),
        INITIAL_STUDENT: _whole(student),
    }


def of_measurements(of_training: dict[str, str]) -> dict[str, str]:
    """Those of them that the statistics, the query bank and the random layers depend on: all but
    the student.
    """
    return {
        name: digest
        for name, digest in of_training.items()
        if name not in (INITIAL_STUDENT, STUDENT_TOKENIZER, COMPOSED)
    }


def of_pipelines(settings: Distill) -> dict[str, str]:
    """What an export links and training does not read whole: UNet, autoencoder, scheduler and index
    of base and refiner.

    Tens of GB at SDXL's size, so it is digested once, when a run begins. Of local folders alone:
    the hub's have digests of their own.
    """
    references = {"distill.base": settings.base, "distill.refiner": settings.refiner}
    folders = {name: Path(one.path) for name, one in references.items() if one is not None}
    return {
        f"the pipeline of {name}": _pipeline(folder)
        for name, folder in folders.items()
        if folder.is_dir()
    }


def initial_student(folder: Path) -> str:
    """The digest of a whole initial student. Raises DataError for a missing or damaged one."""
    return _whole(initial_student_files(folder))


def _whole(student: dict[str, str]) -> str:
    return value_sha256({name: digest for name, digest in student.items() if name != TO_READ})


def initial_student_files(folder: Path) -> dict[str, str]:
    """Every file's digest, compared with its manifest. Raises DataError."""
    if not folder.is_dir():
        raise DataError(f"{folder}: missing; {REMAKE} first")
    return artefact.read(folder, REMAKE).files


def unet_folders(settings: Distill) -> dict[str, str]:
    """`Distill.unets` as folders (or hub names)."""
    return {name: folder.path for name, folder in settings.unets.items()}


def _pairs(recipe: Recipe) -> str:
    manifest = recipe.run_dir / "pairs" / pair.MANIFEST
    if not manifest.is_file():
        raise DataError(
            f"{manifest}: missing; run python -m corpora.prepare with this recipe first"
        )
    return file_sha256(manifest)


def _measuring(settings: Distill) -> dict[str, Any]:
    """The settings that shape what is measured of the teacher."""
    shaping: dict[str, Any] = {"seed": settings.seed}
    # Not by default: runs that are older than the setting go on.
    if settings.statistics_prompts != STATISTICS_PROMPTS:
        shaping["statistics_prompts"] = settings.statistics_prompts
    if settings.objective.uses("cross_attention"):
        names = {"prompts", "inference_steps", "queries_per_layer", "unets"}
        if settings.query_bank.influence_calls != INFLUENCE_CALLS:  # as above
            names |= {"influence_calls"}
        shaping["query_bank"] = settings.query_bank.model_dump(include=names)
    if settings.objective.uses("random_attention"):
        names = {"layers", "heads", "head_width"}
        shaping["random_attention"] = settings.random_attention.model_dump(include=names)
    return shaping


def _text_encoders(settings: Distill, family: Family) -> dict[str, str]:
    folder = fetch_parts(settings.base, [part.subfolder for part in family.parts.values()])
    replaced = replacement(folder, family, settings.teacher)
    read = [part.subfolder for name, part in family.parts.items() if name not in replaced]
    files = [path for encoder in read for path in stored_weights.find(folder / encoder).read]
    checkpoints = [
        file_sha256(weights.path) for weights in replaced.values()
    ]  # of one encoder at most
    return {
        "distill.base's text encoders": _files(folder, files),
        **({"distill.teacher": checkpoints[0]} if checkpoints else {}),
    }


def _unets(settings: Distill) -> dict[str, str]:
    """By UNet, where the objective reads them."""
    if not settings.objective.uses("cross_attention"):
        return {}
    return {
        f"the UNet of {_setting_of(unet)}": Projections(folder).sha256()
        for unet, folder in unet_folders(settings).items()
    }


def _single_files(settings: Distill) -> dict[str, str]:
    """Of the pipelines that were unpacked from one file, that file's."""
    found = {unet: door.sha256_of_source(path) for unet, path in unet_folders(settings).items()}
    return {f"the file of {_setting_of(unet)}": one for unet, one in found.items() if one}


def _setting_of(unet: str) -> str:
    """The recipe's setting that names the pipeline of a UNet."""
    names = {"base": "distill.base", "refiner": "distill.refiner"}
    return names.get(unet, f"distill.query_bank.unets.{unet}")


def _pipeline(folder: Path) -> str:
    files = [
        path for part in ("unet", "vae", "scheduler") for path in sorted((folder / part).glob("*"))
    ]
    return _files(
        folder,
        [
            folder / "model_index.json",
            *(path for path in files if path.suffix in (".json", ".safetensors")),
        ],
    )


def _files(folder: Path, files: Iterable[Path]) -> str:
    return value_sha256(
        {path.relative_to(folder).as_posix(): file_sha256(path) for path in files if path.is_file()}
    )
