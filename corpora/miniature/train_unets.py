"""Trains the miniature's UNets on frozen text states: the base for all noise levels, the refiner
for the last ones.

Shape letters: B batch, L token position, D width, P pooled width.
"""

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel

from corpora.miniature import miniature, train_vae
from corpora.miniature.caption_reader import CaptionReader
from corpora.miniature.design import Design
from corpora.miniature.fit import BATCH, DEVICE, batch_of, fit, pictures_of
from corpora.miniature.train_text_encoders import tail_mask
from corpora.worlds import TOYWORLD, World

# the refiner paints the last fifth of SDXL's noise levels; a few more are for img2img
MAX_TIMESTEP = {"base": 1000, "refiner": 350, "sd": 1000}
NOISES = 2  # noise levels per caption and step, so that the frozen encoders run half as often
EMPTY_SHARE = 0.1  # captions replaced by the empty prompt, for guidance
TAIL_HIDDEN_SHARE = 0.3  # EOS and padding masked, so that the words are read too
POOLED_HIDDEN_SHARE = 0.2

# text states, pooled states (None for SD 1.x), mask of the visible positions
Condition = tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]


def train(
    part: str, vae: AutoencoderKL, reader: CaptionReader, work: Path, design: Design
) -> UNet2DConditionModel:
    """Trains one of the miniature's own UNets from scratch."""
    torch.manual_seed(0)
    unet = miniature.unet(part, design.unet_widths[part], design.text_widths)
    unet = unet.to(memory_format=torch.channels_last)
    condition = condition_of(part, reader)
    power = design.base_noise_power if part == "base" else 1.0
    loss = loss_of(part, part, unet, vae, condition, design.world, power)
    fit(design.stages[part], unet, loss, work)
    return unet


def loss_of(
    part: str,
    salt: str,
    unet: UNet2DConditionModel,
    vae: AutoencoderKL,
    condition: Callable[[list[str]], Condition],
    world: World = TOYWORLD,
    noise_power: float = 1.0,
) -> Callable[[int], torch.Tensor]:
    """The loss of a step: the velocity error on captioned scenes. `salt` chooses the scenes,
    `noise_power` how often noise levels are high (see `Design`).
    """
    scheduler = miniature.scheduler()
    steps = MAX_TIMESTEP[part]

    def loss(step: int) -> torch.Tensor:
        scenes, texts = batch_of(salt, step, BATCH // NOISES, world)
        latents = train_vae.encode(vae, pictures_of(scenes, step, world)).repeat_interleave(
            NOISES, dim=0
        )
        noisiness_B = 1 - torch.rand(BATCH) ** noise_power
        # the product is rounded to `steps` itself now and then
        timesteps_B = (steps * noisiness_B).long().clamp(max=steps - 1).to(DEVICE)
        noise = torch.randn_like(latents)
        states_BLD, pooled_BP, visible_BL = (
            None if value is None else value.repeat_interleave(NOISES, dim=0)
            for value in condition(texts)
        )
        added = (
            None
            if pooled_BP is None
            else {"text_embeds": pooled_BP, "time_ids": time_ids(part, BATCH, world.side)}
        )
        predicted = unet(
            scheduler.add_noise(latents, noise, timesteps_B).contiguous(
                memory_format=torch.channels_last
            ),
            timesteps_B,
            states_BLD,
            encoder_attention_mask=visible_BL,
            added_cond_kwargs=added,
        ).sample
        return F.mse_loss(predicted.float(), scheduler.get_velocity(latents, noise, timesteps_B))

    return loss


def condition_of(part: str, reader: CaptionReader) -> Callable[[list[str]], Condition]:
    """Captions to text states, pooled states and visible positions; some captions become the empty
    prompt, as in SDXL's pipelines.
    """

    @torch.no_grad()
    def condition(texts: list[str]) -> Condition:
        texts = some_left_out(texts)
        states_BLD, pooled_BP, eos_position_B = reader(texts)
        visible_BL = ~tail_mask(eos_position_B, TAIL_HIDDEN_SHARE)
        pooled_BP = pooled_BP * (torch.rand(len(texts), 1) >= POOLED_HIDDEN_SHARE).to(DEVICE)
        if part == "refiner":
            width = reader.clip_l.config.hidden_size
            return states_BLD[..., width:], pooled_BP, visible_BL
        # the base has two empty prompts: the encoded "", and zeros for "no negative prompt"
        zeroed_B = torch.tensor([text == "" for text in texts]) & (torch.rand(len(texts)) < 0.5)
        zeroed_B = zeroed_B.to(DEVICE)
        return (
            states_BLD * ~zeroed_B[:, None, None],
            pooled_BP * ~zeroed_B[:, None],
            visible_BL | zeroed_B[:, None],
        )

    return condition


def some_left_out(texts: list[str]) -> list[str]:
    """A tenth of the captions, at random, become the empty prompt."""
    return [
        "" if share < EMPTY_SHARE else text
        for text, share in zip(texts, torch.rand(len(texts)).tolist(), strict=True)
    ]


def time_ids(part: str, count: int, side: int) -> torch.Tensor:
    """(B, 6): original size, crop, target size; the refiner's (B, 5): original size, crop,
    aesthetic score. All pictures have `side` x `side` pixels.
    """
    last = [side, side] if part == "base" else [miniature.AESTHETIC_SCORE]
    return torch.tensor([side, side, 0.0, 0.0, *last], device=DEVICE).expand(count, -1)
