"""Base and refiner of the published sizes with random weights in fp16: what a rehearsal needs where
nothing can, or should, be downloaded.

In:  the published configs and CLIP's vocabulary (`distill/unpack/`).
Out: folders in diffusers layout, each whole or not at all.
"""

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from configs.errors import RecipeError
from configs.files import whole_folder, write_json
from configs.schema.recipe import Recipe
from configs.stored_weights import ENCODER_STEM
from distill.encoders.family import SDXL
from distill.encoders.tower import with_prefix
from distill.sdxl.base import family_of
from distill.sdxl.repository import STEMS
from distill.unpack import kinds, vocabulary
from distill.unpack.kinds import CheckpointKind

DEVIATION = 0.02  # as transformers starts a CLIP
# On a CPU a UNet call at the published 128 latents takes minutes; the weights are the same.
LATENTS_ON_A_CPU = 16


def folders(recipe: Recipe, work: Path) -> dict[str, Path]:
    """By the recipe's names, `base` and `refiner`: where `make` puts them."""
    parts = ["base"] + (["refiner"] if recipe.distill.refiner is not None else [])
    return {part: work / part for part in parts}


def make(recipe: Recipe, wanted: dict[str, Path]) -> None:
    """Those that are not there yet. Raises RecipeError for a base of no published size."""
    for part, folder in wanted.items():
        if not folder.is_dir():
            with whole_folder(folder) as partial:
                _write(_kind(recipe.distill.base, part), partial)


def _kind(base: str, part: str) -> CheckpointKind:
    if part == "refiner":
        return kinds.SDXL_REFINER
    family = family_of(base)
    if base not in family.published:
        raise RecipeError(
            f"--random-weights: the sizes of {base} are not published with this project; give a "
            "base by its name on the Hub, such as stabilityai/stable-diffusion-xl-base-1.0"
        )
    if family is SDXL:
        return kinds.SDXL_BASE
    return kinds.SD_2 if "stable-diffusion-2" in base else kinds.SD_1


def _write(kind: CheckpointKind, folder: Path) -> None:
    configs = kind.configs()
    if not torch.cuda.is_available():
        configs["unet/config.json"]["sample_size"] = LATENTS_ON_A_CPU
    for name, content in configs.items():
        path = folder / name
        if path.parent.name.startswith("tokenizer"):
            vocabulary.write(path.parent, content)
        else:
            path.parent.mkdir(exist_ok=True)
            write_json(path, content)
    generator = torch.Generator().manual_seed(0)
    for part, config in kind.part_configs().items():
        with torch.device("meta"):
            model = _model(part, config)
        tensors = {
            key: _random(key, tensor.shape, generator)
            for key, tensor in model.state_dict().items()
            if not key.endswith("position_ids")
        }
        if part.startswith("text_encoder"):
            tensors = {with_prefix(key): tensor for key, tensor in tensors.items()}
        stem = STEMS.get(part, ENCODER_STEM)
        save_file(tensors, folder / part / f"{stem}.safetensors", metadata={"format": "pt"})


def _model(part: str, config: dict[str, Any]) -> nn.Module:
    if part.startswith("text_encoder"):
        kind = (
            CLIPTextModelWithProjection
            if config["architectures"] == ["CLIPTextModelWithProjection"]
            else CLIPTextModel
        )
        model: nn.Module = kind(CLIPTextConfig(**config))
    else:
        model = {"unet": UNet2DConditionModel, "vae": AutoencoderKL}[part].from_config(config)
    return model


def _random(name: str, shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    """Norms and biases are neutral, the rest is normal."""
    tensor = torch.empty(shape, dtype=torch.float16)
    if name.endswith("bias"):
        return tensor.zero_()
    if "norm" in name:
        return tensor.fill_(1.0)
    return tensor.normal_(0.0, DEVIATION, generator=generator)
