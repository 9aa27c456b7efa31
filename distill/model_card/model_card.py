"""The model card of an exported repository: what it is, how it is used, how it was made, what was
measured, what it cannot do.
"""

import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from configs import pages, stage_times
from configs.errors import DataError
from configs.files import inside, read_json, whole
from configs.references import SINGLE_FILES, looks_like_hub_name
from configs.schema import yaml12
from configs.schema.recipe import Recipe
from configs.schema.sources import ToyworldSource, WorldSource
from corpora import pair
from distill.encoders.family import Family
from distill.model_card import evaluation, front_matter
from distill.model_card.evaluation import COMPARE, GENERATE, Pictures
from distill.run import run_folder
from distill.sdxl.repository import family_in
from distill.verify.record import (
    AGREEMENT,
    RETRAINED_BELOW,
    TEACHER_FILE,
    VERIFICATION,
    Verification,
)

TEMPLATE = "model_card.md.jinja"
OBJECTIVES = {
    "position": "each hidden state equals the teacher's at the same position",
    "cross_attention": "what the frozen UNets' cross-attention reads equals what it reads from the "
    "teacher",
    "random_attention": "what random attention layers read equals what they read from the teacher",
}
RECORDED = ("corpora.prepare", "vocab_init", "distill.train")
# What the first verification prompt of every language means.
PROMPT = "a white cat asleep by the window, watercolour, soft light"
# Toyworld's miniature knows nothing but coloured shapes.
TOYWORLD_PROMPT = (
    "白い背景に、大きい青い四角の左に小さい赤い丸がある",
    "on white, a small red circle to the left of a large blue square",
)

SPECIAL = re.compile(
    r"[\\`*\[\]<>#|~&$]|(?<![0-9A-Za-z])_|_(?![0-9A-Za-z])"
)  # Markdown's; an underscore inside a name means nothing to it


def write(
    folder: Path, recipe: Recipe, made_from: dict[str, str], repository: str | None = None
) -> None:
    """Writes the card of a verified folder; what says the same already is left alone.

    Raises DataError for a result that cannot be read.
    """
    trained = recipe.run_dir / "distill" / "config.yaml"
    if trained.is_file():  # what was trained, whatever overrides this command was given
        stored = run_folder.read_config(trained.parent)
        update = {name: getattr(stored, name) for name in run_folder.DISTILLING.sections}
        recipe = recipe.model_copy(update=update)
    pictures = measured_pictures(recipe, made_from)
    if pictures:
        (folder / "images").mkdir(exist_ok=True)
        shown = {"images/grid.png": "grid.png"} | {
            front_matter.picture_of(one.number): one.picture
            for one in pictures.examples[: front_matter.SHOWN]
        }
        for name, source in shown.items():
            _put(folder / name, inside(recipe.run_dir / "eval", source).read_bytes())
    _put(folder / "README.md", render(folder, recipe, made_from, pictures, repository).encode())


def render(
    folder: Path,
    recipe: Recipe,
    made_from: dict[str, str],
    pictures: Pictures | None,
    repository: str | None = None,
) -> str:
    """The card's text."""
    manifest = recipe.run_dir / "pairs" / pair.MANIFEST
    family = family_in(folder)
    kind, pipeline = kind_of(folder, family)
    toyworld = any(isinstance(source, ToyworldSource) for source in recipe.corpora.sources)
    names = repository_names(kind, recipe, made_from, repository)
    comparison = evaluation.states(recipe, made_from)
    return (
        _environment()
        .get_template(TEMPLATE)
        .render(
            front_matter=yaml12.write(
                front_matter.front_matter(
                    kind, pipeline, family, recipe, made_from, comparison, pictures
                )
            ),
            family=family,
            kind=kind,
            pipeline=pipeline,
            names=names,
            here=names.get(kind.upper()) or names["REPOSITORY"],
            named=repository is not None,
            recipe=recipe,
            made_from=made_from,
            toyworld=toyworld,
            source=_as_a_folder(made_from["teacher"]),
            retrained=float(made_from.get(AGREEMENT, 1)) < RETRAINED_BELOW,
            agreement=made_from.get(AGREEMENT),
            prompt=TOYWORLD_PROMPT
            if toyworld
            else (recipe.text_language.verification_prompts[0], PROMPT),
            language=recipe.text_language,
            # where the evaluation leaves the refiner out, the refiner's own card still needs a
            # place to take over
            handover=recipe.eval.denoising_end if recipe.eval.denoising_end < 1 else 0.8,
            settings=training_settings(folder, family, recipe, made_from),
            sources=[
                (one.kind, "Apache-2.0")
                if isinstance(one, WorldSource)
                else (one.name, one.licence)
                for one in recipe.corpora.sources
            ],
            manifest=pair.read_manifest(manifest.parent) if manifest.is_file() else None,
            comparison=comparison,
            seconds=_seconds(recipe),
            pictures=pictures,
            teachers_pictures=_is_recipes_own(recipe, made_from),
            teacher=public(recipe.distill.base),
            vocabulary=vocabulary_size(folder, family),
            verification=_verification(folder / VERIFICATION),
            commands={"compare": COMPARE, "generate": GENERATE},
        )
    )


