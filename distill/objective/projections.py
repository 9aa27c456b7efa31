"""The key and value projections of a UNet's cross-attention, read from its folder one by one.

In:  the `unet` folder of a diffusers repository, in one safetensors file or in several.
Out: tensors `to_k.weight` and `to_v.weight` by layer, and one SHA-256 of them all.
"""

import hashlib

import torch
from safetensors import SafetensorError, safe_open

from configs.errors import DataError, first_line
from configs.files import value_sha256
from configs.stored_weights import DIFFUSERS_STEM, find
from distill.sdxl.repository import fetch_parts, tensor_shapes


class Projections:
    """Reads single tensors of a UNet from its safetensors file or shards, in the precision they are
    stored in.
    """

    def __init__(self, folder: str) -> None:
        unet = fetch_parts(folder, ["unet"]) / "unet"
        self.weights = find(unet, DIFFUSERS_STEM)
        self._digests: dict[str, str] = {}  # of the tensors that were read

    def read(self, name: str) -> torch.Tensor:
        path = self.weights.holder(name)
        try:
            with safe_open(path, "pt") as file:
                tensor: torch.Tensor = file.get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise DataError(
                f"{path}: {name} cannot be read ({first_line(error)}); fetch the folder again"
            ) from None
        self._digests[name] = hashlib.sha256(
            tensor.flatten().view(torch.uint8).numpy().data
        ).hexdigest()
        return tensor

    def sha256(self) -> str:
        """Of all projections of cross-attention: what training reads of this UNet.

        Raises DataError.
        """
        names = {name for path in self.weights.files for name in tensor_shapes(path)}
        for name in sorted(names):
            if (
                name.endswith((".attn2.to_k.weight", ".attn2.to_v.weight"))
                and name not in self._digests
            ):
                self.read(name)
        return value_sha256(self._digests)
