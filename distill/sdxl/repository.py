"""Inspects a repository in diffusers layout without running or unpickling anything in it.

In:  a local folder, a single file (unpacked), or a hub name (fetched: JSON, safetensors,
     SentencePiece models and text files; never code, never pickles).
Out: a `Repository`: its index, and for each text encoder its folders, its config and the shapes in
     its weights file, which is complete.

DataError in one line for: missing or truncated files, weights that exist only as pickles (loading
one can run any code), Python code in the repository.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import huggingface_hub
from safetensors import SafetensorError, safe_open

from configs import model_folder, stored_weights
from configs.errors import DataError, first_line
from configs.files import inside, read_json
from configs.model_folder import weight_map
from configs.references import ModelName, looks_like_hub_name, not_given
from configs.stored_weights import DIFFUSERS_STEM, StoredWeights
from distill.encoders.family import FAMILIES, FAMILY_OF_PIPELINE, EncoderPart, Family
from distill.unpack import door

INDEX = "model_index.json"
WEIGHTS = "model.safetensors"
# The other parts that have weights: file name without its extension.
STEMS = {
    "unet": DIFFUSERS_STEM,
    "vae": DIFFUSERS_STEM,
    "safety_checker": "model",
    "image_encoder": "model",
}
TOKEN_EMBEDDING = "text_model.embeddings.token_embedding.weight"
SAFE_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.md"]
# What a repository may hold beside its plain weights.
SECOND_COPIES = ["*.fp16.*", "*.bf16.*", "*.non_ema.*"]
PART = re.compile(r"\w+", re.ASCII)  # name of a pipeline's part and of its folder
LIBRARIES = (
    "diffusers",
    "transformers",
    "stable_diffusion",
    None,
)  # "stable_diffusion": the library of SD 1.x's safety checker


@dataclass(frozen=True)
class StoredEncoder:
    """One text encoder: its name and part of the family, its tokenizer's folder, its own folder,
    its config, where its weights lie, and the shape of each tensor in them.
    """

    name: str
    part: EncoderPart
    tokenizer: Path
    folder: Path
    config: dict[str, Any]
    weights: StoredWeights
    shapes: dict[str, list[int]]


@dataclass(frozen=True)
class Repository:
    """`index`: the content of `model_index.json`; empty for a folder of encoders only."""

    folder: Path
    index: dict[str, Any]
    family: Family
    encoders: tuple[StoredEncoder, ...]

    @property
    def pipeline(self) -> str:
        """The diffusers class that loads it: the text-to-image pipeline for encoders only."""
        return str(self.index.get("_class_name", self.family.pipelines[0]))


def fetch(
    reference: str,
    allow_patterns: list[str] | None = None,
    ignore_patterns: list[str] | None = None,
) -> Path:
    """The local folder of `toyworld:NAME`, a path or a hub name; of a single file the folder that
    it is unpacked into, once. Files that match `ignore_patterns` are fetched all the same where a
    part would have no weights without them. Raises DataError.
    """
    if Path(reference).is_file():
        return door.unpacked(Path(reference))
    folder = Path(ModelName(reference).path)
    if folder.is_dir():
        return folder
    if not looks_like_hub_name(reference):
        raise DataError(
            f"{folder}: there is no such folder; give an SDXL or SD folder in diffusers layout, "
            "its hub name, or a single file"
        )
    wanted = allow_patterns or SAFE_FILES
    fetched = _download(reference, wanted, ignore_patterns)
    if ignore_patterns and _lacks_weights(fetched, wanted):
        fetched = _download(reference, wanted, None)
    return fetched


def fetch_parts(reference: str, parts: Iterable[str]) -> Path:
    """As `fetch`: the index of a pipeline, and these parts with the weights that `stored_weights`
    finds. Raises DataError.
    """
    kinds = ("json", "safetensors", "txt", "model")
    wanted = [f"{part}/*.{kind}" for part in parts for kind in kinds]
    return fetch(reference, [INDEX, *wanted], SECOND_COPIES)


def _download(name: str, wanted: list[str], ignored: list[str] | None) -> Path:
    try:
        return Path(
            huggingface_hub.snapshot_download(name, allow_patterns=wanted, ignore_patterns=ignored)
        )
    except Exception as error:  # many classes: no network, no such name, no access
        raise DataError(
            f"{not_given(name, error)}; fetch it with `hf download` where there is a network"
        ) from error


def _lacks_weights(folder: Path, wanted: list[str]) -> bool:
    """Whether a part has a model's config and no weights, which are wanted."""
    return any(
        not any(config.parent.glob("*.safetensors"))
        for config in folder.glob("*/config.json")
        if any(fnmatch(f"{config.parent.name}/{WEIGHTS}", pattern) for pattern in wanted)
    )


