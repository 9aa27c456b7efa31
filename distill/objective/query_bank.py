"""The query bank: queries of the frozen UNets' cross-attention layers, recorded once
(`distill/objective/recording.py`), so that training needs no UNet and no image.

In:  `<run>/distill/measured/query_bank.safetensors`: per layer a sample of its queries (fp16), the
     variance of the layer's outputs on the teacher's states, and how much the UNet's prediction
     changes when this layer alone sees another prompt. The `to_k` and `to_v` weights stay in the
     UNet's file; the bank holds their digests, so that a changed UNet is detected.

Shape letters: B batch, L token position, D width, N queries, H heads, K width of one head, E = H *
K.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open

from configs.errors import DataError
from configs.schema.distill import QueryBank, unet_shares
from distill.encoders.family import Family
from distill.encoders.teacher import Encoding
from distill.objective.distances import attention_output
from distill.objective.projections import Projections


@dataclass(frozen=True)
class CrossAttentionLayer:
    """One `attn2` of a UNet: recorded queries, K/V projections, and the variance of its outputs
    over prompts.

    `parts`: the encoders whose states it reads. `share`: probability of being sampled, proportional
    to how much the prediction changes when only this layer sees another prompt; sums to 1 over all
    layers. `dtype`: what outputs are computed in, where it is not that of the weights.
    """

    name: str
    parts: tuple[str, ...]
    queries_NHK: torch.Tensor
    to_k_ED: torch.Tensor
    to_v_ED: torch.Tensor
    variance: torch.Tensor
    share: float
    dtype: torch.dtype | None = None

    def output(
        self, encoding: Encoding, chosen_N: torch.Tensor, visible_BL: torch.Tensor | None = None
    ) -> torch.Tensor:
        """(B, H, N, K): the layer's output for the chosen queries; `visible_BL` masks states."""
        queries_NHK, context_BLD = self.queries_NHK[chosen_N], encoding.context(self.parts)
        dtype = self.dtype or self.to_k_ED.dtype
        return attention_output(
            queries_NHK.to(dtype),
            context_BLD.to(dtype),
            self.to_k_ED.to(dtype),
            self.to_v_ED.to(dtype),
            visible_BL,
        )


def load(
    path: Path,
    folders: dict[str, str],
    settings: QueryBank,
    family: Family,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> list[CrossAttentionLayer]:
    """The layers with their projections, read from the UNets' own files; their outputs are computed
    in `dtype`. On a CPU they stay as they are stored, mapped from the files: a step reads a few of
    the hundred.

    Raises DataError if those are missing or have changed.
    """
    with safe_open(path, "pt", device=str(device)) as file:
        heads, digests = (json.loads(file.metadata()[name]) for name in ("heads", "projections"))
        names = file.keys()  # the handle is no mapping
        stored = {name: file.get_tensor(name) for name in names}
    shares = layer_shares(
        {name: float(stored[f"{name}.influence"]) for name in heads}, settings.refiner_share
    )
    held = None if torch.device(device).type == "cpu" else dtype
    weights = {unet: Projections(folder) for unet, folder in folders.items()}
    layers = []
    for name, count in heads.items():
        unet, _, layer_name = name.partition(".")
        to_k_ED, to_v_ED = (
            weights[unet].read(f"{layer_name}.{kind}.weight").to(device, held)
            for kind in ("to_k", "to_v")
        )
        queries_NHK = stored[f"{name}.queries"].to(device, held).unflatten(-1, (count, -1))
        layers.append(
            CrossAttentionLayer(
                name,
                family.parts_read_by(unet),
                queries_NHK,
                to_k_ED,
                to_v_ED,
                stored[f"{name}.variance"],
                shares[name],
                dtype,
            )
        )
    for unet, projections in weights.items():
        if projections.sha256() != digests[unet]:
            raise DataError(
                f"{folders[unet]}: its UNet is not the one the query bank was recorded from; put "
                "that one back"
            )
    return layers


def layer_shares(influences: dict[str, float], refiner_share: float) -> dict[str, float]:
    """Each layer's probability of being sampled: its UNet's share (`unet_shares`), split within the
    UNet in proportion to influence.
    """
    totals: dict[str, float] = {}
    for name, value in influences.items():
        totals[unet_of(name)] = totals.get(unet_of(name), 0.0) + value
    parts = unet_shares(totals, refiner_share)
    return {
        name: parts[unet_of(name)] * value / totals[unet_of(name)]
        for name, value in influences.items()
    }


def unet_of(layer: str) -> str:
    """The UNet of a layer's name: `base` of `base.mid_block...`."""
    return layer.partition(".")[0]
