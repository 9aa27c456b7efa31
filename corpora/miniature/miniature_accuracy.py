"""How often the miniatures paint what a held-out English caption says, through the stock
pipelines.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
)
from tqdm import tqdm

from configs.references import TOYWORLD_MODELS
from corpora.toyworld import captions, scene_reader

REFINER_FROM = 0.8  # as for SDXL: the refiner paints the last fifth
STEPS, GUIDANCE = 20, 2.0


@torch.inference_mode()
def measure(count: int = 256, batch: int = 32) -> dict[str, float]:
    """Share of held-out English captions painted with every attribute right: by the base alone, and
    by base, then refiner.
    """
    base = StableDiffusionXLPipeline.from_pretrained(
        TOYWORLD_MODELS / "base", trust_remote_code=False, use_safetensors=True
    )
    refiner = StableDiffusionXLImg2ImgPipeline.from_pretrained(
        TOYWORLD_MODELS / "refiner", trust_remote_code=False, use_safetensors=True
    )
    for pipeline in (base, refiner):
        pipeline.set_progress_bar_config(disable=True)
    held_out = list(captions.pairs(count, "held_out", 11))
    right: dict[str, list[bool]] = {"base": [], "base_then_refiner": []}
    for start in tqdm(range(0, count, batch), desc="accuracy", unit="batch"):
        chunk = held_out[start : start + batch]
        shared: dict[str, Any] = {
            "prompt": [caption.en for caption in chunk],
            "num_inference_steps": STEPS,
            "guidance_scale": GUIDANCE,
        }
        noise = [torch.Generator().manual_seed(start + index) for index in range(len(chunk))]
        pictures = {"base": base(generator=noise, output_type="np", **shared).images}
        noise = [torch.Generator().manual_seed(start + index) for index in range(len(chunk))]
        latents = base(
            generator=noise, denoising_end=REFINER_FROM, output_type="latent", **shared
        ).images
        pictures["base_then_refiner"] = refiner(
            image=latents, denoising_start=REFINER_FROM, generator=noise, output_type="np", **shared
        ).images
        for name, values in pictures.items():
            right[name] += _right(values, chunk)
    return {name: float(np.mean(values)) for name, values in right.items()}


@torch.inference_mode()
def measure_sd(folder: Path, count: int = 256, batch: int = 32) -> float:
    """Share of held-out English captions that the miniature SD 1.x paints with every attribute
    right.
    """
    sd = StableDiffusionPipeline.from_pretrained(
        folder, trust_remote_code=False, use_safetensors=True
    )
    sd.set_progress_bar_config(disable=True)
    held_out = list(captions.pairs(count, "held_out", 11))
    right: list[bool] = []
    for start in tqdm(range(0, count, batch), desc="accuracy", unit="batch"):
        chunk = held_out[start : start + batch]
        pictures = sd(
            prompt=[caption.en for caption in chunk],
            generator=[torch.Generator().manual_seed(start + index) for index in range(len(chunk))],
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            output_type="np",
        ).images
        right += _right(pictures, chunk)
    return float(np.mean(right))


def _right(pictures: np.ndarray, chunk: list[captions.Caption]) -> list[bool]:
    readings = scene_reader.read((pictures * 255).round().astype(np.uint8))
    return [
        scene_reader.matches(caption.scene, reading)
        for caption, reading in zip(chunk, readings, strict=True)
    ]
