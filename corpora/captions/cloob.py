"""rinna's Japanese CLOOB (rinna/japanese-cloob-vit-b-16): how well a Japanese caption fits a
picture. Re-implemented, because its own package can no longer be installed.

In:  a folder or hub name with `config.json` and the published weights (`model.safetensors` or
     `pytorch_model.bin`), and the tokenizer's SentencePiece model, which the published repository
     lacks: `spiece.model` of rinna/japanese-roberta-base.
Out: features of texts and pictures in one space; their cosine says how well they fit. Nothing on
     disk.

A ViT and a BERT of transformers; the state at each one's first position is projected without a
bias. CLOOB differs from CLIP in training only.

Shape letters: B batch, L positions (at most 77, [CLS] first), D width of a tower, P width of the
shared space, S side of a picture in pixels.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
import torch
from huggingface_hub import hf_hub_download
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoConfig, AutoModel
from transformers.utils import logging

from configs.errors import DataError, explained
from configs.files import read_json
from configs.references import looks_like_hub_name, not_given

POSITIONS = 77
CLS, PAD = "[CLS]", "[PAD]"
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's
TOWERS = ("text_model", "vision_model")
PROJECTIONS = ("text_projection.weight", "visual_projection.weight")


class Cloob(nn.Module):
    """The two towers and their projections, under the published names.

    Raises DataError for another model's config.
    """

    def __init__(
        self, config: Mapping[str, Any], pieces: sentencepiece.SentencePieceProcessor
    ) -> None:
        super().__init__()
        self.text_model, self.vision_model = (
            _tower(config, "text_config"),
            _tower(config, "vision_config"),
        )
        self.text_projection, self.visual_projection = (
            nn.Linear(tower.config.hidden_size, config["projection_dim"], bias=False)
            for tower in (self.text_model, self.vision_model)
        )
        self.pieces = pieces

    @torch.inference_mode()
    def text_features(self, texts: list[str]) -> torch.Tensor:
        """(B, P) float32 on the CPU, not normalised."""
        ids_BL, mask_BL = (
            one.to(self.text_projection.weight.device) for one in self.tokenize(texts)
        )
        return self.project_text(ids_BL, mask_BL).float().cpu()

    @torch.inference_mode()
    def image_features(self, images: list[Image.Image]) -> torch.Tensor:
        """(B, P) float32 on the CPU, not normalised."""
        pixels_B3SS = torch.stack(
            [pixels(image, self.vision_model.config.image_size) for image in images]
        )
        return (
            self.project_images(pixels_B3SS.to(self.visual_projection.weight.device)).float().cpu()
        )

    def project_text(self, ids_BL: torch.Tensor, mask_BL: torch.Tensor) -> torch.Tensor:
        """(B, P) of token ids; `mask_BL` is 0 at padding."""
        # RoBERTa would start its positions at the padding id; this model was trained with 0 to 76
        positions_BL = torch.arange(ids_BL.shape[1], device=ids_BL.device).expand_as(ids_BL)
        states_BLD = self.text_model(
            input_ids=ids_BL, attention_mask=mask_BL, position_ids=positions_BL
        ).last_hidden_state
        return self.text_projection(states_BLD[:, 0])

    def project_images(self, pixels_B3SS: torch.Tensor) -> torch.Tensor:
        """(B, P) of normalised pixels."""
        return self.visual_projection(
            self.vision_model(pixel_values=pixels_B3SS).last_hidden_state[:, 0]
        )

    def tokenize(self, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids (B, L) and mask (B, L): lower-cased, [CLS] and at most 76 pieces, padded to the
        longest.
        """
        cls, pad = self.pieces.piece_to_id([CLS, PAD])
        rows = [
            torch.tensor([cls, *ids[: POSITIONS - 1]])
            for ids in self.pieces.encode([text.lower() for text in texts])
        ]
        mask_BL = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
        return pad_sequence(rows, batch_first=True, padding_value=pad), mask_BL


