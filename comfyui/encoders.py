"""ComfyUI's own text encoders and tokenizers with another vocabulary.

In:  `EncoderFiles` of an exported folder.
Out: ComfyUI's `CLIP`, so that every node that takes one works: weights, clip skip, LoRAs, hooks.

What differs from SDXL in ComfyUI (comfy/sdxl_clip.py): the table of tokens has the config's rows;
start, end and padding ids are the config's; both encoders are padded with the end id, as in the
training; a prompt is read by prompt.py, which tokenises it in one piece.
"""

import inspect
import itertools
import logging
import re
from collections.abc import Iterator
from functools import partial
from typing import Any

import comfy.clip_model
import comfy.sd
import comfy.sd1_clip
import comfy.sdxl_clip
import comfy.supported_models_base
import comfy.utils
import torch
from transformers import PreTrainedTokenizerFast

from . import prompt
from .export_folder import EncoderFiles, FolderError
from .prompt import EMBEDDING

# A prompt's token (an id, or a vector of an embedding) and the number of its word.
Token = tuple[Any, int]
END = re.compile(r"(?P<name>)\Z")
EMBEDDED = re.compile(rf"\s*(?P<name>{EMBEDDING})\s*|\Z")


class TextModel(comfy.clip_model.CLIPTextModel):
    """ComfyUI makes the table of tokens for the English vocabulary: here it has the config's
    rows.
    """

    def __init__(self, config: dict[str, Any], dtype: Any, device: Any, operations: Any) -> None:
        super().__init__(config, dtype, device, operations)
        self.text_model.embeddings.token_embedding = operations.Embedding(
            config["vocab_size"], config["hidden_size"], dtype=dtype, device=device
        )


class TextEncoder(comfy.sd1_clip.SDClipModel):
    """Gives the penultimate layer's states without the final norm, and the projected state at the
    end id, as SDXL reads them.
    """

    def __init__(
        self,
        files: EncoderFiles,
        device: Any = "cpu",
        dtype: Any = None,
        model_options: dict[str, Any] | None = None,
    ) -> None:
        end = files.config["eos_token_id"]
        super().__init__(
            device=device,
            dtype=dtype,
            max_length=files.config["max_position_embeddings"],
            layer="hidden",
            layer_idx=-2,
            textmodel_json_config=dict(files.config),
            model_class=TextModel,
            special_tokens={"start": files.config["bos_token_id"], "end": end, "pad": end},
            layer_norm_hidden_state=False,
            return_projected_pooled=True,
            model_options={**(model_options or {}), "model_name": files.name},
        )


class BaseClip(comfy.sdxl_clip.SDXLClipModel):
    """Both text encoders."""

    def __init__(
        self,
        files: list[EncoderFiles],
        device: Any = "cpu",
        dtype: Any = None,
        model_options: dict[str, Any] | None = None,
    ) -> None:
        torch.nn.Module.__init__(self)  # not SDXL's own, which makes the English encoders
        for one in files:
            setattr(self, one.name, TextEncoder(one, device, dtype, model_options))
        self.dtypes = {dtype}


