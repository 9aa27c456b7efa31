"""The door to open_clip: the text tower of an OpenCLIP model under transformers' names. The image
tower is never read.

In:  `open_clip:MODEL/TAG`, both as open_clip names them (its client fetches the weights), or
     `open_clip:MODEL/PATH` of a checkpoint: safetensors, or a torch file that holds nothing but
     tensors.
Out: `Weights`: the model's sizes, and its tensors as CLIPTextModel and CLIPTextModelWithProjection
     name and lay them out.

Shape letters: V vocabulary, D width, P pooled width.
"""

import dataclasses
import difflib
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from configs.errors import DataError, first_line
from distill.encoders.family import Family

PREFIX = "open_clip:"
EXAMPLE = f"{PREFIX}ViT-bigG-14/laion2b_s39b_b160k"
SIZES = {
    "context_length",
    "vocab_size",
    "width",
    "heads",
    "layers",
    "mlp_ratio",
}  # the settings of a plain CLIP text tower
# At the top of the file (class CLIP) or below `text.` (CustomTextCLIP); training on several GPUs
# puts `module.` before either.
TEXT_KEY = re.compile(
    r"(?:module\.)?(?:text\.)?"
    r"((?:token_embedding|positional_embedding|transformer|ln_final|text_projection)(?:\..+)?)"
)
TOKEN_EMBEDDING = "token_embedding.weight"
NAMES = {
    TOKEN_EMBEDDING: "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "text_projection": "text_projection.weight",
}
BLOCK = re.compile(r"transformer\.resblocks\.(\d+)\.(.+)[._](weight|bias)")
LAYER = re.compile(r"text_model\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")
NAMES_IN_BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


@dataclass(frozen=True)
class Weights:
    """One OpenCLIP model.

    `source` is a file, or open_clip's description of a pretrained tag, which is fetched when a
    tensor is asked for.
    """

    reference: str
    source: Path | dict[str, Any]
    embed_dim: int
    text: Any  # open_clip's CLIPTextCfg
    hidden_act: str

    def sizes(self) -> dict[str, Any]:
        """What a `config.json` of transformers says of the same tower."""
        return {
            "vocab_size": self.text.vocab_size,
            "max_position_embeddings": self.text.context_length,
            "hidden_size": self.text.width,
            "intermediate_size": int(self.text.width * self.text.mlp_ratio),
            "num_hidden_layers": self.text.layers,
            "num_attention_heads": self.text.heads,
            "projection_dim": self.embed_dim,
            "hidden_act": self.hidden_act,
            "layer_norm_eps": 1e-5,
        }

    @property
    def path(self) -> Path:
        """The checkpoint's file, fetched where `source` is a pretrained tag. Raises DataError."""
        return self.source if isinstance(self.source, Path) else _fetch(self.reference, self.source)

    def token_embedding_VD(self) -> torch.Tensor:
        """(V, D) in float32, read alone. Raises DataError."""
        table_VD = self._tensors()[TOKEN_EMBEDDING].to(torch.float32, copy=True)
        if not table_VD.isfinite().all():
            raise DataError(
                f"{self.reference}: its token embeddings hold NaN or infinity; fetch the "
                "checkpoint again"
            )
        return table_VD

    def state_dict(self, dtype: torch.dtype, with_projection: bool) -> dict[str, torch.Tensor]:
        """The text tower in memory of its own. Raises DataError."""
        result: dict[str, torch.Tensor] = {}
        for name, tensor in self._tensors().items():
            if with_projection or name != "text_projection":
                for new_name, part in to_transformers(name, tensor).items():
                    result[new_name] = part.to(
                        dtype, copy=True, memory_format=torch.contiguous_format
                    )
        return result

    def _tensors(self) -> dict[str, torch.Tensor]:
        """The text tower under open_clip's names: exactly the tensors open_clip would make, mapped
        from disk. Raises DataError.
        """
        path, model = self.path, _model(self.reference)
        found, expected = _read_text(path), self._without_memory().state_dict()
        if not found:
            raise DataError(
                f"{path}: holds no text tower of open_clip's ({TOKEN_EMBEDDING} is missing); give "
                f"a checkpoint of {model}"
            )
        for name in sorted(expected.keys() | found.keys()):
            here, there = (
                f"of shape {tuple(tensors[name].shape)}" if name in tensors else "missing"
                for tensors in (found, expected)
            )
            if here != there:
                raise DataError(
                    f"{path}: {name} is {here}, in the text tower of {model} it is {there}; give a "
                    "checkpoint of that model"
                )
        return found

    def _without_memory(self) -> Any:
        """open_clip's own module of these sizes, for the names and shapes of its tensors."""
        from open_clip.transformer import TextTransformer

        with torch.device("meta"):
            return TextTransformer(
                **{name: getattr(self.text, name) for name in SIZES}, output_dim=self.embed_dim
            )


def find(reference: str, family: Family, configs: dict[str, Any]) -> tuple[str, Weights]:
    """The part that `reference` replaces (the one of the same width, the last if several are), and
    its weights, not fetched yet.

    `configs`: a CLIPTextConfig by part; the model must agree with it in every size. Raises
    DataError.
    """
    weights = _describe(reference)
    sizes = weights.sizes()
    names = [name for name, config in configs.items() if config.hidden_size == sizes["hidden_size"]]
    if not names:
        widths = " and ".join(f"{config.hidden_size} ({name})" for name, config in configs.items())
        raise DataError(
            f"{reference}: its text tower is {sizes['hidden_size']} wide, distill.base's are "
            f"{widths}; give another distill.teacher"
        )
    name = names[-1]
    for key, value in sizes.items():
        wanted = getattr(configs[name], key)
        unread = key == "projection_dim" and not family.parts[name].pooled
        if value != wanted and not unread:
            raise DataError(
                f"{reference}: its {key} is {value!r}, distill.base's config.json of {name} says "
                f"{wanted!r}; give another distill.teacher"
            )
    return name, weights


