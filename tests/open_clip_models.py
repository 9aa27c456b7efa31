"""Tiny OpenCLIP models for tests: architectures of our own in open_clip's registry, as any user may
add them, and their checkpoints.

`tiny-bigG` has the sizes of the second encoder of conftest's `tiny_sdxl`, `tiny-L` those of its
first; the others differ in what they are called by.
"""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import open_clip
import torch
from conftest import CLIP_BIGG_WIDTH, CLIP_L_WIDTH, POOLED_WIDTH
from safetensors.torch import save_file

TEXT = {
    "context_length": 77,
    "vocab_size": 514,
    "width": CLIP_BIGG_WIDTH,
    "heads": 2,
    "layers": 3,
    "mlp_ratio": 2.0,
}
VISION = {"image_size": 16, "patch_size": 16, "layers": 1, "width": 8, "head_width": 4}
MODELS: dict[str, dict[str, Any]] = {
    "tiny-bigG": {"embed_dim": POOLED_WIDTH, "vision_cfg": VISION, "text_cfg": TEXT},
    "tiny-bigG-custom": {
        "embed_dim": POOLED_WIDTH,
        "vision_cfg": VISION,
        "text_cfg": TEXT,
        "custom_text": True,
    },
    "tiny-bigG-quickgelu": {
        "embed_dim": POOLED_WIDTH,
        "vision_cfg": VISION,
        "text_cfg": TEXT,
        "quick_gelu": True,
    },
    "tiny-bigG-last": {
        "embed_dim": POOLED_WIDTH,
        "vision_cfg": VISION,
        "text_cfg": TEXT | {"pool_type": "last"},
    },
    "tiny-L": {
        "embed_dim": CLIP_L_WIDTH,
        "vision_cfg": VISION,
        "text_cfg": TEXT | {"width": CLIP_L_WIDTH},
        "quick_gelu": True,
    },
    "tiny-deep": {
        "embed_dim": POOLED_WIDTH,
        "vision_cfg": VISION,
        "text_cfg": TEXT | {"layers": 4},
    },
    "tiny-wide": {
        "embed_dim": POOLED_WIDTH,
        "vision_cfg": VISION,
        "text_cfg": TEXT | {"width": 32},
    },
    "tiny-words": {
        "embed_dim": POOLED_WIDTH,
        "vision_cfg": VISION,
        "text_cfg": TEXT | {"vocab_size": 515},
    },
    "tiny-projection": {"embed_dim": 12, "vision_cfg": VISION, "text_cfg": TEXT},
}


def register() -> None:
    with TemporaryDirectory() as folder:
        for name, config in MODELS.items():
            (Path(folder) / f"{name}.json").write_text(json.dumps(config), encoding="utf-8")
        open_clip.add_model_config(folder)


def tiny_model(name: str) -> Any:
    """open_clip's own model with random weights, biases and norms included: none may be lost or
    confused.
    """
    model = open_clip.create_model(name).eval()
    generator = torch.Generator().manual_seed(len(name))
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(
                1 + 0.1 * noise if "ln_" in key and key.endswith("weight") else 0.2 * noise
            )
    return model


def checkpoint(folder: Path, name: str, kind: str = "safetensors") -> str:
    """Saves the model's weights; the reference that names them."""
    state = tiny_model(name).state_dict()
    path = folder / f"{name}.{kind}"
    if kind == "safetensors":
        save_file(state, path)
    else:  # as open_clip's training leaves it, on several GPUs
        torch.save(
            {
                "epoch": 3,
                "name": name,
                "state_dict": {f"module.{key}": tensor for key, tensor in state.items()},
            },
            path,
        )
    return f"open_clip:{name}/{path}"


def edit(path: Path, **values: object) -> None:
    """Changes a JSON file."""
    path.write_text(
        json.dumps(json.loads(path.read_text(encoding="utf-8")) | values), encoding="utf-8"
    )


register()
