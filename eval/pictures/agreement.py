"""How far Japanese pictures agree with the English caption and with the English picture of the same
noise, where no scene can be read.

In:  PNG files of several rows, the English captions; the models the recipe names
     (`eval.clip_model`, `dino_model`, `lpips_model`).
Out: numbers of each picture, and means with bootstrap intervals; nothing on disk.

- `clip_text`: cosine of the picture and the English caption in CLIP's or SigLIP's common space;
  higher is better.
- `clip_image`, `dino`: cosine of the picture and the English row's picture, in CLIP's space and
  between DINOv2's CLS states; higher is better.
- `lpips`: Zhang et al.'s learned distance of the two pictures (AlexNet); 0 is the same picture.
- `rms_difference`: of their pixels, as a share of the whole range; 0 is the same picture. It needs
  no model.

None of them means much alone: the row `teacher_other_caption`, with the English picture of the next
caption, shows what chance gives.
"""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import normalize
from tqdm import tqdm

from configs.errors import DataError, explained, first_line
from configs.references import ModelName
from configs.schema.captions import Ranker
from configs.schema.recipe import Eval
from corpora.captions import dual_encoder
from distill.sdxl.pipelines import device
from eval.intervals import bootstrap
from eval.pictures import stock_models
from eval.rows import OTHER_CAPTION

Values = dict[str, list[float]]  # of each metric, one number a picture


def compare(
    rows: dict[str, list[Path]], english_row: str, captions: list[str], settings: Eval
) -> dict[str, Values]:
    """Every row's numbers, in the order of the captions; the English row has those that need no
    second picture. Raises DataError.
    """
    english = rows[english_row]
    if len(english) > 1:
        rows = rows | {OTHER_CAPTION: english[1:] + english[:1]}
    others = {row: paths for row, paths in rows.items() if row != english_row}
    found: dict[str, Values] = {row: {} for row in rows}
    size = settings.batch_size
    if settings.clip_model:
        text_BD, of_picture = _clip(settings.clip_model, captions, _distinct(rows), size)
        for row, paths in rows.items():
            found[row]["clip_text"] = _cosines(_stack(of_picture, paths), text_BD)
        for row, paths in others.items():
            found[row]["clip_image"] = _cosines(
                _stack(of_picture, paths), _stack(of_picture, english)
            )
    if settings.dino_model:
        of_picture = _dino(settings.dino_model, _distinct(rows), size)
        for row, paths in others.items():
            found[row]["dino"] = _cosines(_stack(of_picture, paths), _stack(of_picture, english))
    lpips = _lpips(settings.lpips_model) if settings.lpips_model else None
    for row, paths in others.items():
        pairs = list(zip(paths, english, strict=True))
        if lpips:
            found[row]["lpips"] = [
                _distance(lpips, *pair) for pair in tqdm(pairs, desc=f"LPIPS {row}", unit="pair")
            ]
        found[row]["rms_difference"] = [
            float(np.sqrt(np.square(_pixels(a) - _pixels(b)).mean())) for a, b in pairs
        ]
    return found


def mean(values: list[float], seed: int) -> dict[str, Any]:
    """Mean with a 95 % percentile bootstrap interval over pictures (Efron): `{"value", "low",
    "high", "total"}`.
    """
    return {**bootstrap(np.asarray(values), seed=seed), "total": len(values)}


def _clip(
    reference: ModelName, captions: list[str], paths: list[Path], size: int
) -> tuple[torch.Tensor, dict[Path, torch.Tensor]]:
    """Features of the captions, (B, D), and of each picture, (D,)."""
    try:
        encoder = dual_encoder.load(Ranker(model=reference))
    except DataError as error:
        raise DataError(f"eval.clip_model: {error}") from error
    text_BD = torch.cat(
        [
            encoder.text_features(captions[start : start + size])
            for start in range(0, len(captions), size)
        ]
    )
    return text_BD, _each(paths, size, "CLIP", encoder.image_features)


@torch.inference_mode()
def _dino(reference: str, paths: list[Path], size: int) -> dict[Path, torch.Tensor]:
    """The CLS state of each picture, (D,)."""
    from transformers import AutoImageProcessor, AutoModel

    model, processor = stock_models.load(
        "eval.dino_model", reference, AutoModel, AutoImageProcessor
    )
    try:
        return _each(
            paths,
            size,
            "DINO",
            lambda images: _cls_states(model, processor(images=images, return_tensors="pt")),
        )
    except (AttributeError, TypeError, ValueError) as error:
        raise DataError(
            f"eval.dino_model: {reference} is a {type(model).__name__} ({first_line(error)}); give "
            "a DINOv2"
        ) from error


def _lpips(weights: str) -> Any:
    """The LPIPS of the package `lpips`, its AlexNet from the given file: left to itself the package
    downloads it. Raises DataError.
    """
    import lpips

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it calls torchvision by an argument that is going away
        model = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    with explained(
        f"eval.lpips_model: {weights} cannot be loaded", "give torchvision's AlexNet weights"
    ):
        found = torch.load(weights, map_location="cpu", weights_only=True)
        # the package cuts torchvision's `features` into slices, and each layer keeps its number
        model.net.load_state_dict(
            {name: found[f"features.{name.partition('.')[2]}"] for name in model.net.state_dict()}
        )
    return model.to(device())


@torch.inference_mode()
def _distance(model: Any, a: Path, b: Path) -> float:
    first, second = (
        torch.from_numpy(_pixels(path)).permute(2, 0, 1)[None].to(device()) for path in (a, b)
    )
    return model(first, second, normalize=True).item()


def _cls_states(model: Any, pixels: Any) -> torch.Tensor:
    return model(**pixels.to(device())).last_hidden_state[:, 0].float().cpu()


def _each(
    paths: list[Path], size: int, name: str, features: Callable[[list[Image.Image]], torch.Tensor]
) -> dict[Path, torch.Tensor]:
    """Each picture's features, read batch by batch: a thousand pictures of SDXL's size are
    gigabytes.
    """
    found: dict[Path, torch.Tensor] = {}
    for start in tqdm(range(0, len(paths), size), desc=name, unit="batch"):
        batch = paths[start : start + size]
        found |= zip(batch, features([_open(path) for path in batch]), strict=True)
    return found


def _cosines(a_BD: torch.Tensor, b_BD: torch.Tensor) -> list[float]:
    return (normalize(a_BD, dim=-1) * normalize(b_BD, dim=-1)).sum(dim=-1).tolist()


def _stack(of_picture: dict[Path, torch.Tensor], paths: list[Path]) -> torch.Tensor:
    return torch.stack([of_picture[path] for path in paths])


def _distinct(rows: dict[str, list[Path]]) -> list[Path]:
    return list(dict.fromkeys(path for paths in rows.values() for path in paths))


def _open(path: Path) -> Image.Image:
    with Image.open(path) as file:
        return file.convert("RGB")


def _pixels(path: Path) -> np.ndarray:
    """(H, W, 3), 0 to 1."""
    return np.asarray(_open(path), dtype=np.float32) / 255
