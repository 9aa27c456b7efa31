"""Result files: written whole, made once for the same inputs, never over another recipe's.

In and out: JSON files below `<run>/eval/`, each with the `recipe` that made it, the `fingerprint`
            of what it was made from, and its own `sha256`.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from configs import artefact
from configs.errors import DataError
from configs.files import file_sha256, inside, known_sha256, value_sha256, whole
from configs.records import read_with_sha256, with_sha256
from corpora import pair
from distill.verify.record import VERIFICATION, Verification

EXPORT = "python -m distill.export RECIPE"


def fingerprint(
    settings: dict[str, Any], sources: Iterable[str | Path], exports: Iterable[str | Path] = ()
) -> str:
    """Changes with the settings and with any file that is read of the sources.

    `exports`: folders of distill.export, whose files must have the digests of `verification.json`.
    A hub name stands for itself. Every file is read once by a process: at SDXL's size some seconds,
    before minutes of measuring. Raises DataError.
    """
    digests = [*map(_digest, sources), *map(export_sha256, map(Path, exports))]
    return value_sha256([settings, digests])


def export_sha256(folder: Path) -> str:
    """The digest of an export's `verification.json`, after a look at all files that it lists.

    Raises DataError.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: not there; make it with: {EXPORT} export.encoders_only=false")
    way_out = f"delete the folder and run: {EXPORT}"
    for name, digest in Verification.read(folder / VERIFICATION, way_out).files.items():
        path = inside(folder, name)
        if not path.is_file() or known_sha256(path) != digest:
            raise DataError(
                f"{path}: missing or damaged (not the SHA-256 of {VERIFICATION}); {way_out}"
            )
    return file_sha256(folder / VERIFICATION)


def _digest(source: str | Path) -> object:
    """Of the files that are read of a folder or file; a name where there is neither.

    Raises DataError for a damaged artefact of ours.
    """
    folder = Path(source)
    if folder.is_file():
        return known_sha256(folder)
    if not folder.is_dir():
        return str(source)
    if (folder / "token_embeddings.safetensors").is_file():
        return artefact.read(folder, "run python -m vocab_init with this recipe").files
    if any(
        folder.glob("held_out-*.parquet")
    ):  # pairs: their digests are checked when they are read
        pair.read_manifest(folder)
        return file_sha256(folder / pair.MANIFEST)
    # A pipeline is read by its parts; a repository may hold gigabytes beside them.
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    if (folder / "model_index.json").is_file():
        files = [path for path in files if path.parent != folder or path.name == "model_index.json"]
    read = [path for path in files if not _is_unread(path)]
    return {path.relative_to(folder).as_posix(): known_sha256(path) for path in read}


def _is_unread(path: Path) -> bool:
    """Model cards with their pictures, and half-precision files beside the ones that are loaded."""
    plain = path.with_name(path.name.replace(".fp16", "").replace(".bf16", ""))
    return (
        path.name == "README.md"
        or path.parent.name == "images"
        or (plain != path and plain.is_file())
    )


def read(path: Path, made_by: str) -> dict[str, Any]:
    """A finished result. Raises DataError naming the command that makes it."""
    if not path.exists():
        raise DataError(f"{path}: not there yet; make it with: {made_by}")
    return read_with_sha256(path, f"delete it and run: {made_by}")


def finished(path: Path, recipe_name: str, digest: str, made_by: str) -> bool:
    """Whether `path` holds the result of these very inputs.

    Raises DataError when another recipe made it.
    """
    if not path.exists():
        return False
    result = read(path, made_by)
    if result.get("recipe") != recipe_name:
        other = result.get("recipe")
        raise DataError(
            f"{path}: made by the recipe {other!r}, this one is {recipe_name!r}; give this recipe "
            "a `run` folder of its own"
        )
    return result.get("fingerprint") == digest


def write(path: Path, result: dict[str, Any]) -> None:
    """With the result's own SHA-256, which `read` checks."""
    text = json.dumps(with_sha256(result), ensure_ascii=False, indent=1, allow_nan=False)
    write_bytes(path, f"{text}\n".encode())


def write_bytes(path: Path, content: bytes) -> None:
    """The file appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as temporary:
        temporary.write_bytes(content)
