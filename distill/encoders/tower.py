"""A CLIP text encoder as training runs it: only what the UNet reads, in transformers' weight
layout.

Equal to transformers' CLIPTextModel and CLIPTextModelWithProjection (tests prove it), with less
work where the UNet reads the penultimate states (SDXL): they need all layers but the last; the
pooled state needs the last layer at the EOS position alone. Without a projection (CLIP-L) neither
the last layer nor the final norm is read: they are kept, so that the weights stay complete, and
never run. Where the UNet reads the final states (SD), all of it runs.

Shape letters: B batch, L token position, D width, H heads, K width of one head, P pooled width.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from distill.encoders.family import States

ACTIVATIONS = {
    "gelu": F.gelu,
    "quick_gelu": lambda x: (
        x * torch.sigmoid(1.702 * x)
    ),  # OpenAI's CLIP; transformers' QuickGELUActivation
}


class SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (
            nn.Linear(width, width) for _ in range(4)
        )

    def split_heads(self, x_BLD: torch.Tensor) -> torch.Tensor:
        return x_BLD.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(
        self, x_BLD: torch.Tensor, last_position_B: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Causal attention of every position, or of one position a row when `last_position_B` is
        given: (B, L or 1, D).
        """
        key_BHLK, value_BHLK = (
            self.split_heads(self.k_proj(x_BLD)),
            self.split_heads(self.v_proj(x_BLD)),
        )
        if last_position_B is None:
            query_BHLK = self.split_heads(self.q_proj(x_BLD))
            out_BHLK = F.scaled_dot_product_attention(
                query_BHLK, key_BHLK, value_BHLK, is_causal=True
            )
        else:
            query_BHLK = self.split_heads(self.q_proj(at_position(x_BLD, last_position_B)))
            visible_B11L = (
                torch.arange(x_BLD.shape[1], device=x_BLD.device) <= last_position_B[:, None]
            )[:, None, None]
            out_BHLK = F.scaled_dot_product_attention(
                query_BHLK, key_BHLK, value_BHLK, attn_mask=visible_B11L
            )
        return self.out_proj(out_BHLK.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    def __init__(self, width: int, inner: int, activation: str) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, inner), nn.Linear(inner, width)
        self.activation = ACTIVATIONS[activation]

    def forward(self, x_BLD: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.activation(self.fc1(x_BLD)))


class EncoderLayer(nn.Module):
    def __init__(self, width: int, heads: int, inner: int, activation: str, eps: float) -> None:
        super().__init__()
        self.self_attn = SelfAttention(width, heads)
        self.layer_norm1, self.layer_norm2 = (
            nn.LayerNorm(width, eps=eps),
            nn.LayerNorm(width, eps=eps),
        )
        self.mlp = MLP(width, inner, activation)

    def forward(
        self, x_BLD: torch.Tensor, last_position_B: torch.Tensor | None = None
    ) -> torch.Tensor:
        """All positions, or only `last_position_B` of each row: (B, L or 1, D)."""
        residual_BLD = x_BLD if last_position_B is None else at_position(x_BLD, last_position_B)
        x_BLD = residual_BLD + self.self_attn(self.layer_norm1(x_BLD), last_position_B)
        return x_BLD + self.mlp(self.layer_norm2(x_BLD))


class Embeddings(nn.Module):
    def __init__(self, vocab_size: int, positions: int, width: int) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(vocab_size, width)
        self.position_embedding = nn.Embedding(positions, width)

    def forward(self, input_ids_BL: torch.Tensor) -> torch.Tensor:
        return (
            self.token_embedding(input_ids_BL)
            + self.position_embedding.weight[: input_ids_BL.shape[1]]
        )


class LayerStack(nn.Module):
    def __init__(self, layers: list[EncoderLayer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)


class TextTransformer(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        width, eps = config.hidden_size, config.layer_norm_eps
        self.embeddings = Embeddings(config.vocab_size, config.max_position_embeddings, width)
        self.encoder = LayerStack(
            [
                EncoderLayer(
                    width,
                    config.num_attention_heads,
                    config.intermediate_size,
                    config.hidden_act,
                    eps,
                )
                for _ in range(config.num_hidden_layers)
            ]
        )
        self.final_layer_norm = nn.LayerNorm(width, eps=eps)


class TextTower(nn.Module):
    """One encoder.

    `config` is a transformers CLIPTextConfig; parameter names are transformers' (`text_model....`).
    `states`: which of them `forward` gives.
    """

    def __init__(self, config: Any, states: States, with_projection: bool) -> None:
        super().__init__()
        self.states = states
        self.text_model = TextTransformer(config)
        self.text_projection = (
            nn.Linear(config.hidden_size, config.projection_dim, bias=False)
            if with_projection
            else None
        )

    def forward(
        self, input_ids_BL: torch.Tensor, eos_position_B: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(B, L) ids to the states (B, L, D) and, with a projection, the pooled state (B, P)."""
        x_BLD = self.text_model.embeddings(input_ids_BL)
        *layers, last = self.text_model.encoder.layers
        for layer in layers:
            x_BLD = layer(x_BLD)
        if self.states == "final":
            x_BLD = self.text_model.final_layer_norm(last(x_BLD))
            eos_BD = at_position(x_BLD, eos_position_B)[:, 0]
        elif self.text_projection is not None:
            eos_BD = self.text_model.final_layer_norm(last(x_BLD, eos_position_B)[:, 0])
        if self.text_projection is None:
            return x_BLD, None
        return x_BLD, self.text_projection(eos_BD)

    def compile_layers(self) -> None:
        """torch.compile, layer by layer: layers of one width share a compilation, for any number of
        prompts and positions.

        The last layer is not compiled where it runs at one position only, or never.
        """
        layers = self.text_model.encoder.layers
        for layer in layers if self.states == "final" else layers[:-1]:
            layer.compile(dynamic=True)

    def dead_parameters(self) -> list[nn.Parameter]:
        """Parameters that neither the states nor the pooled state depend on."""
        if self.states == "final" or self.text_projection is not None:
            return []
        return [
            *self.text_model.encoder.layers[-1].parameters(),
            *self.text_model.final_layer_norm.parameters(),
        ]


def at_position(x_BLD: torch.Tensor, position_B: torch.Tensor) -> torch.Tensor:
    """(B, 1, D): one position of every row."""
    return x_BLD.gather(1, position_B[:, None, None].expand(-1, 1, x_BLD.shape[-1]))


def tower_of(model: Any, states: States, dtype: torch.dtype | None = None) -> TextTower:
    """A tower with copies of the weights of a transformers CLIPTextModel or
    CLIPTextModelWithProjection, under the key names of transformers 4 or 5. `dtype`: of the copies,
    the model's own where it is None.
    """
    with torch.device("meta"):  # skips the random initialisation: seconds at full size
        tower = TextTower(model.config, states, with_projection=hasattr(model, "text_projection"))
    state = {
        with_prefix(key): value.to(dtype or value.dtype, copy=True)
        for key, value in model.state_dict().items()
        if not key.endswith("position_ids")
    }
    tower.load_state_dict(state, assign=True)
    return tower


def with_prefix(key: str) -> str:
    """transformers 5 drops `text_model.` from CLIPTextModel's keys; on disk and here they always
    have it.
    """
    return key if key.startswith(("text_model.", "text_projection.")) else f"text_model.{key}"
