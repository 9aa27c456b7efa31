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

from corpora.miniature.design import OF_TOYWORLD, Design
from corpora.miniature.fit import DEVICE
from corpora.worlds import TOYWORLD, World

REFINER_FROM = 0.8  # as for SDXL: the refiner paints the last fifth
STEPS, GUIDANCE = 20, 2.0


@torch.inference_mode()
def measure(
    design: Design = OF_TOYWORLD, count: int = 256, batch: int = 32
) -> dict[str, dict[str, float]]:
    """Shares of held-out English captions painted with every attribute right (`scenes`), and of
    their things (`things`): by the base alone, and by base, then refiner.
    """
    base, refiner = (
        kind.from_pretrained(
            design.models / part, trust_remote_code=False, use_safetensors=True
        ).to(DEVICE, torch.float32)
        for kind, part in (
            (StableDiffusionXLPipeline, "base"),
            (StableDiffusionXLImg2ImgPipeline, "refiner"),
        )
    )
    for pipeline in (base, refiner):
        pipeline.set_progress_bar_config(disable=True)
    held_out = list(design.world.pairs(count, "held_out", 11))
    painted: dict[str, list[np.ndarray]] = {"base": [], "base_then_refiner": []}
    for start in tqdm(range(0, count, batch), desc="accuracy", unit="batch"):
        chunk = held_out[start : start + batch]
        shared: dict[str, Any] = {
            "prompt": [caption.en for caption in chunk],
            "num_inference_steps": STEPS,
            "guidance_scale": GUIDANCE,
        }
        noise = _noise(start, len(chunk))
        pictures = {"base": base(generator=noise, output_type="np", **shared).images}
        noise = _noise(start, len(chunk))
        latents = base(
            generator=noise, denoising_end=REFINER_FROM, output_type="latent", **shared
        ).images
        pictures["base_then_refiner"] = refiner(
            image=latents, denoising_start=REFINER_FROM, generator=noise, output_type="np", **shared
        ).images
        for name, values in pictures.items():
            painted[name].append(values)
    scenes = [caption.scene for caption in held_out]
    return {name: _shares(design.world, scenes, pictures) for name, pictures in painted.items()}


@torch.inference_mode()
def measure_sd(folder: Path, count: int = 256, batch: int = 32) -> float:
    """Share of held-out English captions that the miniature SD 1.x paints with every attribute
    right.
    """
    sd = StableDiffusionPipeline.from_pretrained(
        folder, trust_remote_code=False, use_safetensors=True
    )
    sd.set_progress_bar_config(disable=True)
    held_out = list(TOYWORLD.pairs(count, "held_out", 11))
    painted = []
    for start in tqdm(range(0, count, batch), desc="accuracy", unit="batch"):
        chunk = held_out[start : start + batch]
        pictures = sd(
            prompt=[caption.en for caption in chunk],
            generator=_noise(start, len(chunk)),
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            output_type="np",
        ).images
        painted.append(pictures)
    return _shares(TOYWORLD, [caption.scene for caption in held_out], painted)["scenes"]


def _shares(world: World, scenes: list[Any], painted: list[np.ndarray]) -> dict[str, float]:
    """`painted`: batches of (B, H, W, 3) in 0..1, the scenes in order."""
    return world.shares(scenes, (np.concatenate(painted) * 255).round().astype(np.uint8))


def _noise(start: int, count: int) -> list[torch.Generator]:
    """A generator a caption, by its number: the noise does not depend on the batch."""
    return [torch.Generator().manual_seed(start + index) for index in range(count)]
