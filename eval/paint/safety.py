"""Stable Diffusion's safety checker over painted pictures: an SD has one of its own; SDXL ships
none, so there it runs only where the user names one.

In:  pictures, and a checker: a repository's own, or a folder or a hub name such as
     CompVis/stable-diffusion-safety-checker.
Out: the same pictures, those it flags all black, and which they are.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from PIL import Image
from transformers import CLIPImageProcessor

from distill.sdxl.pipelines import device
from eval.pictures import stock_models

PART, PROCESSOR = "safety_checker", "feature_extractor"  # of an SD's repository


class SafetyChecker(NamedTuple):
    model: Any
    processor: Any


def load(reference: str) -> SafetyChecker:
    """One that the user names. Raises DataError."""
    return SafetyChecker(
        *stock_models.load(
            "--safety-checker", reference, StableDiffusionSafetyChecker, CLIPImageProcessor
        )
    )


def load_own(folder: Path) -> SafetyChecker:
    """A repository's own, in fp32. Not through its pipeline, which would go on with random numbers
    where weights are missing. Raises DataError.
    """
    model, processor = stock_models.load(
        "safety checker",
        str(folder / PART),
        StableDiffusionSafetyChecker,
        CLIPImageProcessor,
        processor_reference=str(folder / PROCESSOR),
    )
    return SafetyChecker(model, processor)


@torch.inference_mode()
def blacken(
    checker: SafetyChecker, pictures: list[Image.Image]
) -> tuple[list[Image.Image], list[bool]]:
    """The pictures as they may be shown, and which were flagged."""
    pixels = checker.processor(pictures, return_tensors="pt").pixel_values.to(device())
    _, flagged = checker.model(
        clip_input=pixels,
        images=np.stack([np.asarray(picture, dtype=np.float32) for picture in pictures]),
    )
    shown = [
        Image.new("RGB", picture.size) if bad else picture
        for picture, bad in zip(pictures, flagged, strict=True)
    ]
    return shown, [bool(bad) for bad in flagged]
