"""Paints one batch of a request: SDXL's unmodified pipelines, from noise or from a picture, with or
without the refiner.

In:  a `Request`; the repositories it names, in diffusers layout.
Out: pictures in memory, and for each the settings it was made with.

Each picture has a generator of its own, on the CPU: the same seed gives the same picture in any
batch and on any device, but for the last digits of the sums.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import diffusers
import torch
import transformers
from diffusers import StableDiffusionXLImg2ImgPipeline
from PIL import Image, ImageOps

from configs.errors import DataError
from configs.files import file_sha256
from corpora.captions.images import as_rgb
from distill.encoders.family import SDXL
from distill.sdxl import repository
from distill.sdxl.pipelines import load_pipelines, quiet
from distill.sdxl.repository import INDEX
from eval.paint import safety, schedulers, window
from eval.paint.request import DENOISING_END, MULTIPLE, STRENGTH, Request

TEXT_TO_IMAGE, IMAGE_TO_IMAGE, _ = SDXL.pipelines
FILES = [
    "*.json",
    "*/*.safetensors",
    "*.txt",
]  # of a hub repository: the folders' weights, not the same again in one file for other programs
TWICE = ["*.fp16.*", "*.bf16.*"]
# the invisible watermark needs so many pixels: diffusers leaves smaller pictures as they are
WATERMARKED_SIDE = 256


class Painted(NamedTuple):
    picture: Image.Image
    made_with: dict[str, Any]


@dataclass(frozen=True)
class Painter:
    """`first` paints from noise, or from `start`; `refiner` goes on from its latents."""

    request: Request
    first: Any
    refiner: Any | None
    start: Image.Image | None
    safety_checker: safety.SafetyChecker | None


def load(request: Request) -> Painter:
    """Raises DataError for repositories, pictures and checkers that cannot be used."""
    quiet()
    start = _opened(request) if request.init_image else None
    base, refiner = (
        _folder(request.repository, TEXT_TO_IMAGE),
        _folder(request.refiner, IMAGE_TO_IMAGE) if request.refiner else None,
    )
    checker = safety.load(request.safety_checker) if request.safety_checker else None
    pipelines = load_pipelines(str(base), str(refiner) if refiner else None, SDXL)
    first = _image_to_image(pipelines.base) if start else pipelines.base
    painter = Painter(request, first, pipelines.refiner, start, checker)
    for pipeline in filter(None, (first, pipelines.refiner)):
        if request.scheduler:
            pipeline.scheduler = schedulers.scheduler(request.scheduler, pipeline.scheduler.config)
        if not request.watermark:
            pipeline.watermark = None
    _check_both_have_steps(painter)
    return painter


@torch.inference_mode()
def paint(painter: Painter, prompt: str, seeds: list[int]) -> list[Painted]:
    """One picture a seed."""
    request = painter.request
    shared = {
        "prompt": [prompt] * len(seeds),
        "negative_prompt": request.negative_prompt,
        "num_inference_steps": request.steps,
        "guidance_scale": request.guidance_scale,
        "generator": [torch.Generator().manual_seed(seed) for seed in seeds],
    }
    if painter.start is not None:
        what = {"image": [painter.start] * len(seeds), "strength": _strength(request)}
    else:
        what = {"height": request.height, "width": request.width}
    if painter.refiner is None:
        pictures = painter.first(**what, **shared).images
    else:
        end = _denoising_end(request)
        latents = painter.first(**what, **shared, denoising_end=end, output_type="latent").images
        pictures = painter.refiner(image=latents, denoising_start=end, **shared).images
    flagged = [False] * len(pictures)
    if painter.safety_checker:
        pictures, flagged = safety.blacken(painter.safety_checker, pictures)
    settings = _settings(painter, prompt, pictures[0])
    return [
        Painted(
            picture,
            settings
            | {"seed": seed, "flagged_by_safety_checker": bad if painter.safety_checker else None},
        )
        for picture, seed, bad in zip(pictures, seeds, flagged, strict=True)
    ]


def not_read(painter: Painter, prompt: str) -> str:
    """The end of a prompt that lies beyond the encoders' window. The refiner may have another
    tokenizer."""
    pipelines = filter(None, (painter.first, painter.refiner))
    both = ((pipeline.tokenizer, pipeline.tokenizer_2) for pipeline in pipelines)
    return window.not_read(prompt, [one for two in both for one in two if one is not None])


def watermark(painter: Painter, picture: Image.Image) -> str:
    """Whether the pipeline put its invisible watermark on a picture, and if not, why.

    Flat pictures hardly hold it: it may not be read back.
    """
    if not painter.request.watermark:
        return "none (--no-watermark)"
    if (painter.refiner or painter.first).watermark is None:
        return "none (the package invisible-watermark is not installed)"
    if picture.width < WATERMARKED_SIDE:
        return f"none (the picture is less than {WATERMARKED_SIDE} pixels wide)"
    return "applied by the pipeline"


def _settings(painter: Painter, prompt: str, picture: Image.Image) -> dict[str, Any]:
    """The settings that all its pictures share: enough to paint them again."""
    request, class_name = painter.request, type(painter.first.scheduler).__name__
    asked = asdict(request)
    for name in (
        "prompts",
        "n_iter",
        "n_samples",
        "n_rows",
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
            "watermark": watermark(painter, picture),
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


def _folder(reference: str, pipeline: str) -> Path:
    """The repository's folder, checked before anything in it is loaded.

    Raises DataError for one of another kind.
    """
    folder = repository.fetch(reference, FILES, TWICE)
    found = repository.open_folder(folder)
    if not found.index:
        raise DataError(
            f"{folder}: holds text encoders alone; put them into an SDXL with: python -m "
            "distill.export RECIPE --assemble ORG/SDXL"
        )
    if found.pipeline != pipeline:
        hint = (
            "give an SDXL base, and its refiner with --refiner"
            if pipeline == TEXT_TO_IMAGE
            else "give an SDXL refiner with --refiner"
        )
        raise DataError(
            f"{folder / INDEX}: a {found.pipeline}, where a {pipeline} is needed; {hint}"
        )
    return folder


def _image_to_image(base: Any) -> StableDiffusionXLImg2ImgPipeline:
    """The same models, painting from a picture.

    Not by `from_pipe`, which turns half precision into single in diffusers 0.35.
    """
    pipeline = StableDiffusionXLImg2ImgPipeline(
        **base.components, force_zeros_for_empty_prompt=base.config.force_zeros_for_empty_prompt
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _opened(request: Request) -> Image.Image:
    """The picture to start from, upright, in RGB and in the size asked for, or its own cut down to
    what SDXL takes. Raises DataError.
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

    Raises DataError.
    """
    if painter.refiner is None:
        return
    request, scheduler = painter.request, painter.first.scheduler
    scheduler.set_timesteps(request.steps)
    start = (
        request.steps - int(request.steps * _strength(request)) if painter.start is not None else 0
    )
    timesteps = scheduler.timesteps[start * scheduler.order :]
    cutoff = round((1 - _denoising_end(request)) * scheduler.config.num_train_timesteps)
    for whose, steps in (
        ("the base", (timesteps >= cutoff).sum()),
        ("the refiner", (timesteps < cutoff).sum()),
    ):
        if not steps:
            raise DataError(
                f"--denoising-end: {_denoising_end(request)} leaves {whose} none of "
                f"{request.steps} steps; give more --steps, or another"
            )
