"""The scheduler that a pipeline paints with.

In:  what the user asked for, and the pipeline's own scheduler, whose config (its betas, its
     prediction type, its spacing) goes into the one that replaces it.
Out: a scheduler for the same UNet.
"""

from typing import Any

import diffusers
import torch

from eval.paint import schedulers
from eval.paint.request import Request


class PNDMScheduler(diffusers.PNDMScheduler):
    """PLMS for image to image: `start` is the number of steps that are skipped.

    The second step of PLMS repeats the first with the mean of two predictions, and diffusers lists
    its timestep twice. It does so at the beginning of the whole schedule alone: started midway, all
    later steps would be told one timestep too few, and leave noise in the picture.
    """

    start = 0

    def set_timesteps(
        self, num_inference_steps: int, device: str | torch.device | None = None
    ) -> None:
        super().set_timesteps(num_inference_steps, device)
        descending = torch.from_numpy(self._timesteps[::-1].copy()).to(device)
        self.timesteps = torch.cat([descending[: self.start + 2], descending[self.start + 1 :]])


def named(name: str, config: Any, start: int = 0) -> Any:
    """A new scheduler of that name with the config of another; `start`: the steps that image to
    image skips. Raises RecipeError.
    """
    found = schedulers.named(name)
    if name == "pndm":
        result = PNDMScheduler.from_config(config, **found.options)
        result.start = start
        return result
    return getattr(diffusers, found.class_name).from_config(config, **found.options)


def chosen(request: Request, own: Any) -> tuple[Any, str]:
    """The scheduler in place of a pipeline's own, and a line for the user where it is neither that
    nor what was asked for.
    """
    if request.scheduler is not None:
        return named(request.scheduler, own.config, request.skipped_steps()), ""
    found, from_picture = schedulers.of_class(type(own).__name__), request.init_image is not None
    if found is not None and not found.fits(from_picture, request.refiner is not None):
        why = f"as the repository's own ({found.title}) cannot start midway"
        return named("ddim", own.config), f"sampler: DDIM, {why}"
    if from_picture and isinstance(own, diffusers.PNDMScheduler):
        return named("pndm", own.config, request.skipped_steps()), ""
    return own, ""
