"""Paints one batch of a request: the unmodified pipelines of SDXL or SD, from noise or from a
picture, with or without SDXL's refiner.

In:  a `Request`; the repositories it names, in diffusers layout.
Out: pictures in memory, and for each the settings it was made with.

Each picture has a generator of its own, on the CPU: the same seed gives the same picture in any
batch and on any device, but for the last digits of the sums.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import diffusers
import torch
import transformers
from PIL import Image, ImageOps

from configs.errors import DataError, RecipeError
from configs.files import file_sha256
from corpora.captions.images import as_rgb
from distill.encoders.family import Family
from distill.encoders.teacher import TextEncoders
from distill.sdxl.pipelines import Pipelines, load_pipelines, quiet
from distill.sdxl.repository import Repository
from eval.paint import kinds, safety, samplers, schedulers, watermark, weighting, window
from eval.paint.request import DENOISING_END, MULTIPLE, STRENGTH, Request

DTYPES = {"full": torch.float32, "autocast": None, "bf16": torch.bfloat16}  # None: by the device
FLAGGED = "flagged_by_safety_checker"  # None where none ran


class Painted(NamedTuple):
    picture: Image.Image
    made_with: dict[str, Any]


@dataclass(frozen=True)
class Painter:
    """`first` paints from noise, or from `start`; `refiner` goes on from its latents. `request` has
    the guidance scale and the size that it left open; `encoders`, by UNet, are what reads prompts
    with weights, empty without; `notices` are lines for the user.
    """

    request: Request
    family: Family
    first: Any
    refiner: Any | None
    start: Image.Image | None
    safety_checker: safety.SafetyChecker | None
    encoders: dict[str, TextEncoders]
    notices: tuple[str, ...]


def load(request: Request) -> Painter:
    """Raises RecipeError for options that do not fit the repository, DataError for repositories,
    pictures and checkers that cannot be used.
    """
    quiet()
    start = _opened(request) if request.init_image else None
    stored = kinds.base(request.repository)
    family = stored.family
    if request.refiner and "refiner" not in family.readers:
        raise RecipeError(f"--refiner: an {family.name} has none; leave it out")
    refiner = kinds.refiner(request.refiner) if request.refiner else None
    checker, checked = _safety_checker(request, stored)
    pipelines = load_pipelines(
        str(stored.folder),
        str(refiner) if refiner else None,
        family,
        DTYPES[request.precision],
        without=(safety.PART, safety.PROCESSOR),
    )
    _check_latents(request, pipelines.base)
    first = _image_to_image(pipelines.base, family) if start else pipelines.base
    notices = [checked]
    for pipeline in filter(None, (first, pipelines.refiner)):
        pipeline.scheduler, notice = samplers.chosen(request, pipeline.scheduler)
        notices.append(notice)
        if family.watermark is None and pipeline.watermark is not None:
            marker = watermark.AreaChecked(pipeline.watermark) if request.watermark else None
            pipeline.watermark = marker
    painter = Painter(
        _settled(request, first, family),
        family,
        first,
        pipelines.refiner,
        start,
        checker,
        _encoders(request, family, pipelines, stored.folder, refiner),
        tuple(dict.fromkeys(filter(None, notices))),
    )
    _check_both_have_steps(painter)
    return painter


@torch.inference_mode()
def paint(painter: Painter, prompt: str, seeds: list[int]) -> list[Painted]:
    """One picture a seed."""
    request = painter.request
    shared = {
        "num_inference_steps": request.steps,
        "guidance_scale": request.guidance_scale,
        "eta": request.eta,
        "generator": [torch.Generator().manual_seed(seed) for seed in seeds],
    }
    if painter.start is not None:
        what = {"image": [painter.start] * len(seeds), "strength": _strength(request)}
    else:
        what = {"height": request.height, "width": request.width}
    what |= _texts(painter, "base", prompt, len(seeds))
    if painter.refiner is None:
        pictures = painter.first(**what, **shared).images
    else:
        end = _denoising_end(request)
        latents = painter.first(**what, **shared, denoising_end=end, output_type="latent").images
        texts = _texts(painter, "refiner", prompt, len(seeds))
        pictures = painter.refiner(image=latents, denoising_start=end, **texts, **shared).images
    flagged: Sequence[bool | None] = [None] * len(pictures)
    if painter.safety_checker:
        pictures, flagged = safety.blacken(painter.safety_checker, pictures)
    settings = _settings(painter, prompt, pictures[0])
    return [
        Painted(marked(painter, picture), settings | {"seed": seed, FLAGGED: bad})
        for picture, seed, bad in zip(pictures, seeds, flagged, strict=True)
    ]


def _texts(painter: Painter, unet: str, prompt: str, count: int) -> dict[str, Any]:
    """The arguments by which the pipeline of a UNet is told what to paint."""
    negative, style = painter.request.negative_prompt, painter.request.weights
    if style is not None:
        pipeline = painter.refiner if unet == "refiner" else painter.first
        readers = painter.encoders[unet]
        return weighting.arguments(pipeline, readers, prompt, negative, style, count)
    return {
        "prompt": [prompt] * count,
        # SD's pipeline takes as many as prompts; SDXL's reads None otherwise than an empty one
        "negative_prompt": None if negative is None else [negative] * count,
    }


def not_read(painter: Painter, prompt: str) -> str:
    """The end of a prompt that lies beyond the encoders' window, which with `weights` none does.
    The refiner may have another tokenizer."""
    if painter.request.weights is not None:
        return ""
    pipelines = list(filter(None, (painter.first, painter.refiner)))
    parts = painter.family.parts.values()
    both = (getattr(pipeline, part.tokenizer) for pipeline in pipelines for part in parts)
    return window.not_read(prompt, [one for one in both if one is not None])


def marked(painter: Painter, picture: Image.Image) -> Image.Image:
    """A painted picture, or a grid of them, with the invisible watermark of a family whose
    pipelines write none.
    """
    text = painter.family.watermark
    if text is None or _not_marked(painter, picture):
        return picture
    return watermark.written(picture, text)


def mark(painter: Painter, picture: Image.Image) -> str:
    """What invisible watermark a picture of this size gets, or `none` and why."""
    why = _not_marked(painter, picture)
    return f"none ({why})" if why else painter.family.watermark or "applied by the pipeline"


def _not_marked(painter: Painter, picture: Image.Image) -> str:
    if not painter.request.watermark:
        return "--no-watermark"
    if painter.family.watermark is not None:
        return watermark.missing() or watermark.too_small(*picture.size)
    if (painter.refiner or painter.first).watermark is None:
        return watermark.NOT_INSTALLED
    if picture.width < watermark.LEAST_WIDTH_OF_DIFFUSERS:
        return f"the picture is less than {watermark.LEAST_WIDTH_OF_DIFFUSERS} pixels wide"
    return watermark.too_small(*picture.size)


def _settings(painter: Painter, prompt: str, picture: Image.Image) -> dict[str, Any]:
    """The settings that all its pictures share: enough to paint them again."""
    request, class_name = painter.request, type(painter.first.scheduler).__name__
    asked = asdict(request)
    for name in (
        "prompts",
        "n_iter",
        "n_samples",
        "fixed_code",
        "n_rows",
        "skip_grid",
        "skip_save",
        "latent_channels",
        "pixels_per_latent",
        "no_safety_checker",
    ):  # of the whole request, not of a picture
        del asked[name]
    return (
        {"prompt": prompt, "prompt_not_read": not_read(painter, prompt)}
        | asked
        | {
            "height": picture.height,
            "width": picture.width,
            "init_image": {
                "name": request.init_image.name,
                "sha256": file_sha256(request.init_image),
            }
            if request.init_image
            else None,
            "strength": _strength(request) if request.init_image else None,
            "denoising_end": _denoising_end(request) if request.refiner else None,
            "scheduler": request.scheduler or class_name,
            "sampler": schedulers.named(request.scheduler).title
            if request.scheduler
            else schedulers.title(class_name),
            "watermark": mark(painter, picture),
            "safety_checker": request.safety_checker
            or ("the repository's own" if painter.safety_checker else None),
            "versions": {
                library.__name__: library.__version__
                for library in (torch, transformers, diffusers)
            },
        }
    )


def _encoders(
    request: Request, family: Family, pipelines: Pipelines, base: Path, refiner: Path | None
) -> dict[str, TextEncoders]:
    """Raises DataError."""
    if request.weights is None:
        return {}
    found = {"base": weighting.encoders(pipelines.base, base, family, "base")}
    if refiner is not None:
        found["refiner"] = weighting.encoders(pipelines.refiner, refiner, family, "refiner")
    return found


def _strength(request: Request) -> float:
    return STRENGTH if request.strength is None else request.strength


def _denoising_end(request: Request) -> float:
    return DENOISING_END if request.denoising_end is None else request.denoising_end


def _safety_checker(
    request: Request, stored: Repository
) -> tuple[safety.SafetyChecker | None, str]:
    """The one to run, and a line that says which. Raises DataError."""
    own = bool(stored.index.get(safety.PART, [None])[0])
    if request.safety_checker:
        return safety.load(request.safety_checker), f"safety checker: {request.safety_checker}"
    if not own:  # SDXLs know of no such part
        lacks = safety.PART in stored.index
        return None, "safety checker: none, the repository has none" if lacks else ""
    if request.no_safety_checker:
        return None, "safety checker: none (--no-safety-checker)"
    return (
        safety.load_own(stored.folder),
        "safety checker: the repository's own, which blackens what it flags; --no-safety-checker "
        "leaves it out",
    )


def _check_latents(request: Request, pipeline: Any) -> None:
    """Raises RecipeError where the repository's latents are others than the user says."""
    for option, asked, found in (
        ("--C", request.latent_channels, pipeline.vae.config.latent_channels),
        ("--f", request.pixels_per_latent, pipeline.vae_scale_factor),
    ):
        if asked not in (None, found):
            raise RecipeError(f"{option}: {asked}, but the repository's is {found}; leave it out")