def open_folder(folder: Path) -> Repository:
    """Reads index, configs and the headers of the weights. Raises DataError."""
    if not folder.is_dir():
        raise DataError(
            f"{folder}: there is no such folder; give a pipeline or encoders in diffusers layout"
        )
    for path in folder.rglob("*.py"):  # diffusers up to 0.35 runs a local repository's pipeline.py
        raise DataError(
            f"{path}: the repository brings code of its own, which this project never runs; use "
            "one without, or delete the file"
        )
    model_folder.check_folder(folder)
    index, family = read_index(folder), family_in(folder)
    parts = {
        name: part
        for name, part in family.parts.items()
        if (index.get(part.subfolder, [None])[0] if index else (folder / part.subfolder).is_dir())
    }
    if not parts:
        raise DataError(
            f"{folder}: holds neither {INDEX} nor text_encoder folders; give a pipeline or "
            "encoders in diffusers layout"
        )
    for part, stem in STEMS.items():
        if index.get(part, [None])[0]:
            check_weights(folder / part, stem)
    encoders = tuple(_encoder(folder, name, part) for name, part in parts.items())
    return Repository(folder, index, family, encoders)


def family_in(folder: Path) -> Family:
    """By the pipeline class of `model_index.json`; of a folder of encoders only, the first family
    whose encoders are all there, else SDXL (its refiner has one of two). Raises DataError.
    """
    if index := read_index(folder):
        return FAMILY_OF_PIPELINE[index["_class_name"]]
    whole = (
        family
        for family in FAMILIES
        if all((folder / part.subfolder).is_dir() for part in family.parts.values())
    )
    return next(whole, FAMILIES[0])


def read_index(folder: Path) -> dict[str, Any]:
    """The content of `model_index.json`, empty if the file is missing.

    Raises DataError for a pipeline class that is not supported or needs code of the repository.
    """
    if not (folder / INDEX).exists():
        return {}
    index = read_json(folder / INDEX)
    kind = index.get("_class_name")
    if not isinstance(kind, str) or kind not in FAMILY_OF_PIPELINE:
        what = (
            "asks for code of its own"
            if isinstance(kind, list)
            else "is not one this project knows"
        )
        raise DataError(
            f"{folder / INDEX}: its _class_name {kind!r} {what}; give a pipeline of "
            f"{', '.join(FAMILY_OF_PIPELINE)}"
        )
    for part, entry in index.items():
        if not PART.fullmatch(part):
            raise DataError(
                f"{folder / INDEX}: {part!r} is no name of a part; this file was damaged or made "
                "to harm, fetch it again"
            )
        if isinstance(entry, list) and (len(entry) != 2 or entry[0] not in LIBRARIES):
            library = entry[0] if entry else "nowhere"
            raise DataError(
                f"{folder / INDEX}: its {part} comes from {library!r}, code of its own; give a "
                "repository of stock classes"
            )
    return index


def check_weights(folder: Path, stem: str) -> None:
    """Checks the headers of one part's weights against its shard indexes.

    Raises DataError if a tensor is missing. The indexes count even beside a single file, since
    `from_pretrained` prefers them.
    """
    shapes = {path: tensor_shapes(path) for path in sorted(folder.glob("*.safetensors"))}
    for index in sorted(folder.glob("*.safetensors.index*.json")):
        for tensor, name in weight_map(index).items():
            path = inside(folder, name)
            if path not in shapes:
                raise DataError(
                    f"{path}: missing, though {index.name} lists it; fetch the folder again, or"
                    " delete the index if the weights are in one file"
                )
            if tensor not in shapes[path]:
                raise DataError(
                    f"{path}: holds no {tensor}, though {index.name} says so; fetch the folder "
                    "again"
                )
    stored_weights.find(folder, stem)


def tensor_shapes(path: Path) -> dict[str, list[int]]:
    """The shape of every tensor, read from the header.

    Raises DataError for a file that is truncated or not safetensors.
    """
    try:
        # raises if the file's size is not what its header implies
        with safe_open(path, framework="pt") as file:
            names = file.keys()  # the handle is no mapping
            return {name: file.get_slice(name).get_shape() for name in names}
    except (OSError, SafetensorError) as error:
        raise DataError(
            f"{path}: truncated, or no safetensors file ({first_line(error)}); fetch it again"
        ) from None


def _encoder(folder: Path, name: str, part: EncoderPart) -> StoredEncoder:
    tokenizer, encoder = folder / part.tokenizer, folder / part.subfolder
    config = read_json(encoder / "config.json")
    for path, found in (
        (encoder / "config.json", config),
        (tokenizer / "tokenizer_config.json", read_json(tokenizer / "tokenizer_config.json")),
    ):
        if "auto_map" in found:
            raise DataError(
                f"{path}: its auto_map asks for code of its own, which this project never runs; "
                "give a repository of stock classes"
            )
    check_weights(encoder, stored_weights.ENCODER_STEM)
    weights = stored_weights.find(encoder)
    shapes = {key: shape for path in weights.files for key, shape in tensor_shapes(path).items()}
    if not any(key.endswith("token_embedding.weight") for key in shapes):
        raise DataError(
            f"{weights.files[0]}: holds no {TOKEN_EMBEDDING}; it is no text encoder of CLIP's kind"
        )
    return StoredEncoder(name, part, tokenizer, encoder, config, weights, shapes)
