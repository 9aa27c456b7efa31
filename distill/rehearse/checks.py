"""Whether everything is there that a recipe needs, before the first stage: models, tokenizers,
licences, room on the disk. What can be told of several things is told of all at once.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

from configs.errors import DataError, one_line, outcome
from configs.references import looks_like_hub_name
from configs.schema.recipe import Recipe
from configs.schema.sources import FileSource
from distill.plan import estimate
from distill.plan.estimate import Counted, in_bytes
from distill.sdxl.base import settled
from distill.sdxl.repository import fetch
from distill.tokenizer import unigram

FILES = ["model_index.json", *(f"*/*.{kind}" for kind in ("json", "safetensors", "txt", "model"))]


def problems(recipe: Recipe, gpus: int) -> list[str]:
    """One line each; none where all is well. Hub names are downloaded here."""
    settings = recipe.distill
    wanted: list[Callable[[], object]] = [
        lambda: fetch(settings.base, FILES),
        lambda: settled(recipe),
        lambda: unigram.read(unigram.find(Path(recipe.vocab_init.tokenizer.path))),
        lambda: _model(recipe.vocab_init.sentence_encoder.path),
        lambda: _file(recipe.corpora.language_id.model.path, "corpora.language_id.model"),
        lambda: _room(recipe.run_dir, estimate.count(recipe, gpus)),
    ]
    if settings.refiner is not None:
        refiner = settings.refiner
        wanted.insert(1, lambda: fetch(refiner, FILES))
    found = [problem for one in wanted if (problem := _problem(one))]
    return found + [
        f"corpora.sources: {source.name} names no licence"
        for source in recipe.corpora.sources
        if isinstance(source, FileSource) and not source.licence.strip()
    ]


def _problem(check: Callable[[], object]) -> str | None:
    try:
        check()
    except Exception as error:
        known = outcome(error)
        if known is None:
            raise
        return one_line(known[1])
    return None


def _file(path: str, setting: str) -> None:
    if not Path(path).is_file():
        raise DataError(f"{setting}: {path} is not there; fetch it")


def _model(path: str) -> None:
    """A hub name is downloaded by the stage that needs it."""
    if not Path(path).is_dir() and not looks_like_hub_name(path):
        raise DataError(f"vocab_init.sentence_encoder: {path} is not there; fetch it")


def _room(run: Path, counted: Counted) -> None:
    needed, folder = estimate.disk(counted).total, run.absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DataError(
            f"run: {folder} has {in_bytes(free)} free, the whole run needs {in_bytes(needed)}; "
            "free some, or give run=ANOTHER_FOLDER"
        )