def to_transformers(name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    """One tensor of open_clip's text tower as transformers has it: renamed, cut into q, k and v, or
    transposed.
    """
    if name in NAMES:
        return {
            NAMES[name]: tensor.T if name == "text_projection" else tensor
        }  # (D, P) there, (P, D) here
    block = BLOCK.fullmatch(name)
    assert block is not None, name
    layer, part, kind = block.groups()
    prefix = f"text_model.encoder.layers.{layer}."
    if part == "attn.in_proj":  # (3 D, D) or (3 D,)
        return {
            f"{prefix}self_attn.{letter}_proj.{kind}": third
            for letter, third in zip("qkv", tensor.chunk(3), strict=True)
        }
    return {f"{prefix}{NAMES_IN_BLOCK[part]}.{kind}": tensor}


def from_transformers(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The way back: a whole text tower of transformers under open_clip's names."""
    top = {new: old for old, new in NAMES.items()}
    in_block = {new: old for old, new in NAMES_IN_BLOCK.items()}
    result = {}
    for name, tensor in tensors.items():
        if name in top:
            result[top[name]] = tensor.T.contiguous() if top[name] == "text_projection" else tensor
            continue
        layer = LAYER.fullmatch(name)
        assert layer is not None, name
        number, part, kind = layer.groups()
        prefix = f"transformer.resblocks.{number}."
        if part == "self_attn.q_proj":
            thirds = [tensors[name.replace("q_proj", f"{letter}_proj")] for letter in "qkv"]
            result[f"{prefix}attn.in_proj_{kind}"] = torch.cat(thirds)
        elif part not in ("self_attn.k_proj", "self_attn.v_proj"):
            result[f"{prefix}{in_block[part]}.{kind}"] = tensor
    return result


def merges_file() -> Path:
    """OpenAI's list of CLIP's byte-pair merges, which open_clip ships; found without importing it,
    which takes seconds.
    """
    spec = importlib.util.find_spec("open_clip")
    assert spec is not None and spec.origin is not None  # the project depends on it
    return Path(spec.origin).parent / "bpe_simple_vocab_16e6.txt.gz"


def _describe(reference: str) -> Weights:
    """Splits the reference and asks open_clip what it names. Raises DataError."""
    import open_clip

    model, slash, rest = reference.removeprefix(PREFIX).partition("/")
    if not (reference.startswith(PREFIX) and model and slash and rest):
        raise DataError(
            f"distill.teacher {reference!r}: write {EXAMPLE}, or {PREFIX}MODEL/PATH of a checkpoint"
        )
    if model not in open_clip.list_models():
        near = (
            ", ".join(difflib.get_close_matches(model, open_clip.list_models()))
            or "see open_clip.list_models()"
        )
        raise DataError(
            f"{reference}: open_clip knows no model {model!r}; give one that it knows ({near})"
        )
    config = open_clip.get_model_config(model)
    text = open_clip.CLIPTextCfg(**config["text_cfg"])
    plain = open_clip.CLIPTextCfg()
    for field in dataclasses.fields(text):
        value = getattr(text, field.name)
        if field.name not in SIZES and value != getattr(plain, field.name):
            raise DataError(
                f"{reference}: its text tower has {field.name} {value!r}, which no CLIP text "
                "encoder of SDXL or SD has; give a plain CLIP"
            )
    tag = open_clip.get_pretrained_cfg(model, rest)
    if not tag and not Path(rest).is_file():
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(model)) or "none"
        raise DataError(
            f"{reference}: {rest!r} is neither a file nor one of {model}'s pretrained tags "
            f"({tags}); give one of them, or a checkpoint"
        )
    quick_gelu = config.get("quick_gelu", False) or tag.get(
        "quick_gelu", False
    )  # what the weights were trained with
    return Weights(
        reference,
        dict(tag) if tag else Path(rest),
        config["embed_dim"],
        text,
        "quick_gelu" if quick_gelu else "gelu",
    )


def _model(reference: str) -> str:
    return reference.removeprefix(PREFIX).partition("/")[0]


def _fetch(reference: str, tag: dict[str, Any]) -> Path:
    import open_clip

    try:
        return Path(open_clip.download_pretrained(tag))
    except Exception as error:  # no network, no such file, a broken transfer: each its own kind
        way_out = f"fetch it where there is a network, or give {PREFIX}{_model(reference)}/PATH"
        raise DataError(
            f"{reference}: cannot be fetched ({first_line(error)}); {way_out}"
        ) from None


def _read_text(path: Path) -> dict[str, torch.Tensor]:
    """The text tower's tensors under open_clip's names, mapped from disk: only those in use are
    read. Raises DataError.
    """
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                keys = file.keys()  # the handle is no mapping
                return {
                    match[1]: file.get_tensor(key)
                    for key in keys
                    if (match := TEXT_KEY.fullmatch(key))
                }
        content = torch.load(
            path, map_location="cpu", weights_only=True, mmap=True
        )  # weights_only: unpickling can run anything
        state = content.get("state_dict", content)  # open_clip's own training wraps the weights
        return {
            match[1]: tensor for key, tensor in state.items() if (match := TEXT_KEY.fullmatch(key))
        }
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path}: cannot be read ({first_line(error)}); fetch it again") from None
    except (
        Exception
    ) as error:  # torch raises many kinds for a damaged file, or one that holds more than tensors
        raise DataError(
            f"{path}: no checkpoint of tensors alone ({first_line(error)}); fetch it again, or "
            "give its safetensors"
        ) from None
