"""Paints one batch of a request: the unmodified pipelines of SDXL or SD, from noise or from a
picture, with or without SDXL's refiner.

In:  a `Request`; the repositories it names, in diffusers layout.
Out: pictures in memory, and for each the settings it was made with.

Each picture has a generator of its own, on the CPU: the same seed gives the same picture in any
batch and on any device, but for the last digits of the sums.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
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
from eval.paint import models, safety, samplers, schedulers, watermark, weighting, window
from eval.paint.models import PaintModels
from eval.paint.request import DENOISING_END, MULTIPLE, STRENGTH, Request

FLAGGED = "flagged_by_safety_checker"  # None where none ran


class Painted(NamedTuple):
    picture: Image.Image
    made_with: dict[str, Any]


@dataclass(frozen=True)
class Painter:
    """`first` paints from noise, or from `start`; `refiner` goes on from its latents. `request` has
    the guidance scale and the size that it left open; `encoders`, by UNet, are what reads prompts
    with weights, empty without; `text_encoders`: the repository they are of, None for the base's
    own; `notices` are lines for the user.
    """

    request: Request
    family: Family
    first: Any
    refiner: Any | None
    start: Image.Image | None
    safety_checker: safety.SafetyChecker | None
    encoders: dict[str, TextEncoders]
    text_encoders: str | None
    notices: tuple[str, ...]


def load(request: Request) -> Painter:
    """Raises RecipeError for options that do not fit the repository, DataError for repositories,
    pictures and checkers that cannot be used.
    """
    start = _opened(request) if request.init_image else None
    return _prepared(models.load(request), request, start)


def prepare(loaded: PaintModels, request: Request) -> Painter:
    """Of models that are loaded already, which stay as they are: `request` may differ from the one
    they were loaded for in all but what it names. Raises RecipeError and DataError likewise.
    """
    return _prepared(loaded, request, _opened(request) if request.init_image else None)


def _prepared(loaded: PaintModels, request: Request, start: Image.Image | None) -> Painter:
    family = loaded.family
    _check_latents(request, loaded.pipelines.base)
    first = models.again(loaded.pipelines.base, family.pipelines[1 if start else 0])
    refiner = None
    if request.refiner:
        assert loaded.pipelines.refiner is not None
        refiner = models.again(loaded.pipelines.refiner, family.pipelines[1])
    notices = [loaded.checked]
    for pipeline in filter(None, (first, refiner)):
        pipeline.scheduler, notice = samplers.chosen(request, pipeline.scheduler)
        notices.append(notice)
        if family.watermark is None and pipeline.watermark is not None:
            marker = watermark.AreaChecked(pipeline.watermark) if request.watermark else None
            pipeline.watermark = marker
    painter = Painter(
        _settled(request, first, family),
        family,
        first,
        refiner,
        start,
        loaded.safety_checker,
        loaded.readers("base", "refiner") if request.weights else {},
        loaded.text_encoders,
        tuple(dict.fromkeys(filter(None, notices))),
    )
    _check_both_have_steps(painter)
    return painter


@torch.inference_mode()
def paint(
    painter: Painter,
    prompt: str,
    seeds: list[int],
    on_step: Callable[[float], None] | None = None,
) -> list[Painted]:
    """One picture a seed. `on_step` is called after every step with the share of the steps that are
    done, and may raise to stop.
    """
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
        pictures = painter.first(**what, **shared, **_reporting(on_step, 0, 1)).images
    else:
        end = _denoising_end(request)
        what |= {"denoising_end": end, "output_type": "latent", **_reporting(on_step, 0, end)}
        latents = painter.first(**what, **shared).images
        what = _texts(painter, "refiner", prompt, len(seeds)) | _reporting(on_step, end, 1)
        pictures = painter.refiner(image=latents, denoising_start=end, **what, **shared).images
    flagged: Sequence[bool | None] = [None] * len(pictures)
    if painter.safety_checker:
        pictures, flagged = safety.blacken(painter.safety_checker, pictures)
    settings = _settings(painter, prompt, pictures[0])
    return [
        Painted(marked(painter, picture), settings | {"seed": seed, FLAGGED: bad})
        for picture, seed, bad in zip(pictures, seeds, flagged, strict=True)
    ]


def _reporting(on_step: Callable[[float], None] | None, start: float, end: float) -> dict[str, Any]:
    """The argument by which a pipeline that does the steps from `start` to `end`, shares of the
    whole, reports them.
    """
    if on_step is None:
        return {}

    def report(pipeline: Any, step: int, timestep: Any, tensors: Any) -> dict[str, Any]:
        on_step(start + (end - start) * min((step + 1) / pipeline.num_timesteps, 1))
        return {}  # no tensor is changed

    return {"callback_on_step_end": report}


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
    pipelines = (painter.first, painter.refiner)
    return window.not_read(prompt, window.tokenizers(painter.family, pipelines))


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
            "text_encoders": painter.text_encoders,
            "safety_checker": request.safety_checker
            or ("the repository's own" if painter.safety_checker else None),
            "versions": {
                library.__name__: library.__version__
                for library in (torch, transformers, diffusers)
            },
        }
    )


def _strength(request: Request) -> float:
    return STRENGTH if request.strength is None else request.strength


def _denoising_end(request: Request) -> float:
    return DENOISING_END if request.denoising_end is None else request.denoising_end


def _check_latents(request: Request, pipeline: Any) -> None:
    """Raises RecipeError where the repository's latents are others than the user says."""
    for option, asked, found in (
        ("--C", request.latent_channels, pipeline.vae.config.latent_channels),
        ("--f", request.pixels_per_latent, pipeline.vae_scale_factor),
    ):
        if asked not in (None, found):
            raise RecipeError(f"{option}: {asked}, but the repository's is {found}; leave it out")


def own_size(pipeline: Any) -> tuple[int | None, int | None]:
    """Height and width, in pixels, that a pipeline's UNet was trained for; None where it does not
    say.
    """
    side = pipeline.unet.config.sample_size
    height, width = side if isinstance(side, list | tuple) else (side, side)
    scale = pipeline.vae_scale_factor
    return height and height * scale, width and width * scale


def _settled(request: Request, pipeline: Any, family: Family) -> Request:
    """With the family's guidance scale and the UNet's size where it gives none. SD's pipeline
    would take the UNet's for both sides where one is given.
    """
    scale = request.guidance_scale
    if scale is None:
        scale = family.guidance_scales[1 if request.init_image else 0]
    height, width = own_size(pipeline)
    return replace(
        request,
        guidance_scale=scale,
        height=request.height or height,
        width=request.width or width,
    )


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
