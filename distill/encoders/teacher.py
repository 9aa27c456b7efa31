"""The text encoders of a diffusers folder, through the stock transformers classes: what the
unmodified pipelines run.

In:  a diffusers folder (or hub name) with the subfolders of its `Family` (`family.py`); one
     encoder's weights may come from OpenCLIP instead (`open_clip:MODEL/TAG`), the folder then
     gives its `config.json` and tokenizer.
Out: token ids and `Encoding`s. The English teacher and the exported student are both read here.

Shape letters: B batch, L token position (77), D width, P pooled width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import huggingface_hub
import torch

from configs import model_folder
from configs.errors import DataError, explained, first_line
from configs.references import looks_like_hub_name, not_given
from configs.stored_weights import ENCODER_STEM, VARIANTS, file_names, variant_of
from distill.encoders import open_clip_weights
from distill.encoders.family import EncoderPart, Family


class Encoding(NamedTuple):
    """What a UNet reads of a batch of prompts: hidden states (B, L, D) by part of the family, and
    the pooled state (B, P), None where the family's UNets read none.
    """

    states: dict[str, torch.Tensor]
    pooled_BP: torch.Tensor | None

    def context(self, parts: tuple[str, ...]) -> torch.Tensor:
        """(B, L, D summed over `parts`): what cross-attention reads, as `encode_prompt` returns
        it.
        """
        found = [self.states[name] for name in parts]
        return found[0] if len(found) == 1 else torch.cat(found, dim=-1)

    def named(self) -> dict[str, torch.Tensor]:
        """All tensors: the states by part, and `pooled` where there is one."""
        pooled = {} if self.pooled_BP is None else {"pooled": self.pooled_BP}
        return {**self.states, **pooled}

    def map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> "Encoding":
        """`function` applied to every tensor."""
        return Encoding.of({name: function(tensor) for name, tensor in self.named().items()})

    @classmethod
    def of(cls, tensors: dict[str, torch.Tensor]) -> "Encoding":
        """From tensors as `named` gives them."""
        states = {name: tensor for name, tensor in tensors.items() if name != "pooled"}
        return cls(states, tensors.get("pooled"))

    def float(self) -> "Encoding":
        """In fp32; fp64 stays fp64."""
        return self.map(lambda x: x.to(torch.promote_types(x.dtype, torch.float32)))


class TokenIds(NamedTuple):
    """By part of the family: ids (B, L), and the position (B,) of the first EOS.

    The ids of SDXL's parts differ in more than their padding: the second tokenizer reads every "!"
    as its pad token.
    """

    ids: dict[str, torch.Tensor]
    eos: dict[str, torch.Tensor]

    def map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> "TokenIds":
        """`function` applied to every tensor."""
        return TokenIds(
            *({name: function(tensor) for name, tensor in tensors.items()} for tensors in self)
        )

    def to(self, device: torch.device) -> "TokenIds":
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))


@dataclass(frozen=True)
class TextEncoders:
    """Tokenizers and stock transformers models by part of the family."""

    family: Family
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
        return TokenIds(ids, eos)

    @torch.no_grad()
    def encode_ids(self, tokens: TokenIds) -> Encoding:
        """Runs the encoders without an attention mask, as the pipelines do."""
        tensors = {}
        for name, part in self.family.parts.items():
            output = self.models[name](tokens.ids[name], output_hidden_states=True)
            tensors[name] = states_read(output, part)
            tensors |= {"pooled": output.text_embeds} if part.pooled else {}
        return Encoding.of(tensors)

    def encode(self, texts: list[str]) -> Encoding:
        """On the models' device."""
        return self.encode_ids(self.tokenize(texts).to(self.device))

    @property
    def device(self) -> torch.device:
        device: torch.device = next(iter(self.models.values())).device
        return device

    def to(self, device: torch.device | str) -> "TextEncoders":
        """Moves the models; returns itself."""
        for model in self.models.values():
            model.to(device)
        return self


def states_read(output: Any, part: EncoderPart) -> torch.Tensor:
    """Of what a stock model returns with `output_hidden_states`: the states (B, L, D) that the UNet
    reads.
    """
    penultimate = part.states == "penultimate"
    states_BLD: torch.Tensor = output.hidden_states[-2] if penultimate else output.last_hidden_state
    return states_BLD


def load_text_encoders(
    folder: str | Path,
    family: Family,
    teacher: str | None = None,
    dtype: torch.dtype = torch.float32,
) -> TextEncoders:
    """Loads the encoders, frozen and in eval mode; `teacher` is `distill.teacher`.

    Raises DataError with the folder and the cause.
    """
    import transformers

    if not Path(folder).is_dir() and not looks_like_hub_name(folder):
        raise DataError(
            f"{folder}: there is no such folder; give an {family.name} folder in diffusers layout, "
            "or its hub name"
        )
    replaced = replacement(folder, family, teacher)
    tokenizers = {name: load_tokenizer(folder, part) for name, part in family.parts.items()}
    models = {}
    for name, part in family.parts.items():
        kind = getattr(transformers, part.class_name)
        if name in replaced:
            state = replaced[name].state_dict(dtype, with_projection=part.pooled)
            model = _with_weights(kind, text_configs(folder, family)[name], state, dtype)
        else:
            model = _stock(kind, folder, part.subfolder, dtype)
        models[name] = model.eval().requires_grad_(False)
    return TextEncoders(family, tokenizers, models)


def replacement(
    folder: str | Path, family: Family, teacher: str | None
) -> dict[str, open_clip_weights.Weights]:
    """The OpenCLIP weights that `teacher` names, by the part they replace; empty without a teacher.

    Raises DataError.
    """
    if teacher is None:
        return {}
    return dict([open_clip_weights.find(teacher, family, text_configs(folder, family))])


def text_configs(folder: str | Path, family: Family) -> dict[str, Any]:
    """The CLIPTextConfig of each part. Raises DataError."""
    from transformers import CLIPTextConfig

    with explained(f"{folder}: its encoders' config.json cannot be read", "fetch the folder again"):
        return {
            name: CLIPTextConfig.from_pretrained(
                folder, subfolder=part.subfolder, trust_remote_code=False
            )
            for name, part in family.parts.items()
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
            variant=_variant(folder, subfolder),
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


def _variant(folder: str | Path, subfolder: str) -> str | None:
    """The `variant` whose weights the encoder has, None for plain ones; of a hub name too."""
    if Path(folder).is_dir():
        return variant_of(Path(folder) / subfolder)
    try:
        files = huggingface_hub.HfApi().list_repo_files(str(folder))
    except Exception:  # many classes, as without a network: the loader says it in its own words
        return None
    found = (
        variant
        for variant in (None, *VARIANTS)
        if any(f"{subfolder}/{name}" in files for name in file_names(ENCODER_STEM, variant))
    )
    return next(found, None)


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


def load_tokenizer(folder: str | Path, part: EncoderPart) -> Any:
    """The tokenizer that the folder ships for a part, through its stock class.

    Raises DataError.
    """
    from transformers import AutoTokenizer

    model_folder.check(folder)
    try:
        return AutoTokenizer.from_pretrained(
            folder, subfolder=part.tokenizer, trust_remote_code=False
        )
    except Exception as error:  # as above
        if looks_like_hub_name(folder):
            raise DataError(f"{not_given(str(folder), error)}; fetch it, or correct it") from error
        raise DataError(
            f"{folder}: its {part.tokenizer} cannot be loaded ({first_line(error)}); "
            "fetch the folder again"
        ) from error
