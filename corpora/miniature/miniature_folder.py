"""Writes the miniature SDXL in diffusers layout: fp16 on disk, with configs that load it as fp32.

Out: `base` and `refiner` among the models of its world.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL, ModelMixin, UNet2DConditionModel
from safetensors.torch import save_file

from configs.files import read_json, whole_folder, write_json
from corpora.miniature import miniature
from corpora.miniature.caption_reader import CaptionReader


def write_frozen_models(
    folder: Path, vae: AutoencoderKL, reader: CaptionReader, tokenizers: Path
) -> None:
    """Writes what the UNets are trained on: a base without its UNet, whole or not at all."""
    with whole_folder(folder) as partial:
        write_model(vae, partial / "vae")
        _write_text_encoders("base", partial, reader, tokenizers)


def write_folder(
    part: str,
    unet: UNet2DConditionModel,
    vae: AutoencoderKL,
    reader: CaptionReader,
    tokenizers: Path,
    models: Path,
) -> None:
    """Writes `<models>/<part>` in the place of what is there, whole or not at all."""
    with whole_folder(models / part, replace=True) as partial:
        write_model(unet, partial / "unet")
        write_model(vae, partial / "vae")
        _write_text_encoders(part, partial, reader, tokenizers)
        miniature.scheduler().save_pretrained(partial / "scheduler")
        index = json.dumps(_model_index(part), indent=2) + "\n"
        (partial / "model_index.json").write_text(index, encoding="utf-8")


def write_model(model: ModelMixin, folder: Path) -> None:
    """In half precision, without the path that it was loaded from."""
    model.half().save_pretrained(folder)
    model.float()
    config = read_json(folder / "config.json")
    config.pop("_name_or_path", None)
    write_json(folder / "config.json", config)


def _write_text_encoders(part: str, folder: Path, reader: CaptionReader, tokenizers: Path) -> None:
    encoders = {"text_encoder_2": reader.clip_bigg}
    if part == "base":
        encoders["text_encoder"] = reader.clip_l
    for name, encoder in encoders.items():
        write_text_encoder(encoder, folder / name)
        tokenizer = name.replace("text_encoder", "tokenizer")
        shutil.copytree(tokenizers / tokenizer, folder / tokenizer)


def _model_index(part: str) -> dict[str, Any]:
    pipeline = "StableDiffusionXLPipeline" if part == "base" else "StableDiffusionXLImg2ImgPipeline"
    classes: dict[str, Any] = {"_class_name": pipeline, "_diffusers_version": "0.35.0"}
    classes |= (
        {"force_zeros_for_empty_prompt": True}
        if part == "base"
        else {"force_zeros_for_empty_prompt": False, "requires_aesthetics_score": True}
    )
    classes |= {
        "scheduler": ["diffusers", "DDIMScheduler"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    classes |= {
        "text_encoder": ["transformers", "CLIPTextModel"] if part == "base" else [None, None],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
    }
    classes |= {
        "tokenizer": ["transformers", "CLIPTokenizer"] if part == "base" else [None, None],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
    }
    return classes


def write_text_encoder(encoder: Any, folder: Path) -> None:
    """Not by `save_pretrained`: transformers 5 omits the prefix `text_model.`, and transformers 4
    then loads random weights without an error.
    """
    folder.mkdir(parents=True)
    weights = {
        key: value.half().contiguous()
        for key, value in encoder.state_dict().items()
        if not key.endswith("position_ids")
    }
    prefixed = {
        key if key.startswith(("text_model.", "text_projection.")) else f"text_model.{key}": value
        for key, value in weights.items()
    }
    save_file(prefixed, folder / "model.safetensors", metadata={"format": "pt"})
    config = encoder.config.to_diff_dict() | {
        "architectures": [type(encoder).__name__],
        "model_type": "clip_text_model",
        "torch_dtype": "float32",
    }
    for noise in ("transformers_version", "dtype"):
        config.pop(noise, None)
    (folder / "config.json").write_text(
        json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8"
    )
