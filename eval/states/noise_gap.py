"""The noise-prediction gap: how differently the UNet denoises when it reads the student instead of
the teacher.

In and out: pipelines, prompts and encodings in memory; nothing on disk.

    gap = sum |unet(x_t, t, student) - unet(x_t, t, teacher)|^2 / sum |unet(x_t, t, teacher) -
    unet(x_t, t, empty)|^2

over pairs and timesteps, of what the UNet predicts (noise, or velocity): 0 is the same picture, 1
is as far off as an empty prompt. `x_t`, `t` and the time ids are what the unmodified pipeline
itself hands the UNet while it paints the English prompts, recorded by a hook (SD's UNets read no
time ids). The refiner's UNet
has a gap of its own, over the last steps it paints of the base's latents.

Shape letters: B batch, L token position, D width, P pooled width, C latent channels, H W latent
sides.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from configs.errors import DataError
from configs.schema.recipe import Eval
from distill.encoders.family import Family
from distill.encoders.teacher import Encoding
from distill.sdxl.pipelines import Pipelines
from eval.intervals import bootstrap
from eval.pictures.painting import generators
from eval.rows import TEACHER

Couple = tuple[str, str]  # two rows

EMPTY = "empty"
REACTION: Couple = (
    TEACHER,
    EMPTY,
)  # what the gap is relative to: how much the English text matters to the UNet


class Point(NamedTuple):
    """What one call of the UNet read besides the text; the time ids where it reads such."""

    sample_BCHW: torch.Tensor
    timestep: torch.Tensor
    time_ids_B6: torch.Tensor | None


class Distances(NamedTuple):
    """Squared distances of one UNet's predictions: by the two texts compared, (pairs,
    timesteps).
    """

    timesteps: list[int]
    squared: dict[Couple, np.ndarray]

    @property
    def pairs(self) -> int:
        return len(self.squared[REACTION])

    def inner(self, one: Couple, other: Couple) -> np.ndarray:
        """(pairs, timesteps): the inner product of how far the prediction moves from the first text
        of `one` to its second with how far it moves so in `other`, by the law of cosines; what
        `between` lists must have been compared.
        """
        _, _, starts, ends, out, back = (self.squared[couple] for couple in between(one, other))
        return (out + back - starts - ends) / 2

    def gap(self, row: str, seed: int) -> dict[str, Any]:
        """`{"value", "low", "high", "by_timestep": {t: ratio}, "intervals_by_timestep": {t: [low,
        high]}}`; 95 % intervals over pairs.
        """
        errors, reaction = self.squared[row, TEACHER], self.squared[REACTION]
        by_timestep = {
            str(t): bootstrap(errors[:, k], reaction[:, k], seed)
            if reaction[:, k].sum() > 0
            else None
            for k, t in enumerate(self.timesteps)
        }
        return {
            **bootstrap(errors.sum(axis=1), reaction.sum(axis=1), seed),
            "by_timestep": {t: found and found["value"] for t, found in by_timestep.items()},
            "intervals_by_timestep": {
                t: found and [found["low"], found["high"]] for t, found in by_timestep.items()
            },
        }


def between(one: Couple, other: Couple) -> list[Couple]:
    """What to compare for the sizes of two moves and the angle between them."""
    (a, b), (c, d) = one, other
    return [one, other, (a, c), (b, d), (a, d), (b, c)]


def distances(
    pipelines: Pipelines,
    family: Family,
    prompts: list[str],
    encodings: dict[str, Encoding],
    compared: dict[str, list[Couple]],
    settings: Eval,
) -> dict[str, Distances]:
    """By UNet (`base`, and `refiner` where there is one and it has steps to paint).

    `encodings`: by row name, B prompts each; `EMPTY` may hold one prompt for all. `compared`: by
    UNet the pairs of rows to compare, `REACTION` among them. Raises DataError when a
    UNet does not react to text.
    """
    parts: dict[str, list[list[np.ndarray]]] = {}
    timesteps: dict[str, list[int]] = {}
    with tqdm(total=len(prompts), desc="noise-prediction gap", unit="pair") as bar:
        for start in range(0, len(prompts), settings.batch_size):
            part = slice(start, start + settings.batch_size)
            count = len(prompts[part])
            texts = {
                name: cut(encoding, part) if name != EMPTY else repeated(encoding, count)
                for name, encoding in encodings.items()
            }
            for unet, points in record_points(pipelines, prompts[part], start, settings).items():
                found = [
                    _distances_at(
                        getattr(pipelines, unet).unet,
                        family.readers[unet],
                        point,
                        texts,
                        compared[unet],
                    )
                    for point in points
                ]
                parts.setdefault(unet, []).append(found)
                timesteps[unet] = [int(point.timestep) for point in points]
            bar.update(count)
    result = {}
    for unet, batches in parts.items():
        squared_NTB = np.concatenate([np.stack(batch, axis=1) for batch in batches], axis=2)
        result[unet] = Distances(
            timesteps[unet],
            {
                names: squared_TB.T
                for names, squared_TB in zip(compared[unet], squared_NTB, strict=True)
            },
        )
        if not result[unet].squared[REACTION].sum() > 0:
            raise DataError(
                f"the {unet} UNet predicts the same noise with and without a prompt: it cannot be "
                "the one these encoders belong to"
            )
    return result


def _distances_at(
    unet: Any,
    parts: tuple[str, ...],
    point: Point,
    texts: dict[str, Encoding],
    compared: list[Couple],
) -> np.ndarray:
    """(comparisons, B) at one point; every text is predicted once."""
    needed = dict.fromkeys(name for names in compared for name in names)
    noise = {name: predict(unet, parts, point, texts[name]).double() for name in needed}
    return (
        torch.stack(
            [(noise[one] - noise[other]).square().flatten(1).sum(dim=1) for one, other in compared]
        )
        .cpu()
        .numpy()
    )


@torch.inference_mode()
def record_points(
    pipelines: Pipelines, prompts: list[str], first: int, settings: Eval
) -> dict[str, list[Point]]:
    """Paints the prompts (latents only) and keeps what each UNet was given at evenly spread calls;
    `first` numbers the first prompt, for its seed.

    Of the base `settings.timesteps` calls, of the refiner's shorter road half as many. The base
    paints all the way, and the refiner goes on from the latents the base had at
    `settings.denoising_end`: the same as if it had stopped there.
    """
    base, refiner = pipelines
    levels = base.scheduler.config.num_train_timesteps
    handover = round(levels * (1 - settings.denoising_end))
    latents: dict[str, torch.Tensor] = {}
    left = []

    def keep(
        _pipeline: Any, _step: int, timestep: Any, state: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        if int(timestep) >= handover:
            latents["handover"] = state["latents"].clone()
        else:
            left.append(timestep)
        return state

    shared = {
        "num_inference_steps": settings.inference_steps,
        "guidance_scale": settings.guidance_scale,
        "output_type": "latent",
    }
    noise = generators(settings.seed, first, len(prompts))
    with _recorded(base.unet, len(prompts)) as calls:
        base(prompt=prompts, generator=noise, callback_on_step_end=keep, **shared)
    points = {"base": _spread(calls, settings.timesteps)}
    if refiner is not None and left and latents:
        with _recorded(refiner.unet, len(prompts)) as calls:
            refiner(
                prompt=prompts,
                image=latents["handover"],
                denoising_start=settings.denoising_end,
                generator=noise,
                **shared,
            )
        points["refiner"] = _spread(calls, (settings.timesteps + 1) // 2)
    return points


@contextmanager
def _recorded(unet: Any, count: int) -> Iterator[list[Point]]:
    """Every call of the UNet while the block runs; under guidance the batch holds the unconditional
    half first, which is left out.
    """
    calls: list[Point] = []

    def record(_module: torch.nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        sample, added = arguments[0], named["added_cond_kwargs"]
        time_ids = None if added is None else added["time_ids"][-count:]
        calls.append(Point(sample[-count:], torch.as_tensor(arguments[1]), time_ids))

    handle = unet.register_forward_pre_hook(record, with_kwargs=True)
    try:
        yield calls
    finally:
        handle.remove()


def _spread(calls: list[Point], count: int) -> list[Point]:
    """The k-th of `count` is the middle of the k-th part of the schedule."""
    return [
        calls[index]
        for index in sorted({int((k + 0.5) / count * len(calls)) for k in range(count)})
    ]


@torch.inference_mode()
def predict(unet: Any, parts: tuple[str, ...], point: Point, encoding: Encoding) -> torch.Tensor:
    """The noise a UNet that reads these parts predicts at a point under a prompt, (B, C, H, W), as
    its pipeline calls it.
    """
    added = None
    if encoding.pooled_BP is not None:
        pooled_BP = encoding.pooled_BP.to(point.sample_BCHW)
        added = {"text_embeds": pooled_BP, "time_ids": point.time_ids_B6}
    predicted_BCHW: torch.Tensor = unet(
        point.sample_BCHW,
        point.timestep,
        encoder_hidden_states=encoding.context(parts).to(point.sample_BCHW),
        added_cond_kwargs=added,
        return_dict=False,
    )[0]
    return predicted_BCHW


def cut(encoding: Encoding, part: slice) -> Encoding:
    """Some prompts of a batch of encodings."""
    return encoding.map(lambda tensor: tensor[part])


def repeated(encoding: Encoding, count: int) -> Encoding:
    """One prompt's encoding for `count` prompts."""
    return encoding.map(lambda tensor: tensor.expand(count, *tensor.shape[1:]))
