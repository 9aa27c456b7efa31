"""The samplers people ask for by name: which of diffusers' schedulers each is.

In:  a name such as `euler_a`.
Out: the class, its options, and what it is right for.
"""

from dataclasses import dataclass, field
from typing import Any

from configs.errors import RecipeError


@dataclass(frozen=True)
class Scheduler:
    """`title` is what other programs call it.

    `from_picture`, `into_refiner`: right for image to image, and for a base that hands over to a
    refiner; both start in the middle of a schedule.
    """

    class_name: str
    title: str
    options: dict[str, Any] = field(default_factory=dict)
    from_picture: bool = True
    into_refiner: bool = True

    def fits(self, from_picture: bool, into_refiner: bool) -> bool:
        return (self.from_picture or not from_picture) and (self.into_refiner or not into_refiner)


SCHEDULERS = {
    # clip_sample, the default of these two classes, is for pixels; latents are wider than -1 to 1
    "ddim": Scheduler("DDIMScheduler", "DDIM", {"clip_sample": False}),
    "ddpm": Scheduler("DDPMScheduler", "DDPM", {"clip_sample": False}),
    # the first steps of these two are those of the beginning of a schedule: started midway they
    # leave noise in the picture; samplers.py mends PLMS for image to image
    "pndm": Scheduler(
        "PNDMScheduler",
        "PLMS",
        # as Stable Diffusion was published with it
        {"skip_prk_steps": True, "steps_offset": 1, "set_alpha_to_one": False},
        into_refiner=False,
    ),
    "lms": Scheduler("LMSDiscreteScheduler", "LMS", from_picture=False, into_refiner=False),
    "euler": Scheduler("EulerDiscreteScheduler", "Euler"),
    "euler_a": Scheduler("EulerAncestralDiscreteScheduler", "Euler a"),
    "heun": Scheduler("HeunDiscreteScheduler", "Heun"),
    "dpm2": Scheduler("KDPM2DiscreteScheduler", "DPM2"),
    "dpm2_a": Scheduler("KDPM2AncestralDiscreteScheduler", "DPM2 a"),
    "dpm++_2m": Scheduler(
        "DPMSolverMultistepScheduler",
        "DPM++ 2M",
        {"algorithm_type": "dpmsolver++", "use_karras_sigmas": False},
    ),
    "dpm++_2m_karras": Scheduler(
        "DPMSolverMultistepScheduler",
        "DPM++ 2M Karras",
        {"algorithm_type": "dpmsolver++", "use_karras_sigmas": True},
    ),
    "dpm++_2m_sde": Scheduler(
        "DPMSolverMultistepScheduler",
        "DPM++ 2M SDE",
        {"algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": False},
    ),
    "deis": Scheduler("DEISMultistepScheduler", "DEIS", {"algorithm_type": "deis"}),
    "unipc": Scheduler("UniPCMultistepScheduler", "UniPC"),
}


def named(name: str) -> Scheduler:
    """Raises RecipeError listing the names there are."""
    if name not in SCHEDULERS:
        names = ", ".join(SCHEDULERS)
        raise RecipeError(f"--scheduler: there is no {name!r}; the names are {names}")
    return SCHEDULERS[name]


def of_class(class_name: str) -> Scheduler | None:
    """The first of a diffusers class; None for a class that has no name here."""
    return next((one for one in SCHEDULERS.values() if one.class_name == class_name), None)


def title(class_name: str) -> str:
    """What other programs call a diffusers class; its own name where they have none."""
    found = of_class(class_name)
    return found.title if found else class_name
