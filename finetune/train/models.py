"""What finetuning runs and what it trains: the student's towers and the UNet of `distill.base`.

In:  the folders of the base; `<run>/initial_student/`; the student's weights or those of the stage
     before.
Out: `Models`; `Bundle`, the module of the parameters that a stage trains.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig, inject_adapter_in_model
from safetensors import safe_open
from torch import nn

from configs import model_folder
from configs.errors import DataError, explained
from configs.files import read_json
from configs.schema.finetune import FinetuneStage, Lora
from configs.schema.recipe import Recipe
from configs.stored_weights import DIFFUSERS_STEM, variant_of
from distill.checkpoints import checkpoint
from distill.checkpoints.saved_state import STUDENT
from distill.encoders.family import Family
from distill.encoders.student import Towers, initial_student
from distill.encoders.teacher import TextEncoders, load_text_encoders
from distill.sdxl.pipelines import quiet
from distill.sdxl.repository import fetch_parts, read_index
from distill.tokenizer.portable import load as load_tokenizer

UNET = "unet"
CROSS_ATTENTION = ".attn2."  # diffusers' name of the attention that reads the text
# The projections that LoRA changes: as in diffusers' and kohya's own training.
UNET_PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")
TEXT_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")


@dataclass(frozen=True)
class Models:
    """`scheduler`: its config. `zeros`: whether pipelines of the base say "no negative prompt" by
    zeros (`force_zeros_for_empty_prompt`), not by the encoded empty prompt.
    """

    family: Family
    towers: Towers
    unet: Any
    text: TextEncoders  # the student's tokenizer; no models
    scheduler: dict[str, Any]
    zeros: bool


def stage_folder(recipe: Recipe, stage: str) -> Path:
    return recipe.run_dir / "finetune" / stage


def start_of(recipe: Recipe, stage: str) -> Path | None:
    """The newest checkpoint that the stage starts from, its weights whole; None where the first
    stage starts from no checkpoint. Raises DataError.
    """
    assert recipe.finetune is not None
    names = list(recipe.finetune.stages)
    place = names.index(stage)
    if place == 0 and recipe.finetune.start != "export":
        return None
    folder = recipe.run_dir / "distill" if place == 0 else stage_folder(recipe, names[place - 1])
    steps = recipe.distill.steps if place == 0 else recipe.finetune.stages[names[place - 1]].steps
    newest = checkpoint.newest(folder, [STUDENT])
    if newest is None or newest.name != f"step_{steps:06d}":
        program = "distill.train" if place == 0 else f"finetune.train --stage {names[place - 1]}"
        raise DataError(f"{folder}: is not finished; run python -m {program} first")
    return newest


def starts_of(recipe: Recipe, stage: str) -> list[Path]:
    """Every checkpoint whose weights the stage starts from, the oldest first: each holds only what
    its own stage trained. Raises DataError.
    """
    assert recipe.finetune is not None
    names = list(recipe.finetune.stages)
    found = [start_of(recipe, name) for name in names[: names.index(stage) + 1]]
    return [one for one in found if one is not None]


def load(recipe: Recipe, family: Family, stage: str) -> Models:
    """What the stage starts from. Raises DataError."""
    assert recipe.finetune is not None
    quiet()
    settings = recipe.distill
    encoders = load_text_encoders(settings.base.path, family, settings.teacher)
    initial = recipe.run_dir / "initial_student"
    towers = initial_student(encoders, initial)
    root = fetch_parts(settings.base, ["unet", "scheduler"])
    model_folder.check(root)
    with explained(f"{root}: its unet cannot be loaded", "fetch the folder again"):
        unet = UNet2DConditionModel.from_pretrained(
            root / UNET,
            variant=variant_of(root / UNET, DIFFUSERS_STEM),
            trust_remote_code=False,
            use_safetensors=True,
        )
    unet.float().requires_grad_(False)
    if recipe.finetune.start == "random":
        first = next(iter(recipe.finetune.stages.values()))
        for part in family.parts:
            reset(towers[part], first.seed)
    for start in starts_of(recipe, stage):
        overlay(start / STUDENT, towers, unet)
    tokenizer = load_tokenizer(initial / "tokenizer")
    return Models(
        family=family,
        towers=towers,
        unet=unet,
        text=TextEncoders(family, dict.fromkeys(family.parts, tokenizer), {}),
        scheduler=read_json(root / "scheduler" / "scheduler_config.json"),
        zeros=bool(read_index(root).get("force_zeros_for_empty_prompt", False)),
    )


@torch.no_grad()
def overlay(weights: Path, towers: Towers, unet: nn.Module) -> None:
    """Sets the parameters that a checkpoint holds; its names begin with a part's, or with `unet`.

    Raises DataError for a name or a shape that the models do not have.
    """
    own = dict(towers.named_parameters())
    own |= {f"{UNET}.{name}": value for name, value in unet.named_parameters()}
    with safe_open(weights, "pt") as file:
        for name in file.keys():  # noqa: SIM118 (safe_open is no mapping)
            tensor = file.get_tensor(name)
            if name not in own or own[name].shape != tensor.shape:
                raise DataError(
                    f"{weights}: {name} of shape {tuple(tensor.shape)} fits neither this base's "
                    "text encoders nor its UNet; give the recipe it was trained with"
                )
            own[name].copy_(tensor)


def reset(tower: nn.Module, seed: int) -> None:
    """Random weights: normal of deviation 0.02, norms and biases neutral, as transformers starts a
    CLIP at `initializer_range`.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in tower.named_parameters():
        with torch.no_grad():
            if "norm" in name:
                parameter.fill_(1.0 if name.endswith("weight") else 0.0)
            elif name.endswith("bias"):
                parameter.zero_()
            else:
                parameter.normal_(0.0, 0.02, generator=generator)


