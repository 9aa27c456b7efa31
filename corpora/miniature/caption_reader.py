"""A miniature's two text encoders as one reader of captions, and its finished folder.

Shape letters: B batch, L token position, D width, P pooled width.
"""

from pathlib import Path

import torch
from torch import nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from corpora.miniature import miniature
from corpora.miniature.fit import DEVICE


class CaptionReader(nn.Module):
    """Both encoders, frozen after training: texts to the tensors that SDXL's UNet reads."""

    def __init__(
        self,
        clip_l: CLIPTextModel,
        clip_bigg: CLIPTextModelWithProjection,
        tokenizers: tuple[CLIPTokenizer, CLIPTokenizer],
    ) -> None:
        super().__init__()
        self.clip_l, self.clip_bigg, self.tokenizers = clip_l, clip_bigg, tokenizers

    def forward(self, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Penultimate states (B, L, D), pooled (B, P) and the position of EOS (B,)."""
        device = self.clip_l.device
        ids = [miniature.token_ids(tokenizer, texts).to(device) for tokenizer in self.tokenizers]
        first = self.clip_l(ids[0], output_hidden_states=True).hidden_states[-2]
        second = self.clip_bigg(ids[1], output_hidden_states=True)
        eos_position = (ids[0] == self.tokenizers[0].eos_token_id).int().argmax(dim=1)
        return (
            torch.cat([first, second.hidden_states[-2]], dim=-1),
            second.text_embeds,
            eos_position,
        )


def load_reader(folder: Path) -> CaptionReader:
    """The finished encoders of `models/base`, frozen, on `DEVICE`."""
    clip_l = CLIPTextModel.from_pretrained(
        folder / "text_encoder", dtype=torch.float32, trust_remote_code=False, use_safetensors=True
    )
    clip_bigg = CLIPTextModelWithProjection.from_pretrained(
        folder / "text_encoder_2",
        dtype=torch.float32,
        trust_remote_code=False,
        use_safetensors=True,
    )
    return (
        CaptionReader(clip_l, clip_bigg, miniature.load_tokenizers(folder))
        .eval()
        .requires_grad_(False)
        .to(DEVICE)
    )
