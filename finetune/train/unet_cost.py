"""What a UNet costs, counted on its shapes: its forward runs on PyTorch's meta device, where
tensors have sizes and no contents.

In:  a UNet's config. Out: FLOP and bytes of one picture; nothing is allocated.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode

from distill.tokens.prompts import POSITIONS

TIME_IDS = 6


@dataclass(frozen=True)
class UNetCost:
    """Of one picture. `forward`: FLOP. `attention`, `weights`: parts of it that a backward computes
    twice: products of two inputs, and modules that are trained. `kept`: bytes that autograd keeps
    until the backward; `block`: what the largest block keeps while it is computed again, under
    gradient checkpointing. `parameters`, `trained`: numbers of them.
    """

    forward: float
    attention: float
    weights: float
    kept: float
    block: float
    parameters: int
    trained: int


class _Attention(torch.autograd.Function):
    """Attention as fused kernels keep it: queries, keys, values and the result."""

    @staticmethod
    def forward(ctx: Any, *qkv: torch.Tensor) -> torch.Tensor:
        query, _, value = qkv
        result = query.new_empty(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(*qkv, result)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        raise AssertionError("only forwards are counted")


def unet_on_meta(config: dict[str, Any], dtype: torch.dtype) -> Any:
    """The architecture of a config, without memory for its weights."""
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(
            {key: value for key, value in config.items() if not key.startswith("_")}
        )
    return unet.to(dtype).requires_grad_(False).train()


def count(unet: Any, side: int, text_is_trained: bool, checkpointing: bool) -> UNetCost:
    """Of a UNet on the meta device whose trained parameters require gradients. `side`: of the
    square latents.
    """
    trained = {name for name, one in unet.named_parameters() if one.requires_grad}
    own = {one.untyped_storage()._cdata for one in unet.parameters()}
    kept, blocks, attention = _Kept(own), [0.0], [0.0]

    def block_alone(block: Any, *inputs: Any) -> Any:
        """What gradient checkpointing does in a forward: keeps the block's inputs alone."""
        for one in inputs:
            if isinstance(one, torch.Tensor):
                kept.add(one)
        of_block = _Kept(own)
        with of_block.hooks():
            result = block(*inputs)
        blocks.append(of_block.total)
        return result

    if checkpointing:
        unet.enable_gradient_checkpointing(block_alone)
    counter = FlopCounterMode(display=False)
    with counter, kept.hooks(), _counted_attention(attention):
        unet(**_inputs(unet, side, text_is_trained))
    by_module = counter.get_flop_counts()
    prefix = f"{type(unet).__name__}."
    leaves = {name.rpartition(".")[0] for name in trained}
    weights = sum(sum(by_module.get(prefix + name, {}).values()) for name in leaves)
    return UNetCost(
        forward=float(counter.get_total_flops()) + attention[0],
        attention=attention[0],
        weights=float(weights),
        kept=kept.total,
        block=max(blocks),
        parameters=sum(one.numel() for one in unet.parameters()),
        trained=sum(one.numel() for name, one in unet.named_parameters() if name in trained),
    )


class _Kept:
    """Bytes of the tensors that autograd saves, each storage once, without those in `beside`."""

    def __init__(self, beside: set[int]) -> None:
        self._beside, self._seen, self.total = beside, dict[int, torch.Tensor](), 0.0

    def add(self, tensor: torch.Tensor) -> torch.Tensor:
        key = tensor.untyped_storage()._cdata
        if key not in self._beside and key not in self._seen:
            self._seen[key] = tensor  # held, or its key would be given to another
            self.total += tensor.untyped_storage().nbytes()
        return tensor

    def hooks(self) -> Any:
        return torch.autograd.graph.saved_tensors_hooks(self.add, lambda tensor: tensor)


@contextmanager
def _counted_attention(total: list[float]) -> Iterator[None]:
    """Fused attention, which the meta device lacks; adds its FLOP: two products."""

    def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **_: Any) -> Any:
        scores, result = query.numel() * key.shape[-2], query.shape[:-1].numel()
        total[0] += 2.0 * (scores + result * value.shape[-2:].numel())
        return _Attention.apply(query, key, value)

    with patch.object(F, "scaled_dot_product_attention", attend):
        yield


def _inputs(unet: Any, side: int, text_is_trained: bool) -> dict[str, Any]:
    config, dtype = unet.config, unet.dtype
    context = torch.empty(1, POSITIONS, config.cross_attention_dim, device="meta", dtype=dtype)
    found: dict[str, Any] = {
        "sample": torch.empty(1, config.in_channels, side, side, device="meta", dtype=dtype),
        "timestep": torch.empty(1, device="meta"),
        "encoder_hidden_states": context.requires_grad_(text_is_trained),
    }
    if config.addition_embed_type == "text_time":
        width = config.projection_class_embeddings_input_dim
        pooled = width - TIME_IDS * config.addition_time_embed_dim
        found["added_cond_kwargs"] = {
            "text_embeds": torch.empty(1, pooled, device="meta", dtype=dtype),
            "time_ids": torch.empty(1, TIME_IDS, device="meta", dtype=dtype),
        }
    return found
