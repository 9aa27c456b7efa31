"""The node: an exported folder to ComfyUI's CLIP. Weights, clip skip, LoRAs, embeddings and
ConditioningConcat are ComfyUI's own nodes, which take it as they take any other.
"""

from typing import Any

import folder_paths
import torch

from . import encoders
from .export_folder import PARTS, FolderError, find, names, read

DTYPES = {"default": None, "fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class LoadJapaneseCLIP:
    """`folder`: below models/diffusers (or another folder that ComfyUI knows as `diffusers`)."""

    CATEGORY = "loaders"
    DESCRIPTION = (
        "Loads the Japanese text encoders of an SDXL from a folder in models/diffusers. Take the "
        "model and the VAE from any SDXL checkpoint."
    )
    FUNCTION = "load"
    RETURN_TYPES = ("CLIP",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        folders = names(folder_paths.get_folder_paths("diffusers"))
        return {
            "required": {
                "folder": (folders, {"tooltip": "An exported folder: encoders, base or refiner."}),
                "part": (list(PARTS), {"tooltip": "Which model reads the prompt."}),
                "dtype": (list(DTYPES), {"tooltip": "default: as ComfyUI loads text encoders."}),
            }
        }

    @classmethod
    def VALIDATE_INPUTS(cls, folder: str | None = None, part: str | None = None) -> bool | str:
        """Before anything is computed. A value that comes over a link is not known yet."""
        if folder is None or part is None:
            return True
        try:
            read(find(folder, folder_paths.get_folder_paths("diffusers")), part)
        except FolderError as error:
            return str(error)
        return True

    def load(self, folder: str, part: str, dtype: str) -> tuple[Any]:
        """Raises FolderError."""
        found = find(folder, folder_paths.get_folder_paths("diffusers"))
        embeddings = folder_paths.get_folder_paths("embeddings")
        return (encoders.load(read(found, part), embeddings, DTYPES[dtype]),)
