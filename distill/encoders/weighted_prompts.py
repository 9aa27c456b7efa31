"""Prompts with weights, and longer than a text encoder's window, encoded for a UNet.

In:  prompts, the style of their weights (`distill/prompt.py`), and text encoders.
Out: `Encoding`s, their states in as many windows of 77 as the longest prompt needs.

Shape letters: C chunks of a prompt, L token position (77), D width, P pooled width.
"""

from collections.abc import Sequence
from typing import Any

import torch

from distill import prompt
from distill.encoders.teacher import Encoding, TextEncoders, TokenIds
from distill.prompt import Chunk, Style, Window


def a1111(states_CLD: torch.Tensor, weights_CL: torch.Tensor) -> torch.Tensor:
    """Every state times its token's weight, then each chunk times what restores the mean of all its
    numbers: `EmphasisOriginal` of A1111's modules/sd_emphasis.py, its default. Where the new mean
    is 0, which no factor restores, the chunk is left unscaled.
    """
    weighted_CLD = states_CLD.float() * weights_CL[:, :, None]
    means_C11, new_C11 = (
        x.mean(dim=(1, 2), keepdim=True) for x in (states_CLD.float(), weighted_CLD)
    )
    return (weighted_CLD * torch.where(new_C11 == 0, 1.0, means_C11 / new_C11)).to(states_CLD.dtype)


def comfyui(
    states_CLD: torch.Tensor, weights_CL: torch.Tensor, empty_LD: torch.Tensor
) -> torch.Tensor:
    """From the empty prompt's state at the same position towards the token's, by its weight:
    `encode_token_weights` in ComfyUI's comfy/sd1_clip.py.
    """
    states, empty = states_CLD.float(), empty_LD.float()
    weights_CL1 = weights_CL[:, :, None]
    weighted_CLD = torch.where(weights_CL1 == 1, states, empty + weights_CL1 * (states - empty))
    return weighted_CLD.to(states_CLD.dtype)


def encode(encoders: TextEncoders, prompts: Sequence[str], style: Style) -> list[Encoding]:
    """Of each prompt the states (1, C * L, D) by part, chunk after chunk, and the pooled state
    (1, P) of its first chunk, which no weight changes, as both programs have it. All prompts get
    the same number of chunks, filled up with those of the empty prompt.

    The tokenizers must be fast ones: only they know where in the text a token lies.
    """
    windows = {name: _window(tokenizer) for name, tokenizer in encoders.tokenizers.items()}
    read = {
        name: [prompt.chunks(text, style, _tokenize(tokenizer), windows[name]) for text in prompts]
        for name, tokenizer in encoders.tokenizers.items()
    }
    count = max(len(chunks) for texts in read.values() for chunks in texts)
    result = []
    for number in range(len(prompts)):
        # the empty prompt's chunk is the last of the batch: ComfyUI's rule needs its states
        chunks = {
            name: texts[number] + [windows[name].chunk()] * (count + 1 - len(texts[number]))
            for name, texts in read.items()
        }
        encoding = encoders.encode_ids(_ids(chunks, windows).to(encoders.device))
        states = {
            name: _weighted(states_CLD, chunks[name], style).flatten(0, 1)[None]
            for name, states_CLD in encoding.states.items()
        }
        pooled = encoding.pooled_BP
        result.append(Encoding(states, None if pooled is None else pooled[:1]))
    return result


def _tokenize(tokenizer: Any) -> prompt.Tokenize:
    def tokenize(text: str) -> tuple[list[int], list[tuple[int, int]]]:
        found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return found.input_ids, found.offset_mapping

    return tokenize


def _window(tokenizer: Any) -> Window:
    special = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    return Window(*special, length=tokenizer.model_max_length - 2)


def _ids(chunks: dict[str, list[Chunk]], windows: dict[str, Window]) -> TokenIds:
    ids = {name: torch.tensor([one.ids for one in found]) for name, found in chunks.items()}
    eos = {name: (ids[name] == windows[name].eos).int().argmax(dim=1) for name in ids}
    return TokenIds(ids, eos)


def _weighted(states_CLD: torch.Tensor, chunks: list[Chunk], style: Style) -> torch.Tensor:
    """The states of all chunks but the last, the empty prompt's."""
    weights_CL = torch.tensor([chunk.weights for chunk in chunks[:-1]], device=states_CLD.device)
    if (weights_CL == 1).all():
        return states_CLD[:-1]
    if style == "a1111":
        return a1111(states_CLD[:-1], weights_CL)
    return comfyui(states_CLD[:-1], weights_CL, states_CLD[-1])
