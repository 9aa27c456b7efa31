"""The miniature SD 1.x: its folder loads as published ones do, and its autoencoder is the other
miniature's with the latents' scale inside.
"""

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline

from configs.references import TOYWORLD_MODELS
from corpora.miniature.fit import batch_of, pictures_of
from corpora.miniature.train_sd import with_normalized_latents

FOLDER = TOYWORLD_MODELS / "sd"


def test_it_is_small_and_loads_with_every_part() -> None:
    assert sum(one.stat().st_size for one in FOLDER.rglob("*")) < 5_000_000
    pipeline = StableDiffusionPipeline.from_pretrained(
        FOLDER, trust_remote_code=False, use_safetensors=True
    )
    assert pipeline.safety_checker is not None and pipeline.config.requires_safety_checker
    assert pipeline.unet.config.addition_embed_type is None
    assert pipeline.scheduler.config.steps_offset == 1


@torch.no_grad()
def test_the_latents_scale_moved_into_the_convolutions() -> None:
    vae = AutoencoderKL.from_pretrained(
        TOYWORLD_MODELS / "base" / "vae", trust_remote_code=False, use_safetensors=True
    ).eval()
    same = with_normalized_latents(vae)
    assert same.config.latents_mean is None and same.config.scaling_factor == 1.0
    pictures = pictures_of(batch_of("vae", 0, 8)[0], 0)
    mean, std = (
        torch.tensor(one).view(1, -1, 1, 1)
        for one in (vae.config.latents_mean, vae.config.latents_std)
    )
    one, other = vae.encode(pictures).latent_dist, same.encode(pictures).latent_dist
    latents = (one.mean - mean) / std
    assert (latents - other.mean).abs().max() < 1e-6 * latents.abs().max()
    torch.testing.assert_close(one.std / std, other.std, rtol=1e-5, atol=1e-8)
    decoded = vae.decode(latents * std + mean).sample
    torch.testing.assert_close(same.decode(latents).sample, decoded, rtol=1e-5, atol=1e-5)
    stored = AutoencoderKL.from_pretrained(
        FOLDER / "vae", trust_remote_code=False, use_safetensors=True
    ).eval()
    assert stored.encode(pictures).latent_dist.mean.std(dim=(0, 2, 3)).tolist() == pytest.approx(
        [1.0] * 4, abs=0.15
    )
