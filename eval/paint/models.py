"""What a repository paints with, loaded once for any number of requests.

In:  a `Request`, of which the repositories, the precision and the safety checker count; and, where
     another's text encoders are to read the prompts, the repository that has them.
Out: `PaintModels`.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import diffusers
import torch

from configs.errors import DataError, RecipeError
from distill.encoders.family import Family
from distill.encoders.teacher import TextEncoders, load_text_encoders
from distill.sdxl import repository
from distill.sdxl.pipelines import Pipelines, load_pipelines, quiet
from distill.sdxl.repository import Repository
from eval.paint import kinds, safety, weighting
from eval.paint.request import Request

DTYPES = {"full": torch.float32, "autocast": None, "bf16": torch.bfloat16}  # None: by the device
# What a pipeline is told when it is made, beside its models.
SETTINGS = (
    "force_zeros_for_empty_prompt",
    "requires_aesthetics_score",
    "requires_safety_checker",
)


@dataclass(frozen=True)
class PaintModels:
    """`tokenizers`: by UNet (`base`, `refiner`) the folder that holds its prompts' tokenizers.
    `checked`: a line that says which safety checker runs, or empty. `text_encoders`: the repository
    that these are of, None for the base's own.
    """

    family: Family
    pipelines: Pipelines
    tokenizers: dict[str, Path]
    safety_checker: safety.SafetyChecker | None
    checked: str
    text_encoders: str | None = None

    def readers(self, *unets: str) -> dict[str, TextEncoders]:
        """By UNet, those of `unets` that there are: what reads prompts with weights. Raises
        DataError.
        """
        pipelines = self.pipelines._asdict()
        return {
            unet: weighting.encoders(pipelines[unet], folder, self.family, unet)
            for unet, folder in self.tokenizers.items()
            if unet in unets
        }


def load(request: Request) -> PaintModels:
    """Raises RecipeError for a refiner that the family has not, DataError for repositories and
    checkers that cannot be used.
    """
    quiet()
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
    tokenizers = {"base": stored.folder} | ({"refiner": refiner} if refiner else {})
    return PaintModels(family, pipelines, tokenizers, checker, checked)


def with_text_encoders(loaded: PaintModels, reference: str) -> PaintModels:
    """The same UNets and autoencoder behind the text encoders and tokenizers of another repository:
    a folder, `toyworld:NAME` or a hub name, of which nothing else is fetched. Raises DataError.
    """
    family, base = loaded.family, loaded.pipelines.base
    folders = [name for part in family.parts.values() for name in (part.subfolder, part.tokenizer)]
    folder = repository.fetch_parts(reference, folders)
    found = repository.open_folder(folder)
    widths = {one.name: one.config.get("hidden_size") for one in found.encoders}
    needed = {
        name: getattr(base, part.subfolder).config.hidden_size
        for name, part in family.parts.items()
    }
    if found.family is not family or widths != needed:
        raise DataError(
            f"{reference}: its text encoders are {found.family.name}'s of widths "
            f"{_listed(widths.values())}, the UNet reads {family.name}'s of widths "
            f"{_listed(needed.values())}; give the {family.name} that the encoders were taught by"
        )
    encoders = load_text_encoders(folder, family, dtype=base.dtype).to(base.device)
    exchanged = {
        folder: module
        for name, part in family.parts.items()
        for folder, module in (
            (part.subfolder, encoders.models[name]),
            (part.tokenizer, encoders.tokenizers[name]),
        )
    }
    pipelines = Pipelines(
        *(one and again(one, type(one).__name__, exchanged) for one in loaded.pipelines)
    )
    tokenizers = dict.fromkeys(loaded.tokenizers, folder)
    return replace(loaded, pipelines=pipelines, tokenizers=tokenizers, text_encoders=reference)


def again(pipeline: Any, class_name: str, exchanged: dict[str, Any] | None = None) -> Any:
    """Another pipeline of the same models, of a class of diffusers, with the parts in `exchanged`
    in place of those that it has.

    Not by `from_pipe`, which turns half precision into single in diffusers 0.35.
    """
    parts = pipeline.components
    parts |= {name: part for name, part in (exchanged or {}).items() if parts.get(name) is not None}
    settings = {name: pipeline.config[name] for name in SETTINGS if name in pipeline.config}
    result = getattr(diffusers, class_name)(**parts, **settings)
    if hasattr(pipeline, "watermark"):
        result.watermark = pipeline.watermark
    result.set_progress_bar_config(disable=True)
    return result


def _listed(values: Iterable[Any]) -> str:
    return " and ".join(map(str, values))


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
