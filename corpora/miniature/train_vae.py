"""Trains a miniature's autoencoder: a world's pictures to 4 x 16 x 16 latents and back, without
losing an attribute.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL

from corpora.miniature import miniature
from corpora.miniature.design import Design
from corpora.miniature.fit import DEVICE, batch_of, fit, pictures_of
from corpora.worlds import TOYWORLD, World


def train(work: Path, design: Design) -> AutoencoderKL:
    """Trains one from scratch, or from where it stopped."""
    torch.manual_seed(0)
    world = design.world
    model = miniature.vae(world.side, design.vae_widths)

    def loss(step: int) -> torch.Tensor:
        pictures = pictures_of(batch_of("vae", step, design.vae_batch, world)[0], step, world)
        with torch.autocast(DEVICE.type, torch.bfloat16):
            posterior = model.encode(pictures).latent_dist
            decoded = model.decode(posterior.sample()).sample.float()
        error = decoded - pictures
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        return error.square().mean() + 0.3 * error.abs().mean() + 1e-5 * kl

    fit(design.stages["vae"], model, loss, work)
    _normalize_latents(model, world)
    return model


def load(folder: Path) -> AutoencoderKL:
    """A finished one, frozen, on `DEVICE`."""
    model = AutoencoderKL.from_pretrained(
        folder, torch_dtype=torch.float32, trust_remote_code=False, use_safetensors=True
    )
    return model.to(DEVICE).eval().requires_grad_(False)


@torch.no_grad()
def _normalize_latents(model: AutoencoderKL, world: World) -> None:
    """Writes the latents' mean and standard deviation per channel into the config, where SDXL's
    pipelines look for them.
    """
    latents = model.encode(
        pictures_of(batch_of("latents", 0, 512, world)[0], 0, world)
    ).latent_dist.mean
    mean, std = latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3))
    model.register_to_config(latents_mean=mean.tolist(), latents_std=std.tolist())


@torch.no_grad()
def encode(model: AutoencoderKL, pictures: torch.Tensor) -> torch.Tensor:
    """(B, 3, H, W) pictures to (B, 4, 16, 16) latents of mean 0 and deviation 1 per channel, as
    the pipelines scale them.
    """
    mean, std = (
        torch.tensor(one, device=pictures.device).view(1, -1, 1, 1)
        for one in (model.config.latents_mean, model.config.latents_std)
    )
    return (model.encode(pictures).latent_dist.sample() - mean) / std


@torch.no_grad()
def accuracy(model: AutoencoderKL, count: int = 512, world: World = TOYWORLD) -> float:
    """Share of held-out pictures that read the same after encoding and decoding."""
    scenes = [caption.scene for caption in world.pairs(count, "held_out", 7)]
    return world.shares(scenes, round_trip(model, scenes, world))["scenes"]


@torch.no_grad()
def round_trip(model: AutoencoderKL, scenes: list[Any], world: World) -> np.ndarray:
    """(N, H, W, 3) uint8: the scenes' pictures encoded and decoded."""
    decoded = model.decode(model.encode(pictures_of(scenes, 0, world)).latent_dist.mean).sample
    pixels = ((decoded.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1)
    return np.asarray(pixels.cpu())
