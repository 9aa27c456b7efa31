"""What an exported folder holds, read from its small JSON files. Needs nothing but the standard
library.

In:  a folder in diffusers layout: `text_encoder` and `text_encoder_2`, each with a tokenizer.
Out: `EncoderFiles` by ComfyUI's names of SDXL's text encoders, or one sentence that says what is
     wrong (`FolderError`).
"""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

ENCODERS = {"clip_l": ("text_encoder", "tokenizer"), "clip_g": ("text_encoder_2", "tokenizer_2")}
# What reads a prompt, and the text encoders whose states it reads.
PARTS = {"base": ("clip_l", "clip_g"), "refiner": ("clip_g",)}
# Every export has the second encoder: encoders and base have both, the refiner has it alone.
MARKS = ("text_encoder_2/config.json", "tokenizer_2/tokenizer.json")
WANTED = "give the encoders, base or refiner folder that distill.export wrote"


class FolderError(ValueError):
    """One sentence for the person before the screen."""


@dataclass(frozen=True)
class EncoderFiles:
    """`name`: ComfyUI's, clip_l or clip_g. `config`: its config.json."""

    name: str
    config: dict[str, Any]
    weights: Path
    tokenizer: Path


def names(roots: Iterable[str]) -> list[str]:
    """The exports below `roots`, by their paths there."""
    return sorted(
        {
            Path(folder).relative_to(root).as_posix()
            for root in roots
            for folder, _, _ in os.walk(root, followlinks=True)
            if all((Path(folder) / mark).is_file() for mark in MARKS)
        }
    )


def find(name: str, roots: Iterable[str]) -> Path:
    """The folder of that name. Raises FolderError."""
    roots = list(roots)
    if ".." not in PurePath(name).parts and not PurePath(name).is_absolute():
        for root in roots:
            if (Path(root) / name).is_dir():
                return Path(root) / name
    raise FolderError(f"{name!r} is no folder in {' or '.join(roots)}; copy the export there")


def read(folder: Path, part: str) -> list[EncoderFiles]:
    """The text encoders that `part` (base or refiner) reads. Raises FolderError."""
    return [_encoder(folder, name) for name in PARTS[part]]


def _encoder(folder: Path, name: str) -> EncoderFiles:
    subfolder, tokenizer = ENCODERS[name]
    weights = folder / subfolder / "model.safetensors"
    config_path, tokenizer_path = folder / subfolder / "config.json", folder / tokenizer
    if name == "clip_l" and not config_path.is_file() and (folder / MARKS[0]).is_file():
        raise FolderError(
            f"{folder} holds the refiner's text encoder alone; choose the part refiner, or the "
            "export's encoders or base folder"
        )
    config = _json(config_path)
    ids = {one["content"]: one["id"] for one in _added_tokens(tokenizer_path)}
    settings = _json(tokenizer_path / "tokenizer_config.json")
    # ComfyUI reads the pooled state at the end id: with another than the training's it would paint
    # something else without a word
    for role in ("bos_token", "eos_token"):
        if config.get(f"{role}_id") != ids.get(settings.get(role), "none"):
            raise FolderError(
                f"{config_path} has {role}_id {config.get(f'{role}_id')}, its tokenizer "
                f"{ids.get(settings.get(role), 'none')}; {WANTED}"
            )
    if not weights.is_file():
        raise FolderError(f"{weights} is missing; {WANTED}")
    return EncoderFiles(name, config, weights, tokenizer_path)


def _added_tokens(tokenizer: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = _json(tokenizer / "tokenizer.json").get("added_tokens") or []
    return found


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        what = "is missing" if isinstance(error, FileNotFoundError) else "cannot be read"
        raise FolderError(f"{path} {what}; {WANTED}") from None
    if not isinstance(found, dict):
        raise FolderError(f"{path} holds no settings; {WANTED}")
    return found