class PromptTokenizer(comfy.sd1_clip.SDTokenizer):
    """The ids, weights and words of a prompt, in chunks of 77."""

    def __init__(
        self,
        files: EncoderFiles,
        embedding_directory: Any = None,
        tokenizer_data: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(
            str(files.tokenizer),
            max_length=files.config["max_position_embeddings"],
            pad_with_end=True,
            embedding_directory=embedding_directory,
            embedding_size=files.config["hidden_size"],
            embedding_key=files.name,
            tokenizer_class=PreTrainedTokenizerFast,
            tokenizer_data=tokenizer_data or {},
        )

    def tokenize_with_weights(
        self, text: str, return_word_ids: bool = False, **_: Any
    ) -> list[list[tuple[Any, ...]]]:
        """By chunk and token its id or vector, its weight and, where asked for, the number of its
        word: 0 for start, end and padding; the vectors of one embedding have one number.
        """
        words = itertools.count(1)
        special = [(one, 0) for one in (self.start_token, self.end_token, self.pad_token)]
        window = prompt.Window(*special, length=self.max_length - 2)
        chunks = prompt.chunks(text, "comfyui", partial(self._tokens, words=words), window)
        return [
            [
                (token, weight, word) if return_word_ids else (token, weight)
                for (token, word), weight in zip(chunk.ids, chunk.weights, strict=True)
            ]
            for chunk in chunks
        ]

    def _tokens(self, text: str, words: Iterator[int]) -> tuple[list[Token], list[tuple[int, int]]]:
        """The tokens of a text without markup, and where in it each begins and ends. What stands
        before and after an embedding is tokenised apart, without the spaces between.
        """
        tokens: list[Token] = []
        places: list[tuple[int, int]] = []
        start = 0
        for border in (EMBEDDED if self.embedding_directory is not None else END).finditer(text):
            if piece := text[start : border.start()]:
                found = self.tokenizer(piece, add_special_tokens=False, return_offsets_mapping=True)
                tokens += zip(found["input_ids"], words)  # noqa: B905, words never end
                places += [(start + begin, start + end) for begin, end in found["offset_mapping"]]
            if name := border["name"]:
                word = next(words)
                vectors = self._vectors(name)
                tokens += [(vector, word) for vector in vectors]
                places += [border.span("name")] * len(vectors)
            start = border.end()
        return tokens, places

    def _vectors(self, name: str) -> list[torch.Tensor]:
        """Of an embedding; none where there is no such file, which is said in the log."""
        found, _ = self._try_get_embedding(name.removeprefix(self.embedding_identifier))
        if found is None:
            logging.warning("%s does not exist, ignoring it", name)
            return []
        return list(found.reshape(-1, found.shape[-1]))


class BaseTokenizer(comfy.sdxl_clip.SDXLTokenizer):
    """One of each text encoder: their embeddings differ in width."""

    def __init__(
        self,
        files: list[EncoderFiles],
        embedding_directory: Any = None,
        tokenizer_data: dict[str, Any] | None = None,
    ) -> None:
        for one in files:
            setattr(self, one.name, PromptTokenizer(one, embedding_directory, tokenizer_data))


def load(files: list[EncoderFiles], embeddings: list[str], dtype: torch.dtype | None) -> Any:
    """ComfyUI's CLIP of one text encoder or two. `embeddings`: folders of textual inversions.
    `dtype`: None for what ComfyUI chooses.

    Raises FolderError.
    """
    weights = {name: tensor for one in files for name, tensor in _weights(one).items()}
    clip: Any = partial(BaseClip, files)
    tokenizer: Any = partial(BaseTokenizer, files)
    if len(files) == 1:
        encoder = {"clip_name": "g", "clip_model": partial(TextEncoder, files[0])}
        clip = partial(comfy.sd1_clip.SD1ClipModel, **encoder)
        tokens = {"clip_name": "g", "tokenizer": partial(PromptTokenizer, files[0])}
        tokenizer = partial(comfy.sd1_clip.SD1Tokenizer, **tokens)
    # Since 2026 ComfyUI takes the weights when it makes a CLIP, before that afterwards.
    at_once = "state_dict" in inspect.signature(comfy.sd.CLIP).parameters
    made = comfy.sd.CLIP(
        comfy.supported_models_base.ClipTarget(tokenizer, clip),
        embedding_directory=embeddings,
        parameters=sum(tensor.numel() for tensor in weights.values()),
        model_options={"dtype": dtype} if dtype is not None else {},
        **({"state_dict": weights} if at_once else {}),
    )
    if not at_once:
        made.load_sd(weights, full_model=True)
    own = {name for name in made.cond_stage_model.state_dict() if not name.endswith("logit_scale")}
    if different := sorted(own ^ weights.keys()):
        what = "is missing" if different[0] in own else "is none of a CLIP's"
        raise FolderError(f"{files[-1].weights}: {different[0]} {what}; fetch the export again")
    return made


def _weights(files: EncoderFiles) -> dict[str, torch.Tensor]:
    """By the names that ComfyUI gives them. Raises FolderError."""
    found = comfy.utils.load_torch_file(str(files.weights), safe_load=True)
    rows = (files.config["vocab_size"], files.config["hidden_size"])
    table = found.get("text_model.embeddings.token_embedding.weight")
    if table is None or tuple(table.shape) != rows:
        shape = "missing" if table is None else f"{tuple(table.shape)}"
        raise FolderError(
            f"{files.weights}: its table of tokens is {shape}, its config.json says {rows}; fetch "
            "the export again"
        )
    if "text_projection.weight" not in found:  # SDXL reads no pooled state of CLIP-L, ComfyUI does
        found["text_projection.weight"] = torch.eye(files.config["hidden_size"])
    return {f"{files.name}.transformer.{name}": tensor for name, tensor in found.items()}
