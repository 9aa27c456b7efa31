"""The cost of finetuning before it is spent: parameters, FLOP, memory and hours of each stage.

Reads a few JSON files; no model is loaded and no picture is opened.
"""

from dataclasses import replace
from typing import Any

import torch

from configs.errors import RecipeError
from configs.schema.finetune import Finetune, FinetuneStage
from configs.schema.recipe import Recipe
from distill.encoders.family import Family
from distill.parallel.optimizers import ADAMW_8BIT
from distill.plan import cost
from distill.plan.cost import Tower, flop_per_pair
from distill.plan.estimate import in_bytes, in_time
from distill.plan.shapes import read_config, student_vocabulary
from distill.sdxl.base import settled
from distill.tokens.prompts import POSITIONS
from finetune.train.models import TEXT_PROJECTIONS, is_trained, lora_projections
from finetune.train.unet_cost import UNetCost, count, unet_on_meta

PIXELS_A_LATENT = 8  # of every SD and SDXL; miniatures have fewer


def report(
    recipe: Recipe, only: str | None, gpus: int, tflops: float, utilisation: float
) -> list[str]:
    """The lines printed. Raises DataError, RecipeError."""
    settings = recipe.finetune
    if settings is None or recipe.pictures is None:
        raise RecipeError("finetune, pictures: the recipe lacks one; docs/finetuning.md shows both")
    at = f"at {recipe.pictures.resolution} pixels on {gpus} GPU{'s' if gpus > 1 else ''}"
    recipe, family = settled(recipe)
    lines = [f"{recipe.name}: finetuning {at}"]
    for name, stage in settings.stages.items():
        if only in (None, name):
            stage.check_processes(gpus)
            lines += _stage(recipe, family, settings, name, gpus, tflops, utilisation)
    return lines


def _stage(
    recipe: Recipe,
    family: Family,
    settings: Finetune,
    name: str,
    gpus: int,
    tflops: float,
    utilisation: float,
) -> list[str]:
    assert recipe.pictures is not None
    stage, base = settings.stages[name], recipe.distill.base
    text_is_trained = "text" in stage.trains
    towers = [Tower.of(read_config(base, part.subfolder), part) for part in family.parts.values()]
    vocabulary, _ = student_vocabulary(recipe)
    dtype = torch.bfloat16 if stage.precision == "bf16" else torch.float32
    unet = unet_on_meta(read_config(base, "unet"), dtype)
    lora = _choose(unet, stage)
    pixels = _pixels_a_latent(base)
    of_unet = count(
        unet, recipe.pictures.resolution // pixels, text_is_trained, settings.gradient_checkpointing
    )
    trained, frozen = _parameters(stage, towers, vocabulary, of_unet, lora)
    most = stage.pictures_per_micro_batch or stage.batch_size // gpus
    word = cost.word_bytes(stage.precision)
    kept = most * of_unet.kept
    if text_is_trained:
        kept += most * POSITIONS * sum(tower.kept_bytes(word) for tower in towers)
    block = most * of_unet.block
    eight_bit = stage.optimizer == ADAMW_8BIT
    state = cost.state_bytes(trained, frozen, stage, gpus, eight_bit)
    if lora:  # gradients of the changes cost next to nothing
        of_unet = replace(of_unet, weights=0.0)
    flop = _flop(of_unet, towers, text_is_trained, settings.gradient_checkpointing)
    seconds = stage.steps * stage.batch_size * flop / (gpus * tflops * 1e12)
    return [
        f"  stage {name}: {' and '.join(stage.trains)}{' by LoRA' if stage.lora else ''}, "
        f"{stage.steps:,} steps of {stage.batch_size:,} pictures",
        f"    parameters  {trained:,} trained, {frozen:,} frozen",
        f"    FLOP        {flop / 1e12:,.3g} TFLOP a picture (UNet forward "
        f"{of_unet.forward / 1e12:,.3g}); {stage.steps * stage.batch_size * flop:.3g} in all",
        f"    memory      {in_bytes(state + kept + block)} a GPU and temporaries: "
        f"{in_bytes(state)} of weights, gradients and optimizer under ZeRO-1, "
        f"{in_bytes(kept)} kept for the backward"
        + (f", {in_bytes(block)} of the block computed again" if block else "")
        + f" (micro-batches of {most})",
        f"    time        {in_time(seconds)}, {gpus * seconds / 3600:,.3g} GPU-hours at "
        f"{tflops:g} TFLOP/s: the floor; {in_time(seconds / utilisation)} at "
        f"{100 * utilisation:g} % of that, an assumption (--utilisation)",
    ]


def _choose(unet: Any, stage: FinetuneStage) -> int:
    """Marks what is trained of the UNet, or has changes by LoRA beside it; how many parameters
    these are.
    """
    if stage.lora is None:
        for name, one in unet.named_parameters():
            one.requires_grad_(is_trained(name, stage))
        return 0
    added = 0
    for name in lora_projections(unet, stage):
        module = unet.get_submodule(name)
        module.weight.requires_grad_(True)
        added += stage.lora.rank * (module.in_features + module.out_features)
    return added


def _parameters(
    stage: FinetuneStage, towers: list[Tower], vocabulary: int, unet: UNetCost, lora: int
) -> tuple[int, int]:
    """How many are trained, and how many are in memory beside them."""
    text = sum(tower.parameters(vocabulary) for tower in towers)
    if stage.lora is not None:
        # q, k, v and out of every layer: square, as wide as the encoder
        of_text = sum(
            stage.lora.rank * 2 * tower.width * len(TEXT_PROJECTIONS) * tower.layers
            for tower in towers
            if "text" in stage.trains
        )
        return lora + of_text, text + unet.parameters
    own = (
        sum(tower.trained_parameters(vocabulary) for tower in towers)
        if "text" in stage.trains
        else 0
    )
    return own + unet.trained, text + unet.parameters - own - unet.trained


def _flop(unet: UNetCost, towers: list[Tower], text_is_trained: bool, checkpointing: bool) -> float:
    """A picture's: the UNet's forward, gradients to its inputs and of its trained weights, what
    checkpointing computes again; and the text's.
    """
    text = flop_per_pair(towers, POSITIONS) / 4  # of teacher forward, student forward and backward
    passes = 2 + (1 if checkpointing else 0)
    of_unet = passes * unet.forward + unet.attention + unet.weights
    return of_unet + text * (3 if text_is_trained else 1)


def _pixels_a_latent(base: str) -> int:
    """By how much the autoencoder shrinks a picture; 8 where its config is not at hand."""
    try:
        channels = read_config(base, "vae")["block_out_channels"]
    except (KeyError, ValueError):
        return PIXELS_A_LATENT
    return int(2 ** (len(channels) - 1))
