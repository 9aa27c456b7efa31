"""The two text encoders of any SDXL folder, through the stock transformers classes: what the unmodified pipelines run.

In:  a diffusers folder (or hub name) with `tokenizer`, `text_encoder`, `tokenizer_2`, `text_encoder_2`.
Out: token ids and `Encoding`s. English teacher and exported Japanese student are both read through here.

Shape letters: B batch, L token position (77), D width, P pooled width.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from configs.command import DataError

ENCODERS = ("clip_l", "clip_bigg")
SUBFOLDERS = {"clip_l": ("tokenizer", "text_encoder"), "clip_bigg": ("tokenizer_2", "text_encoder_2")}


class Encoding(NamedTuple):
    """What SDXL's UNet reads of a prompt: `hidden_states[-2]` of both encoders, and the second one's `text_embeds`."""

    clip_l_BLD: torch.Tensor
    clip_bigg_BLD: torch.Tensor
    pooled_BP: torch.Tensor

    @property
    def prompt_embeds_BLD(self) -> torch.Tensor:
        """(B, 77, D of clip_l + D of clip_bigg), as `encode_prompt` returns it."""
        return torch.cat([self.clip_l_BLD, self.clip_bigg_BLD], dim=-1)


class TokenIds(NamedTuple):
    """Ids of the same texts for each encoder, (B, 77), padded as each tokenizer pads, and the position of the first EOS in each, (B,).

    The two differ in more than their pads: SDXL's second tokenizer reads every "!" as its pad token.
    """

    clip_l_BL: torch.Tensor
    clip_bigg_BL: torch.Tensor
    clip_l_eos_B: torch.Tensor
    clip_bigg_eos_B: torch.Tensor


@dataclass(frozen=True)
class TextEncoders:
    """Tokenizers and encoders by name (`clip_l`, `clip_bigg`)."""

    tokenizers: dict[str, Any]
    models: dict[str, Any]

    def tokenize(self, texts: list[str]) -> TokenIds:
        """Truncates and pads to `model_max_length` (77) as the pipelines do."""
        ids = {
            name: tokenizer(texts, padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt").input_ids
            for name, tokenizer in self.tokenizers.items()
        }
        eos = {name: (ids[name] == tokenizer.eos_token_id).int().argmax(dim=1) for name, tokenizer in self.tokenizers.items()}
        return TokenIds(ids["clip_l"], ids["clip_bigg"], eos["clip_l"], eos["clip_bigg"])

    @torch.no_grad()
    def encode_ids(self, ids: TokenIds) -> Encoding:
        """Runs both encoders without an attention mask, as SDXL does."""
        clip_l = self.models["clip_l"](ids.clip_l_BL, output_hidden_states=True)
        clip_bigg = self.models["clip_bigg"](ids.clip_bigg_BL, output_hidden_states=True)
        return Encoding(clip_l.hidden_states[-2], clip_bigg.hidden_states[-2], clip_bigg.text_embeds)

    def encode(self, texts: list[str]) -> Encoding:
        return self.encode_ids(self.tokenize(texts))


def load_text_encoders(folder: str | Path, dtype: torch.dtype = torch.float32) -> TextEncoders:
    """Loads both encoders, frozen and in eval mode. Raises DataError with the folder and the cause."""
    from transformers import AutoTokenizer, CLIPTextModel, CLIPTextModelWithProjection

    classes = {"clip_l": CLIPTextModel, "clip_bigg": CLIPTextModelWithProjection}
    if not Path(folder).is_dir() and not looks_like_hub_name(folder):
        raise DataError(f"{folder}: there is no such folder; give an SDXL folder in diffusers layout, or its hub name")
    try:
        tokenizers = {name: AutoTokenizer.from_pretrained(folder, subfolder=SUBFOLDERS[name][0]) for name in ENCODERS}
        models = {name: classes[name].from_pretrained(folder, subfolder=SUBFOLDERS[name][1], dtype=dtype).eval() for name in ENCODERS}
    except Exception as error:  # each library raises its own kinds for the same cause: a file that is missing or damaged
        raise DataError(f"{folder}: its text encoders cannot be loaded ({first_line(error)}); fetch the folder again") from error
    for model in models.values():
        model.requires_grad_(False)
    return TextEncoders(tokenizers, models)


def load_tokenizer(folder: str | Path, name: str) -> Any:
    """One of the folder's tokenizers (`clip_l` or `clip_bigg`), the very one SDXL ships. Raises DataError."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, subfolder=SUBFOLDERS[name][0])
    except Exception as error:  # as above
        raise DataError(f"{folder}: its tokenizer cannot be loaded ({first_line(error)}); fetch the folder again") from error


def looks_like_hub_name(name: str | Path) -> bool:
    """`organisation/model`: one slash, neither a path that starts at a root nor a relative one."""
    text = str(name)
    return text.count("/") == 1 and not text.startswith((".", "/", "~")) and not Path(text).parent.exists()


def first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