def load(reference: str, tokenizer: str | None = None) -> Cloob:
    """The model in float32 on the CPU, in evaluation mode.

    Raises DataError for missing, damaged or incomplete files.
    """
    config = read_json(_file(reference, "config.json"))
    if config.get("model_type") != "cloob":
        raise DataError(
            f"{reference}: its config.json describes a {config.get('model_type')!r}, not a "
            "'cloob'; give rinna/japanese-cloob-vit-b-16"
        )
    model = Cloob(config, load_pieces(tokenizer or str(_file(reference, "spiece.model"))))
    # position_ids is a buffer (0, 1, 2, ...), not a weight
    weights = {
        name: tensor
        for name, tensor in _weights(reference).items()
        if not name.endswith(".position_ids")
    }
    problems = []
    for name in TOWERS:
        own = {
            key.removeprefix(f"{name}."): tensor.float()
            for key, tensor in weights.items()
            if key.startswith(f"{name}.")
        }
        tower, found = _filled(getattr(model, name), own)
        setattr(model, name, tower)
        problems += [f"{name}.{key} ({problem})" for problem, keys in found.items() for key in keys]
    for key in sorted(
        set(PROJECTIONS)
        | {key for key in weights if not key.startswith(tuple(f"{name}." for name in TOWERS))}
    ):
        if key not in weights or key not in PROJECTIONS:
            problems.append(f"{key} ({'left over' if key in weights else 'missing'})")
        elif weights[key].shape != model.get_parameter(key).shape:
            problems.append(f"{key} (of another shape)")
        else:
            model.get_parameter(key).data.copy_(weights[key])
    if problems:
        raise DataError(
            f"{reference}: {len(problems)} weights are not a CLOOB's, first {sorted(problems)[0]}; "
            "fetch the folder again"
        )
    return model.eval().requires_grad_(False)


def load_pieces(path: str) -> sentencepiece.SentencePieceProcessor:
    """The tokenizer's SentencePiece model. Raises DataError."""
    with explained(
        f"{path}: no SentencePiece model", "give the spiece.model of rinna/japanese-roberta-base"
    ):
        pieces = sentencepiece.SentencePieceProcessor(model_file=path)
    if any(pieces.is_unknown(pieces.piece_to_id(piece)) for piece in (CLS, PAD)):
        raise DataError(
            f"{path}: knows no {CLS} or no {PAD}, so it is no CLOOB's tokenizer; give the "
            "spiece.model of rinna/japanese-roberta-base"
        )
    return pieces


def pixels(image: Image.Image, side: int) -> torch.Tensor:
    """(3, S, S): shorter side scaled to S (bilinear), centre crop, normalised as for CLIP."""
    image = image.convert("RGB")  # before scaling: palette indices cannot be interpolated
    short, long = sorted(image.size)
    sizes = {short: side, long: int(side * long / short)}
    width, height = (sizes[one] for one in image.size)
    left, top = round((width - side) / 2), round((height - side) / 2)
    cut = image.resize((width, height), Image.Resampling.BILINEAR).crop(
        (left, top, left + side, top + side)
    )
    values = np.asarray(cut, dtype=np.float32) / 255
    return torch.from_numpy(
        (values - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    ).permute(2, 0, 1)


def _tower(config: Mapping[str, Any], section: str) -> Any:
    with explained(
        f"config.json: its {section} describes no model of transformers", "fetch the folder again"
    ):
        settings = dict(config[section])
        return AutoModel.from_config(
            AutoConfig.for_model(settings.pop("model_type"), **settings), add_pooling_layer=False
        )


def _filled(tower: Any, weights: dict[str, torch.Tensor]) -> tuple[nn.Module, dict[str, list[str]]]:
    """The tower with these weights, and the names of missing or unexpected weights by problem."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # its report is in the return value
    logging.disable_progress_bar()
    # not load_state_dict: only from_pretrained knows the older names of published weights
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            filled, found = type(tower).from_pretrained(
                None,
                config=tower.config,
                state_dict=weights,
                add_pooling_layer=False,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
    finally:
        logging.set_verbosity(verbosity)
    words = {
        "missing_keys": "missing",
        "unexpected_keys": "left over",
        "mismatched_keys": "of another shape",
    }
    return filled, {
        word: [key if isinstance(key, str) else key[0] for key in found[kind]]
        for kind, word in words.items()
    }


def _weights(reference: str) -> dict[str, torch.Tensor]:
    errors = []
    for name in ("model.safetensors", "pytorch_model.bin"):
        try:
            path = _file(reference, name)
        except DataError as error:
            errors.append(error)
            continue
        with explained(f"{path}: cannot be read", "fetch it again"):
            return (
                load_file(path)
                if name.endswith(".safetensors")
                else dict(torch.load(path, map_location="cpu", weights_only=True))
            )
    raise errors[-1]


def _file(reference: str, name: str) -> Path:
    """A file of the folder or hub repository. Raises DataError if it does not exist."""
    path = Path(reference) / name
    if path.is_file():
        return path
    if looks_like_hub_name(reference):
        try:
            return Path(hf_hub_download(reference, name))
        except Exception as error:  # no network, no such repository, no such file
            raise DataError(
                f"{not_given(reference, error)}; download the repository and give its folder"
            ) from None
    raise DataError(f"{path}: there is no such file; fetch the model again, or correct its folder")
