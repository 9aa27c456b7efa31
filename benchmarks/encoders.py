"""What all contestants of the trainer's benchmark start from: CLIP's tokenizer, and stock encoders
of a profile's size with random weights.

In:  nothing; CLIP's vocabulary is part of open_clip. Out: stock transformers objects, in memory.
"""

import copy
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from open_clip.tokenizer import SimpleTokenizer
from transformers import CLIPTextConfig, CLIPTokenizer

from distill.encoders.family import SDXL
from distill.encoders.teacher import TextEncoders


@dataclass(frozen=True)
class Size:
    """A CLIP text encoder; `projection`: 0 for none."""

    width: int
    layers: int
    heads: int
    activation: str
    projection: int = 0


def clip_tokenizer(pad_token: str) -> Any:
    """CLIP's tokenizer from open_clip's copy of its vocabulary, so that English is as long as it is
    in SDXL; SDXL's two differ in their pads.
    """
    source = SimpleTokenizer()
    names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {names.get(token, token): index for token, index in source.encoder.items()}
    return CLIPTokenizer(
        vocab=vocabulary, merges=list(source.bpe_ranks), pad_token=pad_token, model_max_length=77
    )


def tokenizers() -> dict[str, Any]:
    """SDXL's two."""
    return {"clip_l": clip_tokenizer("<|endoftext|>"), "clip_bigg": clip_tokenizer("!")}


def config(size: Size, tokenizer: Any) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=size.width,
        intermediate_size=4 * size.width,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        hidden_act=size.activation,
        projection_dim=size.projection or size.width,
        max_position_embeddings=77,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )


def random_teacher(sizes: dict[str, Size]) -> TextEncoders:
    """Frozen stock encoders of SDXL's two kinds."""
    readers, models = tokenizers(), {}
    for seed, (name, size) in enumerate(sizes.items()):
        kind = getattr(transformers, SDXL.parts[name].class_name)
        torch.manual_seed(seed)
        models[name] = kind(config(size, readers[name])).eval().requires_grad_(False)
    return TextEncoders(SDXL, readers, models)


def student_of(teacher: TextEncoders, tokenizer: Any) -> dict[str, Any]:
    """Stock encoders with the vocabulary of `tokenizer`: the teacher's layers, random token
    embeddings.
    """
    students = {}
    for name, model in teacher.models.items():
        config = copy.deepcopy(model.config)
        config.vocab_size, config.eos_token_id = (
            len(tokenizer),
            tokenizer.eos_token_id,
        )  # the pooled state is read at EOS
        torch.manual_seed(1)
        students[name] = type(model)(config)
        state = {
            key: value
            for key, value in model.state_dict().items()
            if not key.endswith("token_embedding.weight")
        }
        students[name].load_state_dict(state, strict=False)
    return students
