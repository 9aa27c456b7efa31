"""Trains the stages of a recipe's `finetune` section, one after another.

In:  `<run>/pictures/`, `<run>/initial_student/`, the distilled student, the folder of
     `distill.base`; with an anchor what distilling reads too.
Out: `<run>/finetune/<stage>/`: checkpoints, metrics and status, as `<run>/distill/` has them.
"""

from typing import Any

from configs.errors import RecipeError
from configs.files import file_sha256
from configs.schema.distill import Distill, Objective, Ramp
from configs.schema.finetune import Finetune, FinetuneStage
from configs.schema.pace import Pace
from configs.schema.recipe import Recipe
from distill.checkpoints import checkpoint
from distill.encoders.family import Family
from distill.encoders.student import teacher_towers
from distill.encoders.teacher import load_text_encoders
from distill.parallel import engine, optimizers, processes
from distill.run import inputs, run_folder
from distill.sdxl.base import settled
from distill.train import loop, preparation
from finetune.pictures import pipeline
from finetune.pictures.store import FOLDER, PictureStore
from finetune.train import models
from finetune.train.task import PictureTask
from finetune.train.validation_pictures import ValidationPainter


class PictureMeter:
    """`loop.Meter`: the log's own rate of pictures says it all."""

    unit = "pictures"

    def count(self, step: int, seconds: float) -> None:
        pass

    def row(self) -> dict[str, float]:
        return {}


def train(recipe: Recipe, only: str | None = None) -> None:
    """Runs or resumes every stage, or `only` that one; every process of the launcher calls it.

    Raises what `distill.train` raises.
    """
    if recipe.finetune is None or recipe.pictures is None:
        missing = "pictures" if recipe.finetune else "finetune"
        raise RecipeError(
            f"{missing}: the recipe has no such section; docs/finetuning.md shows one"
        )
    names = list(recipe.finetune.stages)
    if only is not None and only not in names:
        raise RecipeError(
            f"--stage {only}: finetune.stages has no such stage; it has {', '.join(names)}"
        )
    with loop.process_group():
        for name in [only] if only else names:
            _train_stage(recipe, recipe.finetune, name)


def _train_stage(recipe: Recipe, settings: Finetune, name: str) -> None:
    stage, folder = settings.stages[name], models.stage_folder(recipe, name)
    with loop.session(folder, stage.hung_after_seconds, "finetune.train") as session:
        processes.first(lambda: _prepare(recipe, name, session))
        loop.train(
            session,
            stage,
            f"finetuning stage {name}",
            lambda: _load(recipe, name),
            lambda task: PictureMeter(),
        )


def _prepare(recipe: Recipe, name: str, session: loop.Session) -> None:
    """Rank 0 alone: claims the folder, and checks or makes what all processes load."""
    assert recipe.finetune is not None
    stage = recipe.finetune.stages[name]
    stage.check_processes(engine.world_size())
    optimizers.check_installed(stage.optimizer)
    recipe, family = settled(recipe)
    scope = _scope(recipe)
    session.hold("inputs", lambda: run_folder.claim_run(recipe, session.folder, scope))
    made_from = _inputs(recipe, family, name)
    run_folder.check_inputs(session.folder, made_from)
    if _is_anchored(recipe, stage):
        preparation.prepare(recipe, family)
    run_folder.record_inputs(recipe, session.folder, made_from, scope)


def _scope(recipe: Recipe) -> run_folder.Scope:
    """The sections a stage depends on; how a checkpoint is kept changes nothing of it."""
    assert recipe.finetune is not None
    harmless = [
        f"finetune.stages.{stage}.{key}"
        for stage in recipe.finetune.stages
        for key in run_folder.PACE
    ]
    return run_folder.Scope(("finetune", "pictures"), ("finetune.validation", *harmless))


def _inputs(recipe: Recipe, family: Family, name: str) -> dict[str, str]:
    """Digests of what the stage is made from. Raises DataError."""
    store = PictureStore(recipe.run_dir / FOLDER, checked=True)
    pipeline.check_current(recipe, store.manifest)
    start = models.start_of(recipe, name)
    found = {
        "the pictures": file_sha256(store.folder / "manifest.json"),
        "the initial student": inputs.initial_student(recipe.run_dir / "initial_student"),
        **inputs.of_pipelines(recipe.distill),
    }
    if start is not None:
        found["the weights it starts from"] = file_sha256(start / checkpoint.MANIFEST)
    return found


def _load(recipe: Recipe, name: str) -> tuple[PictureTask, str]:
    assert recipe.finetune is not None
    stage, validation = recipe.finetune.stages[name], recipe.finetune.validation
    recipe, family = settled(recipe)
    found = models.load(recipe, family, name)
    store = PictureStore(recipe.run_dir / FOLDER, checked=False)
    parameters = models.trained_parameters(found, stage)
    task = PictureTask(recipe, stage, found, parameters, store)
    if _is_anchored(recipe, stage):
        settings = anchor_settings(recipe.distill, stage)
        anchored = recipe.model_copy(update={"distill": settings})
        dtype = engine.weights_dtype(settings.precision)
        encoders = load_text_encoders(settings.base.path, family, settings.teacher, dtype)
        teacher, student = teacher_towers(encoders), found.towers
        task.anchor = preparation.work_of(anchored, encoders, teacher, student, task.engine, {})
    if validation is not None:
        task.painter = ValidationPainter(recipe, name, validation, found, task.engine)
    pictures = sum(store.buckets("train").values())
    return task, (
        f"{' and '.join(stage.trains)}{' by LoRA' if stage.lora else ''}: {pictures:,} pictures, "
        f"{stage.batch_size} a step"
    )


def _is_anchored(recipe: Recipe, stage: FinetuneStage) -> bool:
    assert recipe.finetune is not None
    return recipe.finetune.anchor > 0 and "text" in stage.trains


def anchor_settings(settings: Distill, stage: FinetuneStage) -> Distill:
    """The distillation beside a stage: at its pace, every schedule at its end."""
    ends = {name: _end(getattr(settings.objective, name)) for name in Objective.model_fields}
    pace = {name: getattr(stage, name) for name in Pace.model_fields}
    return settings.model_copy(
        update={
            **pace,
            "objective": settings.objective.model_copy(update=ends),
            "full_length_share": _end(settings.full_length_share),
        }
    )


def _end(value: Any) -> Any:
    return value.end if isinstance(value, Ramp) else value
