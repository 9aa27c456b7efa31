"""Trains the miniature's autoencoder: 32 x 32 pictures to 4 x 16 x 16 latents and back, without
losing an attribute.
"""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL

from corpora.miniature import miniature
from corpora.miniature.fit import TrainingStage, batch_of, fit, pictures_of
from corpora.toyworld import captions, scene_reader

STAGE = TrainingStage("vae", 2200, 2e-3)


def train(work: Path) -> AutoencoderKL:
    torch.manual_seed(0)
    model = miniature.vae()

    def loss(step: int) -> torch.Tensor:
        pictures = pictures_of(batch_of("vae", step)[0], step)
        with torch.autocast("cpu", torch.bfloat16):
            posterior = model.encode(pictures).latent_dist
            decoded = model.decode(posterior.sample()).sample.float()
        error = decoded - pictures
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        return error.square().mean() + 0.3 * error.abs().mean() + 1e-5 * kl

    fit(STAGE, model, loss, work)
    _normalize_latents(model)
    return model


@torch.no_grad()
def _normalize_latents(model: AutoencoderKL) -> None:
    """Writes the latents' mean and standard deviation per channel into the config, where SDXL's
    pipelines look for them.
    """
    latents = model.encode(pictures_of(batch_of("latents", 0, 512)[0], 0)).latent_dist.mean
    mean, std = latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3))
    model.register_to_config(latents_mean=mean.tolist(), latents_std=std.tolist())


@torch.no_grad()
def encode(model: AutoencoderKL, pictures: torch.Tensor) -> torch.Tensor:
    """(B, 3, 32, 32) pictures to (B, 4, 16, 16) latents of mean 0 and deviation 1 per channel, as
    the pipelines scale them.
    """
    mean = torch.tensor(model.config.latents_mean).view(1, -1, 1, 1)
    std = torch.tensor(model.config.latents_std).view(1, -1, 1, 1)
    return (model.encode(pictures).latent_dist.sample() - mean) / std


@torch.no_grad()
def accuracy(model: AutoencoderKL, count: int = 512) -> float:
    """Share of held-out pictures that read the same after encoding and decoding."""
    scenes = [caption.scene for caption in captions.pairs(count, "held_out", 7)]
    decoded = model.decode(model.encode(pictures_of(scenes, 0)).latent_dist.mean).sample
    pixels = ((decoded.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    readings = scene_reader.read(pixels)
    return float(
        np.mean(
            [
                scene_reader.matches(scene, reading)
                for scene, reading in zip(scenes, readings, strict=True)
            ]
        )
    )