def _as_a_folder(teacher: str) -> str:
    """What a snippet loads: of a single file the folder of its name that distill.unpack makes."""
    for ending in SINGLE_FILES:
        teacher = teacher.removesuffix(ending)
    return teacher.replace("toyworld:", "corpora/toyworld/models/")


def kind_of(folder: Path, family: Family) -> tuple[str, str]:
    """What the folder is (`base`, `refiner`, `encoders`, or another `pipeline`), and the diffusers
    class that loads it or takes its encoders.
    """
    text_to_image, image_to_image, *_ = family.pipelines
    if not (folder / "model_index.json").is_file():
        return "encoders", text_to_image
    index = read_json(folder / "model_index.json")
    pipeline = str(index.get("_class_name"))
    if pipeline == image_to_image and not index.get("text_encoder", [None])[0]:
        return "refiner", pipeline
    return "base" if pipeline == text_to_image else "pipeline", pipeline


def repository_names(
    kind: str, recipe: Recipe, made_from: dict[str, str], repository: str | None
) -> dict[str, str]:
    """By the snippet's variables: this repository, and the other half of an ensemble, which
    `--push` names alike. ORG/NAME where none is known.
    """
    ensemble = kind == "refiner" or (
        kind == "base" and recipe.distill.refiner and _is_recipes_own(recipe, made_from)
    )
    if not ensemble:
        return {"REPOSITORY": repository or "ORG/NAME"}
    stem = (repository or "ORG/NAME").removesuffix(f"-{kind}")
    names = {"BASE": f"{stem}-base", "REFINER": f"{stem}-refiner"}
    return names | ({kind.upper(): repository} if repository else {})


def training_settings(
    folder: Path, family: Family, recipe: Recipe, made_from: dict[str, str]
) -> list[tuple[str, str]]:
    """The recipe's table."""
    settings = recipe.distill
    teachers = [
        settings.base,
        *([settings.teacher] if settings.teacher else []),
        *([settings.refiner] if settings.refiner else []),
    ]
    return [
        ("teacher", ", ".join(map(public, teachers))),
        *(
            [("teacher's file, SHA-256", made_from[TEACHER_FILE])]
            if TEACHER_FILE in made_from
            else []
        ),
        (
            "objective",
            f"{settings.objective}: ; ".join(
                f"{name}: {text}"
                for name, text in OBJECTIVES.items()
                if settings.objective.uses(name)
            ),
        ),
        ("steps", f"{settings.steps:,}"),
        (
            "batch size",
            f"{settings.batch_size:,} pairs a step, {settings.english_share:.0%} of them English "
            "on both sides",
        ),
        (
            "learning rate",
            f"{settings.learning_rate:g}, {settings.warmup_steps:,} steps of warm-up, then a "
            "cosine to zero",
        ),
        ("precision", settings.precision),
        ("tokenizer", public(recipe.vocab_init.tokenizer)),
        ("vocabulary", f"{vocabulary_size(folder, family):,} rows, BOS and EOS the last two"),
        (
            "first embeddings",
            "each row takes the English token most similar to it by "
            f"{public(recipe.vocab_init.sentence_encoder)}",
        ),
        ("checkpoint", f"{made_from['checkpoint']} of recipe {made_from['recipe']}"),
        ("checkpoint's manifest, SHA-256", made_from["manifest_sha256"]),
    ]


