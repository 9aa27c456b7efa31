"""How well captions fit their pictures, by any model that embeds both: rinna's CLOOB, or a CLIP or
SigLIP of transformers.

In:  `Ranker` settings; texts and decoded pictures.
Out: features, or the cosine of each pair. Nothing on disk.

Shape letters: B texts or pictures, L positions, P width of the shared space.
"""

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import normalize

from configs import model_folder
from configs.errors import DataError, explained
from configs.files import read_json
from configs.schema.captions import Ranker
from corpora.captions import cloob
from corpora.captions.devices import device


class DualEncoder(Protocol):
    """Embeds texts and pictures in one space: float32 on the CPU, not normalised. Lists are not
    empty.
    """

    def text_features(self, texts: list[str]) -> torch.Tensor:
        """(B, P)."""

    def image_features(self, images: list[Image.Image]) -> torch.Tensor:
        """(B, P); pictures of any mode and size."""


def load(settings: Ranker) -> DualEncoder:
    """The recipe's model, on the GPU if there is one.

    Raises DataError for missing, damaged or incomplete files, or a model that is no dual encoder.
    """
    reference = settings.model.path
    if _is_cloob(reference):
        tokenizer = settings.tokenizer.path if settings.tokenizer else None
        return cloob.load(reference, tokenizer).to(device())
    return TransformersDualEncoder(reference)


def similarities(
    encoder: DualEncoder, texts: list[str], images: list[Image.Image], batch_size: int
) -> np.ndarray:
    """(B,) float32: the cosine of each text and its own picture, -1 to 1."""
    assert len(texts) == len(images)
    found = [np.empty(0, dtype=np.float32)]
    for start in range(0, len(texts), batch_size):
        batch = slice(start, start + batch_size)
        both = (encoder.text_features(texts[batch]), encoder.image_features(images[batch]))
        text_BP, image_BP = (normalize(features, dim=-1) for features in both)
        found.append((text_BP * image_BP).sum(dim=-1).numpy())
    return np.concatenate(found)


class TransformersDualEncoder:
    """A CLIP, a SigLIP or another transformers model with features of texts and pictures.

    Raises DataError as `load` does.
    """

    def __init__(self, reference: str) -> None:
        from transformers import AutoModel, AutoProcessor
        from transformers.utils import logging

        logging.disable_progress_bar()
        model_folder.check(reference)
        with explained(f"{reference} cannot be loaded", "give a CLOOB, a CLIP or a SigLIP"):
            self.model, found = AutoModel.from_pretrained(
                reference,
                dtype=torch.float32,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
            )
            self.processor = AutoProcessor.from_pretrained(reference, trust_remote_code=False)
        if not (
            hasattr(self.model, "get_text_features") and hasattr(self.model, "get_image_features")
        ):
            raise DataError(
                f"{reference} is a {type(self.model).__name__}, which compares no texts with "
                "pictures; give a CLOOB, a CLIP or a SigLIP"
            )
        # transformers initialises missing weights at random and goes on
        if missing := sorted(found["missing_keys"]):
            raise DataError(
                f"{reference}: {len(missing)} weights are missing, first {missing[0]}; fetch the "
                "model again, or give another"
            )
        self.model.eval().to(device())
        self.positions = self.model.config.text_config.max_position_embeddings

    @torch.inference_mode()
    def text_features(self, texts: list[str]) -> torch.Tensor:
        batch_BL = self.processor(
            text=texts,
            padding="max_length",
            max_length=self.positions,
            truncation=True,
            return_tensors="pt",
        )
        # SigLIP was trained to attend to the padding, though some tokenizers mask it
        if self.model.config.model_type.startswith("siglip"):
            batch_BL.pop("attention_mask", None)
        return features_of(self.model.get_text_features(**batch_BL.to(device())))

    @torch.inference_mode()
    def image_features(self, images: list[Image.Image]) -> torch.Tensor:
        pixels = self.processor(
            images=[image.convert("RGB") for image in images], return_tensors="pt"
        )
        return features_of(self.model.get_image_features(**pixels.to(device())))


def features_of(output: Any) -> torch.Tensor:
    """transformers 4 returns the features, transformers 5 an output that holds them."""
    return (output if isinstance(output, torch.Tensor) else output.pooler_output).float().cpu()


def _is_cloob(reference: str) -> bool:
    path = Path(reference) / "config.json"
    if path.is_file():
        return read_json(path).get("model_type") == "cloob"
    return "cloob" in reference.lower()  # a hub name: `cloob.load` checks its config
