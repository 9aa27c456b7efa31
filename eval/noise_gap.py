"""The noise-prediction gap: how differently the UNet denoises when the student speaks instead of the teacher.

In and out: pipelines, prompts and encodings in memory; nothing on disk.

    gap = sum |unet(x_t, t, student) - unet(x_t, t, teacher)|^2 / sum |unet(x_t, t, teacher) - unet(x_t, t, empty)|^2

over pairs and timesteps, of what the UNet predicts (noise, or velocity): 0 is the same picture, 1 is as far off as saying nothing
at all. `x_t`, `t` and the time ids are what the unmodified pipeline itself hands the UNet while it paints the English prompts,
recorded by a hook.

Shape letters: B batch, L token position, D width, P pooled width, C latent channels, H W latent sides.
"""

from collections import defaultdict
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from configs.command import DataError
from configs.schema import Eval
from distill.teacher import Encoding
from eval.pictures import generators


class Point(NamedTuple):
    """What one call of the UNet read besides the text."""

    sample_BCHW: torch.Tensor
    timestep: torch.Tensor
    time_ids_B6: torch.Tensor


def noise_gaps(
    pipeline: Any, prompts: list[str], teacher: Encoding, empty: Encoding, rows: dict[str, Encoding], settings: Eval
) -> dict[str, dict[str, Any]]:
    """The gap of every row, `{"value": ratio, "by_timestep": {t: ratio}}`.

    `pipeline` is the teacher's StableDiffusionXLPipeline, `prompts` B English texts, `teacher` and each of `rows` their B
    encodings, `empty` the teacher's encoding of "" (one row). Raises DataError when the UNet does not react to text.
    """
    errors: dict[str, dict[int, float]] = {name: defaultdict(float) for name in rows}
    reaction: dict[int, float] = defaultdict(float)
    with tqdm(total=len(prompts), desc="noise-prediction gap", unit="pair") as bar:
        for start in range(0, len(prompts), settings.batch_size):
            part = slice(start, start + settings.batch_size)
            count = len(prompts[part])
            for point in record_points(pipeline, prompts[part], start, settings):
                t = int(point.timestep)
                wanted = predict(pipeline.unet, point, cut(teacher, part))
                nothing = predict(pipeline.unet, point, Encoding(*(tensor.expand(count, *tensor.shape[1:]) for tensor in empty)))
                reaction[t] += (wanted - nothing).square().sum().item()
                for name, encoding in rows.items():
                    errors[name][t] += (predict(pipeline.unet, point, cut(encoding, part)) - wanted).square().sum().item()
            bar.update(count)
    if not sum(reaction.values()) > 0:
        raise DataError("the base UNet predicts the same noise with and without a prompt: it cannot be the one these encoders belong to")
    return {
        name: {
            "value": sum(by_t.values()) / sum(reaction.values()),
            "by_timestep": {str(t): by_t[t] / reaction[t] if reaction[t] > 0 else None for t in sorted(by_t, reverse=True)},
        }
        for name, by_t in errors.items()
    }


@torch.inference_mode()
def record_points(pipeline: Any, prompts: list[str], first: int, settings: Eval) -> list[Point]:
    """Paints the prompts (latents only) and keeps what the UNet was given at `settings.timesteps` evenly spread calls.

    The k-th of K timesteps is the middle of the k-th K-th of the schedule. `first` is the number of the first prompt, for its seed.
    """
    calls: list[Point] = []

    def record(_module: torch.nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        # under guidance the batch holds the unconditional half first
        sample, time_ids = arguments[0], named["added_cond_kwargs"]["time_ids"]
        calls.append(Point(sample[-len(prompts) :], torch.as_tensor(arguments[1]), time_ids[-len(prompts) :]))

    handle = pipeline.unet.register_forward_pre_hook(record, with_kwargs=True)
    try:
        pipeline(
            prompt=prompts,
            num_inference_steps=settings.inference_steps,
            guidance_scale=settings.guidance_scale,
            generator=generators(settings.seed, first, len(prompts)),
            output_type="latent",
        )
    finally:
        handle.remove()
    wanted = sorted({int((k + 0.5) / settings.timesteps * len(calls)) for k in range(settings.timesteps)})
    return [calls[index] for index in wanted]


@torch.inference_mode()
def predict(unet: Any, point: Point, encoding: Encoding) -> torch.Tensor:
    """The noise the UNet predicts at a point under a prompt, (B, C, H, W), as the pipeline calls it."""
    return unet(
        point.sample_BCHW,
        point.timestep,
        encoder_hidden_states=encoding.prompt_embeds_BLD.to(point.sample_BCHW),
        added_cond_kwargs={"text_embeds": encoding.pooled_BP.to(point.sample_BCHW), "time_ids": point.time_ids_B6},
        return_dict=False,
    )[0]


def cut(encoding: Encoding, part: slice) -> Encoding:
    """Some prompts of a batch of encodings."""
    return Encoding(*(tensor[part] for tensor in encoding))
