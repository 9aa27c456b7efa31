"""Trains the miniature's text encoders, before the UNets and frozen from then on, as SDXL's were.

CLIP's were trained to match captions to pictures. Here the content of a picture is known exactly,
so the encoders are trained to let a probe read it: from the pooled state by linear heads, from the
penultimate states by attention (as a UNet will read them). For half of the captions the probe sees
only BOS and content, so that the words themselves carry the scene, not only EOS and padding.

Shape letters: B batch, L token position, D width, A attributes, P pooled width.
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import CLIPTokenizer

from corpora.miniature import miniature
from corpora.miniature.caption_reader import CaptionReader
from corpora.miniature.design import OF_TOYWORLD, Design
from corpora.miniature.fit import DEVICE, batch_of, fit


class SceneProbe(nn.Module):
    """Reads a picture's content from the text states: one learned query and one linear head per
    attribute.
    """

    def __init__(
        self, width: int, pooled_width: int | None, attributes: tuple[tuple[str, ...], ...]
    ) -> None:
        super().__init__()
        self.queries_AD = nn.Parameter(torch.randn(len(attributes), width))
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.heads = nn.ModuleList(nn.Linear(width, len(values)) for values in attributes)
        self.pooled_heads = nn.ModuleList(
            nn.Linear(pooled_width, len(values)) for values in attributes if pooled_width
        )

    def forward(
        self, states_BLD: torch.Tensor, pooled_BP: torch.Tensor | None, hidden_BL: torch.Tensor
    ) -> list[torch.Tensor]:
        """Logits of every attribute from the states, then those from the pooled state if there is
        one; `hidden_BL` is True at masked positions.
        """
        queries_BAD = self.queries_AD.expand(len(states_BLD), -1, -1)
        read_BAD, _ = self.attention(
            queries_BAD, states_BLD, states_BLD, key_padding_mask=hidden_BL, need_weights=False
        )
        return [head(read_BAD[:, index]) for index, head in enumerate(self.heads)] + [
            head(pooled_BP) for head in self.pooled_heads
        ]


def labels(scenes: list[Any], design: Design = OF_TOYWORLD) -> torch.Tensor:
    """(B, A) indices into the attributes' values."""
    rows = [
        [
            options.index(value)
            for options, value in zip(design.attributes, design.attributes_of(scene), strict=True)
        ]
        for scene in scenes
    ]
    return torch.tensor(rows, device=DEVICE)


def tail_mask(eos_position_B: torch.Tensor, share: float) -> torch.Tensor:
    """(B, L) bool, True from EOS on, for a random `share` of the rows."""
    device = eos_position_B.device
    positions = torch.arange(miniature.POSITIONS, device=device)
    chosen_B = (torch.rand(len(eos_position_B)) < share).to(device)
    return (positions[None] >= eos_position_B[:, None]) & chosen_B[:, None]


def train(
    tokenizers: tuple[CLIPTokenizer, CLIPTokenizer], work: Path, design: Design
) -> CaptionReader:
    torch.manual_seed(0)
    encoders = miniature.text_encoders(len(tokenizers[0]), design.text_widths)
    reader = CaptionReader(*encoders, tokenizers)
    probe = SceneProbe(sum(design.text_widths), design.text_widths[1], design.attributes)

    def loss(step: int) -> torch.Tensor:
        scenes, texts = batch_of("text", step, world=design.world)
        states_BLD, pooled_BP, eos_position_B = reader(texts)
        logits = probe(states_BLD, pooled_BP, tail_mask(eos_position_B, 0.5))
        targets_BA = labels(scenes, design)
        both = torch.cat([targets_BA, targets_BA], dim=1)
        return torch.stack(
            [F.cross_entropy(value, both[:, index]) for index, value in enumerate(logits)]
        ).mean()

    fit(design.stages["text"], nn.ModuleList([reader, probe]), loss, work)
    return reader
