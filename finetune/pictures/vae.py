"""The autoencoder of `distill.base`: pixels to the mean and deviation of latents, in float32.

In:  the `vae` folder of a repository in diffusers layout, and its pipeline's class, which decides
     how latents are scaled.
"""

from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL

from configs import model_folder
from configs.errors import DataError, explained
from configs.files import file_sha256, read_json, value_sha256
from configs.records import Record
from configs.references import ModelName
from configs.stored_weights import DIFFUSERS_STEM, find, variant_of
from distill.sdxl.pipelines import device, quiet
from distill.sdxl.repository import STEMS, check_weights, fetch_parts, read_index

STEM = STEMS["vae"]
USUAL_SCALING = 0.18215  # AutoencoderKL's own default


class LatentScaling(Record):
    """From the VAE's latents to the UNet's; `mean` and `std`: a number a channel, or None."""

    factor: float
    mean: list[float] | None
    std: list[float] | None

    def scaled(self, latents_BCHW: torch.Tensor) -> torch.Tensor:
        """Latents as the UNet reads them, as the family's image-to-image pipeline makes them."""
        if self.mean is None or self.std is None:
            return latents_BCHW * self.factor
        mean, std = (
            torch.tensor(one, dtype=latents_BCHW.dtype, device=latents_BCHW.device).view(
                1, -1, 1, 1
            )
            for one in (self.mean, self.std)
        )
        return (latents_BCHW - mean) * self.factor / std


class VaeFolder:
    """A VAE that is on this machine and not loaded yet. Raises DataError."""

    def __init__(self, base: ModelName) -> None:
        root = fetch_parts(base, ["vae"])
        self.base, self.folder = base, root / "vae"
        if not self.folder.is_dir():
            raise DataError(f"{self.folder}: missing; give a base with its autoencoder")
        model_folder.check_folder(self.folder)
        check_weights(self.folder, STEM)
        self.config = read_json(self.folder / "config.json")
        self.pipeline = str(read_index(root).get("_class_name", ""))

    @property
    def sha256(self) -> str:
        """Of the config and all weights."""
        paths = find(self.folder, STEM).read
        return value_sha256({path.name: file_sha256(path) for path in paths})

    @property
    def pixels_a_latent(self) -> int:
        """How many pixels wide and high what one latent stands for is."""
        return int(2 ** (len(self.config.get("block_out_channels", [0])) - 1))

    @property
    def channels(self) -> int:
        return int(self.config.get("latent_channels", 4))

    @property
    def scaling(self) -> LatentScaling:
        """SDXL's pipelines heed `latents_mean` and `latents_std`; those of SD 1 and 2 do not."""
        heeded = self.pipeline.startswith("StableDiffusionXL") or not self.pipeline
        mean, std = (
            self.config.get(key) if heeded else None for key in ("latents_mean", "latents_std")
        )
        factor = self.config.get("scaling_factor", USUAL_SCALING)
        with explained(f"{self.folder}: its scaling is damaged", "fetch the folder again"):
            return LatentScaling(factor=float(factor), mean=mean, std=std)

    def load(self) -> "Vae":
        quiet()
        with explained(f"{self.folder}: the VAE cannot be loaded", "fetch the folder again"):
            model = AutoencoderKL.from_pretrained(
                self.folder,
                variant=variant_of(self.folder, DIFFUSERS_STEM),
                trust_remote_code=False,
                use_safetensors=True,
            )
        return Vae(model.float().eval().requires_grad_(False).to(device()))


class Vae:
    def __init__(self, model: Any) -> None:
        self.model = model

    @torch.inference_mode()
    def encode(self, pixels_BHW3: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation (B, C, H / f, W / f) fp16 on the CPU, before any scaling, of
        8-bit pictures. What overflows fp16 is infinite.
        """
        pixels = torch.tensor(pixels_BHW3, device=self.model.device)
        pixels_B3HW = pixels.permute(0, 3, 1, 2).float().contiguous() / 127.5 - 1.0
        found = self.model.encode(pixels_B3HW).latent_dist
        return found.mean.half().cpu(), found.std.half().cpu()