def vocabulary_size(folder: Path, family: Family) -> int:
    path = folder / list(family.parts.values())[-1].subfolder / "config.json"
    found = read_json(path).get("vocab_size")
    if type(found) is not int:
        raise DataError(f"{path}: its vocab_size is {found!r}, no number; export again")
    return found


def measured_pictures(recipe: Recipe, made_from: dict[str, str]) -> Pictures | None:
    """None until this repository's own UNets have painted. Raises DataError."""
    return evaluation.pictures(recipe, made_from) if _is_recipes_own(recipe, made_from) else None


def public(reference: str) -> str:
    """A model as a reader may know it: hub names as they are, a path by its last two parts; never a
    home folder's name.
    """
    if reference.startswith("open_clip:"):
        model, slash, source = reference.partition("/")
        return f"{model}{slash}{Path(source).name}"
    if reference.startswith(("toyworld:", "emojiworld:")) or looks_like_hub_name(reference):
        return reference
    path = Path(reference)
    home = path.parent.parent.name in ("home", "Users") or path.parent.name in (
        "",
        Path.home().name,
    )
    return path.name if home else f"{path.parent.name}/{path.name}"


def write_all(recipe: Recipe) -> None:
    """The stage: the cards of all exported folders of the run. Raises DataError."""
    folder = recipe.run_dir / "export"
    exported = sorted(
        path for path in folder.glob(f"*/{VERIFICATION}") if not path.parent.name.startswith(".")
    )  # hidden: a killed run's
    if not exported:
        raise DataError(
            f"{folder}: nothing is exported yet; make it with: python -m distill.export RECIPE"
        )
    for path in exported:
        made_from = _verification(path).made_from
        if made_from.get("recipe") != recipe.name:
            raise DataError(
                f"{path}: made from the recipe {made_from.get('recipe')!r}, this one is "
                f"{recipe.name!r}; give the one it was made from"
            )
        write(path.parent, recipe, made_from)
        print(f"{path.parent / 'README.md'}: up to date")


def _seconds(recipe: Recipe) -> list[tuple[str, str]]:
    """How long the stages before the export took, as far as the run has recorded it: `h:mm:ss` by
    stage. Raises DataError.
    """
    path = recipe.run_dir / stage_times.FILE
    found = stage_times.read(path) if path.is_file() else {}
    return [
        (stage, str(timedelta(seconds=round(found[stage])))) for stage in RECORDED if stage in found
    ]


def _verification(path: Path) -> Verification:
    return Verification.read(path, "run distill.export again")


def _is_recipes_own(recipe: Recipe, made_from: dict[str, str]) -> bool:
    """Whether the rest of the pipeline is the recipe's teacher, not another pipeline the encoders
    were put into.
    """
    return any(
        made_from["teacher"] in (name, Path(name).name)
        for name in (recipe.distill.base, recipe.distill.refiner)
        if name
    )


def _put(path: Path, content: bytes) -> None:
    """An unchanged file keeps its time: evaluation tells by it that nothing is to be done again."""
    if not path.is_file() or path.read_bytes() != content:
        with whole(path) as temporary:
            temporary.write_bytes(content)


def _environment() -> jinja2.Environment:
    environment = pages.environment(
        Path(__file__).parent,
        finalize=_plain,  # before values are escaped: nothing is left to escape
        keep_trailing_newline=True,
    )
    environment.policies["json.dumps_kwargs"] = {
        "ensure_ascii": False
    }  # Japanese stays readable in the snippets
    environment.filters["code"] = lambda text: Markup(
        "`" + _one_line(text).replace("`", "'").replace("|", "\\|") + "`"
    )
    return environment


def _plain(value: Any) -> Any:
    """Every text that is put in stays text: captions come from the web, and a `|` or `<` would
    break the page.
    """
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return Markup(SPECIAL.sub(r"\\\g<0>", _one_line(value)))


def _one_line(text: str) -> str:
    return " ".join(text.splitlines())
