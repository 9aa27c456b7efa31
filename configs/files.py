"""Files and folders that appear whole or not at all, their digests, and JSON.

Out: what the caller writes, under its final name only when it is complete: a kill at any moment leaves the old state.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from configs.command import DataError


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Gives a temporary sibling to write to; `path` appears when the block has ended well, with all its bytes on disk, or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(folder: Path, replace: bool = False) -> Iterator[Path]:
    """A sibling to write into; it takes its final name only when the block ends without an error. Raises DataError if that name is taken, unless
    what is there is to be replaced."""
    if folder.exists() and not replace:
        raise DataError(f"{folder}: is there already; move it away, or give another name")
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # what a killed run left
    partial.mkdir(parents=True)
    try:
        yield partial
        if replace:
            shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def link(source: Path, target: Path) -> None:
    """A hard link, or a copy across disks; of a symbolic link (the hub's cache holds them) the file it leads to."""
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


def file_sha256(path: Path) -> str:
    """Raises DataError when the file cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from None


def value_sha256(value: object) -> str:
    """Of a value JSON can hold; the order of its keys means nothing."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """The object a JSON file holds. Raises DataError."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); fetch the folder again") from None
    except ValueError as error:
        raise DataError(f"{path}: no valid JSON ({error}); fetch the folder again") from None
    if not isinstance(value, dict):
        raise DataError(f"{path}: holds a {type(value).__name__}, not an object; fetch the folder again")
    return value


def write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
