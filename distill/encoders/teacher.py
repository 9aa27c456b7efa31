"""The two text encoders of any SDXL folder, through the stock transformers classes: what the
unmodified pipelines run.

In:  a diffusers folder (or hub name) with `tokenizer`, `text_encoder`, `tokenizer_2`,
     `text_encoder_2`; one encoder's weights may come from OpenCLIP instead (`open_clip:MODEL/TAG`),
     the folder then gives its `config.json` and tokenizer.
Out: token ids and `Encoding`s. English teacher and exported Japanese student are both read through
     here.

Shape letters: B batch, L token position (77), D width, P pooled width.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from configs import model_folder
from configs.errors import DataError, explained, first_line
from configs.references import looks_like_hub_name, not_given
from distill.encoders import open_clip_weights

ENCODERS = ("clip_l", "clip_bigg")
SUBFOLDERS = {
    "clip_l": ("tokenizer", "text_encoder"),
    "clip_bigg": ("tokenizer_2", "text_encoder_2"),
}


class Encoding(NamedTuple):
    """What SDXL's UNet reads of a prompt: `hidden_states[-2]` of both encoders, and the second
    one's `text_embeds`.
    """

    clip_l_BLD: torch.Tensor
    clip_bigg_BLD: torch.Tensor
    pooled_BP: torch.Tensor

    @property
    def prompt_embeds_BLD(self) -> torch.Tensor:
        """(B, 77, D of clip_l + D of clip_bigg), as `encode_prompt` returns it."""
        return torch.cat([self.clip_l_BLD, self.clip_bigg_BLD], dim=-1)


class TokenIds(NamedTuple):
    """Ids of the same texts for each encoder, (B, 77), padded as each tokenizer pads, and the
    position of the first EOS in each, (B,).

    The two differ in more than their pads: SDXL's second tokenizer reads every "!" as its pad
    token.
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
            name: tokenizer(
                texts,
                padding="max_length",
                max_length=tokenizer.model_max_length,
                truncation=True,
                return_tensors="pt",
            ).input_ids
            for name, tokenizer in self.tokenizers.items()
        }
        eos = {
            name: (ids[name] == tokenizer.eos_token_id).int().argmax(dim=1)
            for name, tokenizer in self.tokenizers.items()
        }
        return TokenIds(ids["clip_l"], ids["clip_bigg"], eos["clip_l"], eos["clip_bigg"])

    @torch.no_grad()
    def encode_ids(self, ids: TokenIds) -> Encoding:
        """Runs both encoders without an attention mask, as SDXL does."""
        clip_l = self.models["clip_l"](ids.clip_l_BL, output_hidden_states=True)
        clip_bigg = self.models["clip_bigg"](ids.clip_bigg_BL, output_hidden_states=True)
        return Encoding(
            clip_l.hidden_states[-2], clip_bigg.hidden_states[-2], clip_bigg.text_embeds
        )

    def encode(self, texts: list[str]) -> Encoding:
        return self.encode_ids(self.tokenize(texts))


def load_text_encoders(
    folder: str | Path, teacher: str | None = None, dtype: torch.dtype = torch.float32
) -> TextEncoders:
    """Loads both encoders, frozen and in eval mode; `teacher` is `distill.teacher`.

    Raises DataError with the folder and the cause.
    """
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    classes = {"clip_l": CLIPTextModel, "clip_bigg": CLIPTextModelWithProjection}
    if not Path(folder).is_dir() and not looks_like_hub_name(folder):
        raise DataError(
            f"{folder}: there is no such folder; give an SDXL folder in diffusers layout, or its "
            "hub name"
        )
    replaced = replacement(folder, teacher)
    tokenizers = {name: load_tokenizer(folder, name) for name in ENCODERS}
    models = {
        name: _stock(classes[name], folder, SUBFOLDERS[name][1], dtype)
        for name in ENCODERS
        if name not in replaced
    }
    for name, weights in replaced.items():
        state = weights.state_dict(dtype, with_projection=name == "clip_bigg")
        models[name] = _with_weights(classes[name], text_configs(folder)[name], state, dtype)
    return TextEncoders(
        tokenizers, {name: models[name].eval().requires_grad_(False) for name in ENCODERS}
    )


def replacement(folder: str | Path, teacher: str | None) -> dict[str, open_clip_weights.Weights]:
    """By the name of the folder's encoder that `teacher` replaces: its weights.

    Empty without a teacher. Raises DataError.
    """
    return (
        dict([open_clip_weights.find(teacher, text_configs(folder))]) if teacher is not None else {}
    )


def text_configs(folder: str | Path) -> dict[str, Any]:
    """The CLIPTextConfig of both encoders. Raises DataError."""
    from transformers import CLIPTextConfig

    with explained(f"{folder}: its encoders' config.json cannot be read", "fetch the folder again"):
        return {
            name: CLIPTextConfig.from_pretrained(
                folder, subfolder=SUBFOLDERS[name][1], trust_remote_code=False
            )
            for name in ENCODERS
        }


def _stock(kind: Any, folder: str | Path, subfolder: str, dtype: torch.dtype) -> Any:
    """A stock model with all its weights: what is missing, transformers fills with random numbers.

    Raises DataError.
    """
    with explained(f"{folder}: its {subfolder} cannot be loaded", "fetch the folder again"):
        model, found = kind.from_pretrained(
            folder,
            subfolder=subfolder,
            dtype=dtype,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    if missing := sorted(found["missing_keys"]):
        raise DataError(
            f"{folder}: {len(missing)} weights of its {subfolder} are missing, first {missing[0]}; "
            "fetch the folder again"
        )
    return model


def _with_weights(
    kind: Any, config: Any, state: dict[str, torch.Tensor], dtype: torch.dtype
) -> Any:
    """A stock model that takes these tensors as they are, without making weights of its own
    first.
    """
    model, found = kind.from_pretrained(
        None, config=config, state_dict=state, dtype=dtype, output_loading_info=True
    )
    assert not any(found.values()), found  # what is missing, transformers fills with random numbers
    return model


def load_tokenizer(folder: str | Path, name: str) -> Any:
    """One of the folder's tokenizers (`clip_l` or `clip_bigg`), the very one SDXL ships.

    Raises DataError.
    """
    from transformers import AutoTokenizer

    model_folder.check(folder)
    try:
        return AutoTokenizer.from_pretrained(
            folder, subfolder=SUBFOLDERS[name][0], trust_remote_code=False
        )
    except Exception as error:  # as above
        if looks_like_hub_name(folder):
            raise DataError(f"{not_given(str(folder), error)}; fetch it, or correct it") from error
        raise DataError(
            f"{folder}: its {SUBFOLDERS[name][0]} cannot be loaded ({first_line(error)}); fetch "
            "the folder again"
        ) from error
