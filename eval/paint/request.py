"""What a user asks `eval.paint` for, checked before anything heavy is loaded.

In:  the values of the command line, and a file of prompts.
Out: a `Request`; whatever is wrong with it raises one line, RecipeError for an option and DataError
     for a file, that names the option, its value and the way out.
"""

import math
from dataclasses import dataclass
from pathlib import Path

from configs.errors import DataError, RecipeError
from distill.prompt import Style
from eval.paint import schedulers

DENOISING_END = 0.8  # where SDXL's card hands over to the refiner
STRENGTH = 0.75  # what img2img scripts have always taken
MULTIPLE = 8  # the pipelines refuse other sides
# fp32; half precision where there is a GPU; bf16
PRECISIONS = ("full", "autocast", "bf16")


@dataclass(frozen=True)
class Request:
    """`n_iter` batches of `n_samples` pictures for each prompt; picture k of a prompt has the seed
    `seed` + k, and with `fixed_code` every batch has the seeds of the first.

    `strength` and `denoising_end` are None where no picture is given to start from, or no refiner
    to hand over to; `height` and `width` (pixels) are None for the pipeline's own size, or the
    given picture's; `guidance_scale` is None for the family's usual, `scheduler` for the pipeline's
    own. `weights` None: brackets are text, and what lies beyond 77 tokens is not read.
    `latent_channels` and `pixels_per_latent`, unless None, must be the repository's.
    `safety_checker` None: the repository's own, unless `no_safety_checker`.
    """

    repository: str
    prompts: tuple[str, ...]
    refiner: str | None = None
    negative_prompt: str | None = None
    weights: Style | None = None
    steps: int = 50
    guidance_scale: float | None = None
    seed: int = 0
    height: int | None = None
    width: int | None = None
    n_iter: int = 1
    n_samples: int = 1
    fixed_code: bool = False
    n_rows: int | None = None
    skip_grid: bool = False
    skip_save: bool = False
    init_image: Path | None = None
    strength: float | None = None
    scheduler: str | None = None
    eta: float = 0.0
    precision: str = "autocast"
    denoising_end: float | None = None
    latent_channels: int | None = None
    pixels_per_latent: int | None = None
    watermark: bool = True
    safety_checker: str | None = None
    no_safety_checker: bool = False

    def seeds(self, iteration: int) -> list[int]:
        """Of the pictures of one batch."""
        first = self.seed + (0 if self.fixed_code else iteration * self.n_samples)
        return list(range(first, first + self.n_samples))

    def skipped_steps(self) -> int:
        """Of the whole schedule, where a picture is given to start from."""
        if self.init_image is None:
            return 0
        strength = STRENGTH if self.strength is None else self.strength
        return self.steps - min(int(self.steps * strength), self.steps)


def read_prompts(path: Path) -> tuple[list[str], int]:
    """The prompts of a UTF-8 file, one a line, and how many lines were blank. Raises DataError."""
    try:
        lines = (
            path.read_bytes().decode("utf-8-sig").removesuffix("\n").split("\n")
        )  # splitlines would also split within a prompt, at U+2028
    except OSError as error:
        raise DataError(
            f"--from-file {path}: cannot be read ({error.strerror}); give a text file with one "
            "prompt a line"
        ) from None
    except UnicodeDecodeError as error:
        raise DataError(
            f"--from-file {path}: byte {error.start} is not UTF-8; save the file as UTF-8"
        ) from None
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise DataError(f"--from-file {path}: holds no prompt; write one a line")
    return prompts, len(lines) - len(prompts)


def check(request: Request) -> None:
    """Raises RecipeError or DataError for the first thing that cannot be painted."""
    _check_prompts(request)
    _check_numbers(request)
    for name, side in (("height", request.height), ("width", request.width)):
        if side is not None and (side <= 0 or side % MULTIPLE):
            raise RecipeError(
                f"--{name}: {side} is not a multiple of {MULTIPLE}; the nearest is "
                f"{max(MULTIPLE, (side + MULTIPLE // 2 - 1) // MULTIPLE * MULTIPLE)}"
            )
    if request.strength is not None and request.init_image is None:
        raise RecipeError(
            f"--strength: {request.strength} of no picture; give one with --init-image"
        )
    if request.denoising_end is not None and request.refiner is None:
        raise RecipeError(
            f"--denoising-end: {request.denoising_end} hands over to no refiner; give one with "
            "--refiner"
        )
    if request.init_image is not None and not request.init_image.is_file():
        raise DataError(
            f"--init-image {request.init_image}: there is no such file; give a PNG or JPEG"
        )
    if request.scheduler is not None and not schedulers.named(request.scheduler).fits(
        bool(request.init_image), bool(request.refiner)
    ):
        option = "--refiner" if request.refiner else "--init-image"
        raise RecipeError(
            f"--scheduler: {request.scheduler} cannot start midway, as {option} does; choose "
            "another, such as euler"
        )
    if request.strength is not None and int(request.steps * request.strength) < 1:
        raise RecipeError(
            f"--strength: {request.strength} of {request.steps} steps is no step; give more of "
            "either"
        )


def _check_prompts(request: Request) -> None:
    if not request.prompts:
        raise RecipeError("no prompt; give one with --prompt, or a file of them with --from-file")
    for prompt in (*request.prompts, request.negative_prompt or ""):
        try:
            prompt.encode()
        except UnicodeEncodeError:  # the bytes of another encoding, as the terminal passed them on
            raise RecipeError(
                f"--prompt: {prompt!r} is not UTF-8; write it in a UTF-8 terminal, or give "
                "--from-file"
            ) from None


def _check_numbers(request: Request) -> None:
    for name, least in (("steps", 1), ("n_iter", 1), ("n_samples", 1), ("n_rows", 0)):
        value = getattr(request, name)
        if value is not None and value < least:
            what = f"--{name.replace('_', '-')}: {value} is too few"
            raise RecipeError(f"{what}; give at least {least}")
    if not 0 <= request.seed < 2**32:
        raise RecipeError(f"--seed: {request.seed} is no seed; give one from 0 to {2**32 - 1}")
    scale = request.guidance_scale
    if scale is not None and not (math.isfinite(scale) and scale >= 0):
        raise RecipeError(
            f"--guidance: {scale} is no guidance scale; give 0 or more, or leave it out"
        )
    if not 0 <= request.eta <= 1:
        raise RecipeError(f"--eta: {request.eta} is not from 0 to 1; 0 adds no noise")
    if request.eta and request.scheduler != "ddim":
        raise RecipeError(
            f"--eta: {request.eta} means nothing to {request.scheduler or 'other samplers'}; give "
            "--scheduler ddim, or leave it out"
        )
    if request.precision not in PRECISIONS:
        raise RecipeError(f"--precision: {request.precision}; give one of {', '.join(PRECISIONS)}")
    if request.strength is not None and not 0 < request.strength <= 1:
        raise RecipeError(
            f"--strength: {request.strength} is not above 0 and at most 1; small keeps the "
            "picture, 1 keeps nothing of it"
        )
    if request.denoising_end is not None and not 0 < request.denoising_end < 1:
        raise RecipeError(
            f"--denoising-end: {request.denoising_end} is not between 0 and 1; SDXL's own is "
            f"{DENOISING_END}"
        )
