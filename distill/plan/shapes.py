"""The shapes of teacher, student and UNets, before anything is loaded: from a few JSON files, or as
published.

In: the `config.json` files of the recipe's diffusers folders (or of the hub's cache),
    `<run>/initial_student/` or the Japanese tokenizer.
"""

from pathlib import Path
from typing import Any

from configs.errors import DataError
from configs.files import read_json
from configs.model_folder import header
from configs.references import ModelName
from configs.schema.distill import Distill
from configs.schema.recipe import Recipe
from distill.tokenizer import unigram
from distill.unpack import door
from distill.unpack.kinds import OF_REPOSITORY

# For recipes that are planned where the hub cannot be reached.
PUBLISHED = {name: kind.part_configs() for name, kind in OF_REPOSITORY.items()}
PUBLISHED_VOCABULARIES = {"line-corporation/japanese-large-lm-3.6b": 51_200}


def read_unets(settings: Distill) -> dict[str, dict[str, Any]]:
    """The configs of the UNets the bank is recorded from, by name. Raises DataError."""
    return {name: read_config(folder, "unet") for name, folder in settings.unets.items()}


def read_config(reference: str, subfolder: str) -> dict[str, Any]:
    """`subfolder/config.json` of a diffusers folder, of a hub name already cached, or the published
    numbers, which are a single file's too. Raises DataError.
    """
    if Path(reference).is_file():
        return door.kind_of_file(Path(reference)).part_configs()[subfolder]
    folder = Path(ModelName(reference).path)
    path: str | Path | None = folder / subfolder / "config.json"
    if not folder.is_dir():
        if folder.is_absolute() or reference.count("/") != 1:
            raise DataError(
                f"{folder}: there is no such folder; give an SDXL or SD folder in diffusers "
                "layout, its hub name, or a single file"
            )
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(reference, f"{subfolder}/config.json")
        path = cached if isinstance(cached, str) else None
        if path is None and subfolder in PUBLISHED.get(reference, {}):
            return PUBLISHED[reference][subfolder]
        if path is None:
            raise DataError(
                f"{reference}: no {subfolder}/config.json in the hub's cache; fetch it: hf "
                f"download {reference} --include '*.json'"
            )
    return read_json(Path(str(path)))


def student_vocabulary(recipe: Recipe) -> tuple[int, str]:
    """The student's vocabulary and where it was read: the initial student, else the tokenizer, else
    what is published. Raises DataError.

    The tokenizer's own BOS and EOS pieces give way to the student's
    (distill/tokenizer/portable.py), so with both the size stays its own.
    """
    embeddings = recipe.run_dir / "initial_student" / "token_embeddings.safetensors"
    if embeddings.is_file():
        return next(iter(header(embeddings).values()))[0], str(embeddings)
    multiple = recipe.vocab_init.pad_vocab_to_multiple_of
    path = Path(recipe.vocab_init.tokenizer.path)
    if path.exists():
        path = unigram.find(path)
        rows = len(unigram.read(path).rows) + 2  # BOS and EOS
        return -(-rows // multiple) * multiple, f"the pieces of {path}"
    for name, pieces in PUBLISHED_VOCABULARIES.items():
        if name in path.as_posix():
            return -(-pieces // multiple) * multiple, f"the pieces of {name}, as published"
    raise DataError(
        f"{path}: there is no such tokenizer, so the vocabulary is unknown; fetch it first"
    )
