"""What a user asks `eval.paint` for, checked before anything heavy is loaded.

In:  the values of the command line, and a file of prompts.
Out: a `Request`; whatever is wrong with it raises one DataError line that names the option, its
     value and the way out.
"""

import math
from dataclasses import dataclass
from pathlib import Path

from configs.errors import DataError
from eval.paint import schedulers

DENOISING_END = 0.8  # where SDXL's card hands over to the refiner
STRENGTH = 0.75  # what img2img scripts have always taken
MULTIPLE = 8  # SDXL's pipelines refuse other sides


@dataclass(frozen=True)
class Request:
    """`n_iter` batches of `n_samples` pictures for each prompt; picture k of a prompt has the seed
    `seed` + k.

    `strength` and `denoising_end` are None where no picture is given to start from, or no refiner
    to hand over to; `height` and `width` are None for the pipeline's own size, or the given
    picture's; `scheduler` is None for the pipeline's own.
    """

    repository: str
    prompts: tuple[str, ...]
    refiner: str | None = None
    negative_prompt: str | None = None
    steps: int = 50
    guidance_scale: float = 5.0
    seed: int = 0
    height: int | None = None
    width: int | None = None
    n_iter: int = 1
    n_samples: int = 1
    n_rows: int | None = None
    init_image: Path | None = None
    strength: float | None = None
    scheduler: str | None = None
    denoising_end: float | None = None
    watermark: bool = True
    safety_checker: str | None = None

    def seeds(self, iteration: int) -> list[int]:
        """Of the pictures of one batch."""
        first = self.seed + iteration * self.n_samples
        return list(range(first, first + self.n_samples))


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
    """Raises DataError for the first thing that cannot be painted."""
    _check_prompts(request)
    _check_numbers(request)
    for name, side in (("height", request.height), ("width", request.width)):
        if side is not None and (side <= 0 or side % MULTIPLE):
            raise DataError(
                f"--{name}: {side} is not a multiple of {MULTIPLE}; the nearest is "
                f"{max(MULTIPLE, round(side / MULTIPLE) * MULTIPLE)}"
            )
    if request.strength is not None and request.init_image is None:
        raise DataError(f"--strength: {request.strength} of no picture; give one with --init-image")
    if request.denoising_end is not None and request.refiner is None:
        raise DataError(
            f"--denoising-end: {request.denoising_end} hands over to no refiner; give one with "
            "--refiner"
        )
    if request.init_image is not None and not request.init_image.is_file():
        raise DataError(
            f"--init-image {request.init_image}: there is no such file; give a PNG or JPEG"
        )
    if (
        request.scheduler is not None
        and not schedulers.named(request.scheduler).starts_midway
        and (request.refiner or request.init_image)
    ):
        raise DataError(
            f"--scheduler: {request.scheduler} cannot start midway, as --refiner and --init-image "
            "do; choose another, such as euler"
        )
    if request.strength is not None and int(request.steps * request.strength) < 1:
        raise DataError(
            f"--strength: {request.strength} of {request.steps} steps is no step; give more of "
            "either"
        )


def _check_prompts(request: Request) -> None:
    if not request.prompts:
        raise DataError("no prompt; give one with --prompt, or a file of them with --from-file")
    for prompt in (*request.prompts, request.negative_prompt or ""):
        try:
            prompt.encode()
        except UnicodeEncodeError:  # the bytes of another encoding, as the terminal passed them on
            raise DataError(
                f"--prompt: {prompt!r} is not UTF-8; write it in a UTF-8 terminal, or give "
                "--from-file"
            ) from None


def _check_numbers(request: Request) -> None:
    for name in ("steps", "n_iter", "n_samples", "n_rows"):
        value = getattr(request, name)
        if value is not None and value < 1:
            raise DataError(f"--{name.replace('_', '-')}: {value} is too few; give at least 1")
    if not 0 <= request.seed < 2**32:
        raise DataError(f"--seed: {request.seed} is no seed; give one from 0 to {2**32 - 1}")
    if not (math.isfinite(request.guidance_scale) and request.guidance_scale >= 0):
        raise DataError(
            f"--guidance: {request.guidance_scale} is no guidance scale; give 0 or more, SDXL's "
            "own is 5"
        )
    if request.strength is not None and not 0 < request.strength <= 1:
        raise DataError(
            f"--strength: {request.strength} is not above 0 and at most 1; small keeps the "
            "picture, 1 keeps nothing of it"
        )
    if request.denoising_end is not None and not 0 < request.denoising_end < 1:
        raise DataError(
            f"--denoising-end: {request.denoising_end} is not between 0 and 1; SDXL's own is "
            f"{DENOISING_END}"
        )
