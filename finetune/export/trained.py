"""What a stage of finetuning left: its newest checkpoint, the settings it was trained with, and its
models with everything that was learnt.

In:  `<run>/finetune/<stage>/`, the checkpoints of what it started from, the folder of
     `distill.base`.
Out: `TrainedStage`; models in memory; text encoders on disk.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from configs.errors import DataError, RecipeError
from configs.files import file_sha256
from configs.schema.finetune import FinetuneStage, Lora
from configs.schema.load import load_recipe
from configs.schema.recipe import Recipe
from distill.checkpoints import checkpoint
from distill.checkpoints.saved_state import STUDENT
from distill.encoders.family import Family
from distill.export import pipeline_folder
from distill.export.exporting import public_name
from distill.run import inputs, run_folder
from distill.sdxl.base import settled
from distill.sdxl.repository import INDEX, fetch, tensor_shapes
from finetune.train import models
from finetune.train.models import UNET, Models

DOWN, UP = ".lora_A.default.weight", ".lora_B.default.weight"  # peft's names in a checkpoint
STARTS = "the weights it starts from"  # as the stage's record calls them


@dataclass(frozen=True)
class TrainedStage:
    """`recipe`: with the sections that the stage was trained with. `checkpoint`: its newest.
    `starts`: those it started from, the oldest first.
    """

    recipe: Recipe
    family: Family
    name: str
    checkpoint: Path
    starts: list[Path]

    @property
    def folder(self) -> Path:
        return models.stage_folder(self.recipe, self.name)

    @property
    def stage(self) -> FinetuneStage:
        assert self.recipe.finetune is not None
        return self.recipe.finetune.stages[self.name]

    @property
    def weights(self) -> Path:
        return self.checkpoint / STUDENT

    @property
    def made_from(self) -> dict[str, str]:
        """What an export records; the checkpoint's manifest holds the digest of its weights."""
        return {
            "recipe": self.recipe.name,
            "stage": self.name,
            "checkpoint": self.checkpoint.name,
            "manifest_sha256": file_sha256(self.checkpoint / checkpoint.MANIFEST),
            "teacher": public_name(self.recipe.distill.base),
        }

    @property
    def changes_unet(self) -> bool:
        """Whether this stage or one before it trained the UNet or its cross-attention."""
        files = [*(start / STUDENT for start in self.starts), self.weights]
        return any(name.startswith(f"{UNET}.") for file in files for name in tensor_shapes(file))


def find(recipe: Recipe, stage: str | None) -> TrainedStage:
    """The stage, or the last one that has a checkpoint.

    Raises RecipeError for a stage that the recipe has not, DataError where nothing is trained.
    """
    if recipe.finetune is None:
        raise RecipeError(
            "finetune: the recipe has no such section; docs/finetuning.md shows one, and "
            "distill.export exports what was distilled"
        )
    names = list(recipe.finetune.stages)
    if stage is not None and stage not in names:
        raise RecipeError(
            f"--stage {stage}: finetune.stages has no such stage; it has {', '.join(names)}"
        )
    for name in [stage] if stage else reversed(names):
        newest = checkpoint.newest(models.stage_folder(recipe, name), [STUDENT])
        if newest is not None:
            recipe = _as_trained(recipe, name)
            recipe, family = settled(recipe)
            return TrainedStage(recipe, family, name, newest, models.starts_of(recipe, name))
    where = models.stage_folder(recipe, stage) if stage else recipe.run_dir / "finetune"
    raise DataError(f"{where}: there is no finished checkpoint; run finetune.train first")


def _as_trained(recipe: Recipe, stage: str) -> Recipe:
    """With the sections that the stage was trained with, whatever this command was given: the
    weights alone do not say what `alpha` was.
    """
    path = models.stage_folder(recipe, stage) / run_folder.CONFIG
    if not path.is_file():
        raise DataError(f"{path}: missing; run finetune.train with the run's recipe again")
    stored = load_recipe(path)
    if stored.finetune is None or stage not in stored.finetune.stages:
        raise DataError(f"{path}: has no finetune.stages.{stage}; put the stage's own file back")
    return recipe.model_copy(update={"finetune": stored.finetune, "pictures": stored.pictures})


