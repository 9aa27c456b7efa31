"""What is measured of the teacher and of its UNets once, before training, on the GPU where there is
one.

Out: `<run>/distill/measured/`: `teacher_statistics.safetensors` and, for the objectives that need
     them, `random_attention.safetensors` and `query_bank.safetensors`, with a manifest that says
     what they were made from. Until all are there they lie in
     `measured.unfinished-<digest of the inputs>/`, where the same command goes on: at real size
     each takes minutes.
"""

import itertools
from collections.abc import Mapping
from pathlib import Path

from configs import artefact
from configs.files import publish, remove_unfinished, unfinished, value_sha256
from configs.schema.recipe import Recipe
from corpora.pair import read_pairs
from distill.encoders.family import Family
from distill.encoders.teacher import TextEncoders, load_text_encoders
from distill.objective import random_attention, recording, teacher_statistics
from distill.run.inputs import unet_folders
from distill.sdxl.pipelines import device

VARIANCE_PROMPTS = 64
MEASURED = "measured"
STATISTICS, QUERY_BANK, RANDOM_LAYERS = (
    "teacher_statistics.safetensors",
    "query_bank.safetensors",
    "random_attention.safetensors",
)


def measure(
    recipe: Recipe, family: Family, folder: Path, made_from: Mapping[str, str]
) -> TextEncoders:
    """Makes what is missing, then gives the folder its name; returns the teacher, on the CPU.

    Raises DataError.
    """
    work = unfinished(folder, value_sha256(dict(made_from)))
    remove_unfinished(folder, but=work)
    work.mkdir(parents=True, exist_ok=True)
    settings = recipe.distill
    teacher = load_text_encoders(settings.base.path, family, settings.teacher).to(device())
    _measure(recipe, family, teacher, work)
    artefact.seal(work, made_from)
    publish(work, folder)
    return teacher.to("cpu")


def _measure(recipe: Recipe, family: Family, teacher: TextEncoders, work: Path) -> None:
    settings, bank = recipe.distill, recipe.distill.query_bank
    count = max(settings.statistics_prompts, VARIANCE_PROMPTS, bank.prompts)
    pairs = itertools.islice(read_pairs(recipe.run_dir / "pairs", "train"), count)
    prompts = [pair.en for pair in pairs]
    if not (work / STATISTICS).is_file():
        teacher_statistics.record(
            work / STATISTICS, teacher, prompts[: settings.statistics_prompts]
        )
    if settings.objective.uses("random_attention") and not (work / RANDOM_LAYERS).is_file():
        random_attention.record(
            work / RANDOM_LAYERS,
            settings.random_attention,
            teacher_statistics.load(work / STATISTICS, family),
            teacher,
            prompts[:VARIANCE_PROMPTS],
            settings.seed,
        )
    if settings.objective.uses("cross_attention") and not (work / QUERY_BANK).is_file():
        recording.record(
            work / QUERY_BANK,
            unet_folders(settings),
            teacher,
            prompts[: bank.prompts],
            bank,
            settings.seed,
        )