def _settled(request: Request, pipeline: Any, family: Family) -> Request:
    """With the family's guidance scale and the UNet's size where it gives none. SD's pipeline
    would take the UNet's for both sides where one is given.
    """
    scale = request.guidance_scale
    if scale is None:
        scale = family.guidance_scales[1 if request.init_image else 0]
    side = pipeline.unet.config.sample_size
    sides = side if isinstance(side, list | tuple) else (side, side)
    height, width = (one and one * pipeline.vae_scale_factor for one in sides)
    return replace(
        request,
        guidance_scale=scale,
        height=request.height or height,
        width=request.width or width,
    )


def _image_to_image(base: Any, family: Family) -> Any:
    """The same models, painting from a picture.

    Not by `from_pipe`, which turns half precision into single in diffusers 0.35.
    """
    settings = {
        name: base.config[name]
        for name in ("force_zeros_for_empty_prompt", "requires_safety_checker")
        if name in base.config
    }
    pipeline = getattr(diffusers, family.pipelines[1])(**base.components, **settings)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _opened(request: Request) -> Image.Image:
    """The picture to start from, upright, in RGB and in the size asked for, or its own cut down to
    what the pipelines take. Raises DataError.
    """
    assert request.init_image is not None
    try:
        with Image.open(request.init_image) as file:
            picture = as_rgb(ImageOps.exif_transpose(file))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(
            f"--init-image {request.init_image}: no picture can be read ({error}); give a PNG or "
            "JPEG"
        ) from None
    width, height = (
        asked or side // MULTIPLE * MULTIPLE
        for asked, side in ((request.width, picture.width), (request.height, picture.height))
    )
    if not (width and height):
        raise DataError(
            f"--init-image {request.init_image}: {picture.width} x {picture.height} pixels are too "
            f"few; give at least {MULTIPLE} each"
        )
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def _check_both_have_steps(painter: Painter) -> None:
    """A base or refiner without a step hands on noise, or stops with a message about tensors.

    Raises RecipeError.
    """
    if painter.refiner is None:
        return
    request, scheduler = painter.request, painter.first.scheduler
    scheduler.set_timesteps(request.steps)
    timesteps = scheduler.timesteps[request.skipped_steps() * scheduler.order :]
    cutoff = round((1 - _denoising_end(request)) * scheduler.config.num_train_timesteps)
    for whose, steps in (
        ("the base", (timesteps >= cutoff).sum()),
        ("the refiner", (timesteps < cutoff).sum()),
    ):
        if not steps:
            raise RecipeError(
                f"--denoising-end: {_denoising_end(request)} leaves {whose} none of "
                f"{request.steps} steps; give more --steps, or another"
            )
