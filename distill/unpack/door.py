"""The door for single files: the diffusers folder of a checkpoint, unpacked once.

In:  the path of a `.safetensors` or `.ckpt` (`configs.references.is_single_file`).
Out: `configs.references.unpacked_folder` of it, beside the hub's cache and named by the file's
     SHA-256: there whole or not at all, and read by every later command and run.

Not in a run's folder: painting and verifying have none, and two runs from one teacher would hold
its 7 GB twice. HF_HOME moves it together with the hub's cache.
"""

from pathlib import Path

from configs.files import known_sha256, whole_folder
from configs.lock import locked
from configs.references import unpacked_folder
from distill.encoders.family import Family
from distill.unpack.checkpoint_file import open_checkpoint
from distill.unpack.kinds import CheckpointKind, identify
from distill.unpack.record import source_of


def kind_of_file(path: Path) -> CheckpointKind:
    """By the header alone. Raises DataError."""
    return identify(open_checkpoint(path))


def family_of_file(path: Path) -> Family:
    """By the header alone. Raises DataError."""
    return kind_of_file(path).family


def unpacked(path: Path) -> Path:
    """The folder, made where it is not there yet. Raises DataError, SetupError while another
    process makes it.
    """
    kind_of_file(path)  # a wrong file is refused before its gigabytes are digested
    folder = unpacked_folder(path)
    if folder.is_dir():
        return folder
    # late: whoever only asks what a file is needs no torch
    from distill.unpack.writing import check_vae, write

    check_vae(open_checkpoint(path), None)
    with locked(folder):
        if not folder.is_dir():
            print(f"{path}: unpacked into {folder}")
            with whole_folder(folder) as partial:
                write(path, partial, sha256=known_sha256(path))
    return folder


def sha256_of_source(folder: str | Path) -> str | None:
    """Of the single file that a folder was unpacked from; None where it was none.

    Raises DataError for a damaged record.
    """
    found = source_of(folder)
    return found.sha256_of_file if found is not None else None
