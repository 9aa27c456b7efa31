"""A folder that one stage makes for later ones, and how they know that it is whole and made from
what they have.

In/out: `manifest.json` in the folder, written last: the SHA-256 of every file, the digests of all
        that it was made from, the version of the code that made it, and the maker's own details. No
        format in use detects a flipped bit by itself: neither safetensors nor npy.
"""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from configs.errors import DataError
from configs.files import file_sha256, inside
from configs.records import SealedRecord

MANIFEST = "manifest.json"
CODE_VERSION = version("sdxl-mother-tongue")


class ArtefactManifest(SealedRecord):
    """`made_from`: a digest by the name of each input, as a user would call it.

    `details`: the maker's own, by name.
    """

    code_version: str
    made_from: dict[str, str]
    files: dict[str, str]
    details: dict[str, Any]


def seal(
    folder: Path,
    made_from: Mapping[str, str],
    details: Mapping[str, Any] | None = None,
    known: Mapping[str, str] | None = None,
) -> ArtefactManifest:
    """Writes the manifest of a finished folder: its last file.

    `known`: SHA-256 by name of files that were digested while they were written, which need not be
    read again.
    """
    files = sorted(
        path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST
    )
    names = [path.relative_to(folder).as_posix() for path in files]
    digests = {name: (known or {}).get(name) or file_sha256(folder / name) for name in names}
    manifest = ArtefactManifest.seal(
        code_version=CODE_VERSION,
        made_from=dict(made_from),
        files=digests,
        details=dict(details or {}),
    )
    manifest.write(folder / MANIFEST)
    return manifest


def read(folder: Path, way_out: str) -> ArtefactManifest:
    """The manifest, with every file's digest checked.

    Raises DataError naming the first that is missing or damaged.
    """
    manifest = ArtefactManifest.read(folder / MANIFEST, way_out)
    check_files(folder, manifest.files, way_out)
    return manifest


def check_files(
    folder: Path, digests: Mapping[str, str], way_out: str, listed_in: str = MANIFEST
) -> None:
    """Compares files with their SHA-256.

    Raises DataError naming the first missing or different one.
    """
    for name, digest in digests.items():
        path = inside(folder, name)
        if not path.is_file():
            raise DataError(f"{path}: missing, though {listed_in} lists it; {way_out}")
        if file_sha256(path) != digest:
            raise DataError(
                f"{path}: damaged, its SHA-256 is not the one in {listed_in}; {way_out}"
            )


def changed(manifest: ArtefactManifest, made_from: Mapping[str, str]) -> str | None:
    """The name of the first input that is not the one it was made from; None where all are."""
    names = sorted(manifest.made_from.keys() | made_from.keys())
    return next(
        (name for name in names if manifest.made_from.get(name) != made_from.get(name)), None
    )
