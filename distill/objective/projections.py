"""The key and value projections of a UNet's cross-attention, read from its folder one by one.

In:  the `unet` folder of a diffusers repository, in one safetensors file or in several.
Out: tensors `to_k.weight` and `to_v.weight` by layer, and one SHA-256 of them all.
"""

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from configs.errors import DataError, first_line
from configs.files import inside, read_json, value_sha256
from distill.sdxl.repository import fetch, tensor_shapes, weights_file


class Projections:
    """Reads single tensors of a UNet from its safetensors file or shards, in the stock precision
    or, where only that is there, in fp16.
    """

    def __init__(self, folder: str) -> None:
        unet = fetch(folder, ["unet/*.json", "unet/*.safetensors"], ["*.fp16.*"]) / "unet"
        indices = sorted(
            unet.glob("*.safetensors.index.json"), key=lambda path: ("fp16" in path.name, path.name)
        )
        plain = sorted(
            unet.glob("*.safetensors"), key=lambda path: ("fp16" in path.name, path.name)
        )
        if not indices and not plain:
            weights_file(unet, "diffusion_pytorch_model")  # says what lies there instead
        self.shards = _shards(indices[0]) if indices else {}
        self.file = plain[0] if plain else unet
        self._digests: dict[str, str] = {}  # of the tensors that were read

    def read(self, name: str) -> torch.Tensor:
        path = self.shards.get(name, self.file)
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
        names = self.shards or tensor_shapes(self.file)
        for name in names:
            if (
                name.endswith((".attn2.to_k.weight", ".attn2.to_v.weight"))
                and name not in self._digests
            ):
                self.read(name)
        return value_sha256(self._digests)


def _shards(index: Path) -> dict[str, Path]:
    """The file that holds each tensor. Raises DataError."""
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(shard, str) for shard in shards.values()):
        raise DataError(f"{index}: has no weight_map of file names; fetch the folder again")
    return {name: inside(index.parent, shard) for name, shard in shards.items()}
