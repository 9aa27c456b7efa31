"""The samplers people ask for by name, as diffusers' schedulers.

In:  a name such as `euler_a`, and the config of a pipeline's own scheduler (its betas, its
     prediction type, its spacing).
Out: a scheduler for the same UNet.
"""

from dataclasses import dataclass, field
from typing import Any

from configs.errors import DataError


@dataclass(frozen=True)
class Scheduler:
    """`title` is what other programs call it.

    `starts_midway`: right for img2img and refiners, which start in the middle of a schedule.
    """

    class_name: str
    title: str
    options: dict[str, Any] = field(default_factory=dict)
    starts_midway: bool = True


SCHEDULERS = {
    "ddim": Scheduler("DDIMScheduler", "DDIM"),
    "ddpm": Scheduler("DDPMScheduler", "DDPM"),
    # the first steps of these two are those of the beginning of a schedule: started midway they
    # leave noise in the picture
    "pndm": Scheduler("PNDMScheduler", "PLMS", {"skip_prk_steps": True}, starts_midway=False),
    "lms": Scheduler("LMSDiscreteScheduler", "LMS", starts_midway=False),
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
    """Raises DataError listing the names there are."""
    if name not in SCHEDULERS:
        raise DataError(f"--scheduler: there is no {name!r}; the names are {', '.join(SCHEDULERS)}")
    return SCHEDULERS[name]


def scheduler(name: str, config: Any) -> Any:
    """A new scheduler of that name with the config of another one. Raises DataError."""
    import diffusers

    found = named(name)
    return getattr(diffusers, found.class_name).from_config(config, **found.options)


def title(class_name: str) -> str:
    """What other programs call a diffusers class; its own name where they have none."""
    return next(
        (one.title for one in SCHEDULERS.values() if one.class_name == class_name), class_name
    )
