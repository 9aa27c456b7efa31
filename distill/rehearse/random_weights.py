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

from configs import memory
from configs.errors import RecipeError
from configs.files import whole_folder, write_json
from configs.schema.recipe import Recipe
from configs.stored_weights import ENCODER_STEM
from distill.encoders.tower import with_prefix
from distill.sdxl.repository import STEMS
from distill.unpack import vocabulary
from distill.unpack.kinds import OF_REPOSITORY, CheckpointKind

DEVIATION = 0.02  # as transformers starts a CLIP
# On a CPU a UNet call at the published 128 latents takes minutes; the weights are the same.
LATENTS_ON_A_CPU = 8


def folders(recipe: Recipe, work: Path) -> dict[str, Path]:
    """By the recipe's names, `base` and `refiner`: where `make` puts them."""
    parts = ["base"] + (["refiner"] if recipe.distill.refiner is not None else [])
    return {part: work / part for part in parts}


def make(recipe: Recipe, wanted: dict[str, Path]) -> None:
    """Those that are not there yet. Raises RecipeError for a model of no published size."""
    named = {"base": recipe.distill.base, "refiner": recipe.distill.refiner}
    for part, folder in wanted.items():
        kind = OF_REPOSITORY.get(str(named[part]))
        if kind is None:
            raise RecipeError(
                f"--random-weights: the sizes of {named[part]} are not published with this "
                f"project; distill.{part} may be one of {', '.join(OF_REPOSITORY)}"
            )
        if not folder.is_dir():
            with whole_folder(folder) as partial:
                write(kind, partial)
            memory.give_back()  # the stages need it


def write(kind: CheckpointKind, folder: Path) -> None:
    """The whole folder of one model; `folder` is there and empty."""
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