def check_inputs(found: TrainedStage) -> None:
    """What is read beside the checkpoint must be what it was when the stage began.

    Raises DataError.
    """
    recipe = found.recipe
    now = {
        "the initial student": inputs.initial_student(recipe.run_dir / "initial_student"),
        **inputs.of_pipelines(recipe.distill),
    }
    assert recipe.finetune is not None
    names = list(recipe.finetune.stages)
    for stage in names[: names.index(found.name) + 1]:
        start, folder = models.start_of(recipe, stage), models.stage_folder(recipe, stage)
        weights = {STARTS: file_sha256(start / checkpoint.MANIFEST)} if start else {}
        recorded = run_folder.recorded_inputs(folder)
        for name, digest in {**now, **weights}.items():
            if recorded.get(name, digest) != digest:
                what = "have" if name == STARTS else "has"
                raise DataError(
                    f"{folder}: {name} {what} changed since this stage began; put the old files "
                    "back, or train again with run=ANOTHER_FOLDER"
                )


@torch.no_grad()
def load(found: TrainedStage) -> Models:
    """The models in fp32 with what the stage learnt: its weights, or its changes merged.

    Raises DataError.
    """
    loaded = models.load(found.recipe, found.family, found.name)
    lora = found.stage.lora
    if lora is None:
        models.overlay(found.weights, loaded.towers, loaded.unet)
        return loaded
    own = dict(loaded.towers.named_parameters())
    own |= {f"{UNET}.{name}": value for name, value in loaded.unet.named_parameters()}
    for module, change in changes(found.weights, lora):
        weight = own.get(f"{module}.weight")
        if weight is None or weight.shape != change.shape:
            raise DataError(
                f"{found.weights}: its change of {module} fits no weight of this base; give the "
                "recipe it was trained with"
            )
        weight.add_(change.delta)
    return loaded


@dataclass(frozen=True)
class Change:
    """Of one projection: `down` (R, I), `up` (O, R), and what their product is multiplied by."""

    down: torch.Tensor
    up: torch.Tensor
    scale: float

    @property
    def shape(self) -> tuple[int, int]:
        return self.up.shape[0], self.down.shape[1]

    @property
    def delta(self) -> torch.Tensor:
        return self.scale * (self.up @ self.down)


def changes(weights: Path, lora: Lora) -> Iterator[tuple[str, Change]]:
    """By the name of the changed module: `clip_l.text_model…q_proj`, `unet.down_blocks…to_q`.

    Raises DataError for a file that holds anything else, or another rank.
    """
    shapes = tensor_shapes(weights)
    modules = sorted({name.removesuffix(DOWN).removesuffix(UP) for name in shapes})
    with safe_open(weights, "pt") as file:
        for module in modules:
            down, up = shapes.get(f"{module}{DOWN}"), shapes.get(f"{module}{UP}")
            if not down or not up or down[0] != lora.rank or up[1] != lora.rank:
                raise DataError(
                    f"{weights}: {module} has no changes of rank {lora.rank}; give the recipe it "
                    "was trained with"
                )
            yield (
                module,
                Change(
                    file.get_tensor(f"{module}{DOWN}"),
                    file.get_tensor(f"{module}{UP}"),
                    lora.effective_alpha / lora.rank,
                ),
            )


def write_encoders(folder: Path, found: TrainedStage, loaded: Models) -> None:
    """The text encoders and tokenizers, as `distill.export` writes them. `folder` is made.

    Raises DataError.
    """
    folder.mkdir()
    student = folder / STUDENT
    save_file(_contiguous(dict(loaded.towers.named_parameters())), student)
    configs = fetch(found.recipe.distill.base, [INDEX, "text_encoder*/config.json"])
    tokenizer = found.recipe.run_dir / "initial_student" / "tokenizer"
    pipeline_folder.write_encoders(
        folder,
        pipeline_folder.Student(student, tokenizer),
        configs,
        found.family,
        tuple(found.recipe.export.variants),
    )
    student.unlink()


def _contiguous(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