def trained_parameters(models: Models, stage: FinetuneStage) -> dict[str, nn.Parameter]:
    """What a checkpoint of the stage holds, by name; those that receive no gradient are frozen.

    With LoRA the models are given adapters, and only these are trained.
    """
    text = "text" in stage.trains
    models.towers.requires_grad_(text and stage.lora is None)
    if text and stage.lora is not None:
        inject_adapter_in_model(_lora(stage.lora, TEXT_PROJECTIONS), models.towers)
    for part in models.family.parts:
        for parameter in models.towers[part].dead_parameters():
            parameter.requires_grad_(False)
    if stage.lora is not None:
        if projections := lora_projections(models.unet, stage):
            models.unet.add_adapter(_lora(stage.lora, tuple(projections)))
        both = [*models.towers.named_parameters()] + [
            (f"{UNET}.{name}", value) for name, value in models.unet.named_parameters()
        ]
        return {name: value for name, value in both if value.requires_grad}
    found: dict[str, nn.Parameter] = dict(models.towers.named_parameters()) if text else {}
    for name, parameter in models.unet.named_parameters():
        if is_trained(name, stage):
            parameter.requires_grad_(True)
            found[f"{UNET}.{name}"] = parameter
    return found


def is_trained(name: str, stage: FinetuneStage) -> bool:
    """Whether the stage trains this parameter, or module, of the UNet."""
    return UNET in stage.trains or (
        "cross_attention" in stage.trains and CROSS_ATTENTION in f".{name}"
    )


def lora_projections(unet: Any, stage: FinetuneStage) -> list[str]:
    """The modules of the UNet that a stage by LoRA changes."""
    return [
        name
        for name, _ in unet.named_modules()
        if ".attn" in name and name.endswith(UNET_PROJECTIONS) and is_trained(name, stage)
    ]


def _lora(lora: Lora, targets: tuple[str, ...]) -> LoraConfig:
    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.effective_alpha,
        target_modules=list(targets),
        init_lora_weights="gaussian",
    )


class Bundle(nn.Module):
    """The trained parameters of several models under their names, as one module for the engine;
    what it computes is `compute`'s. What is frozen is none of its own, so that the engine neither
    shards nor saves it.
    """

    def __init__(self, parameters: dict[str, nn.Parameter], compute: Callable[..., Any]) -> None:
        super().__init__()
        self._compute = compute
        for name, parameter in parameters.items():
            *path, last = name.split(".")
            holder: nn.Module = self
            for one in path:
                if one not in holder._modules:
                    holder.add_module(one, nn.Module())
                holder = holder.get_submodule(one)
            holder.register_parameter(last, parameter)

    def forward(self, *inputs: Any) -> Any:
        return self._compute(*inputs)
