"""Files and folders that appear whole or not at all, their digests, and JSON.

A block writes to a temporary name beside the final one. The final name appears only when the block
has ended well and all bytes are on disk: a kill or a power cut at any moment leaves the old state.
What a killed process left behind is removed by `sweep`.
"""

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from configs.errors import DataError, SetupError

PARTIAL = ".partial"  # the ending of every temporary name
LARGEST_JSON = 100_000_000  # bytes; values take ten times as many in memory
SPARE = 64 << 20  # bytes that stay free on a disk: for logs and manifests

# Set by the first import, when there is one thread: the umask can only be read by changing it.
_UMASK = os.umask(0o077)
os.umask(_UMASK)


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Gives a temporary sibling to write to; `path` appears when the block has ended well, with all
    its bytes on disk, or not at all.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")
    try:
        yield temporary
        _settle(temporary)
        os.replace(temporary, path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(folder: Path, replace: bool = False) -> Iterator[Path]:
    """A sibling to write into; it takes its final name only when the block ends without an error
    and all bytes are on disk.

    Raises DataError if that name is taken, unless what is there is to be replaced.
    """
    if folder.exists() and not replace:
        raise DataError(f"{folder}: is there already; move it away, or give another name")
    partial = folder.with_name(f".{folder.name}{PARTIAL}")
    shutil.rmtree(partial, ignore_errors=True)  # of a killed run
    partial.mkdir(parents=True)
    try:
        yield partial
        publish(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def unfinished(target: Path, digest: str) -> Path:
    """Where what `target` will hold lies until all of it is there, so that the same command goes
    on after an interruption. `digest`: of all that it is made from.
    """
    return target.with_name(f"{target.name}.unfinished-{digest[:12]}")


def remove_unfinished(target: Path, but: Path | None = None) -> None:
    """What earlier runs left of `target`: of other inputs, or killed right after publishing."""
    for left in target.parent.glob(f"{target.name}.unfinished-*"):
        if left != but:
            shutil.rmtree(left)


def publish(partial: Path, folder: Path) -> None:
    """Gives a finished folder its final name, with all its bytes on disk; what had that name before
    goes only after that.
    """
    for parent, _, names in os.walk(partial):
        for name in names:
            _settle(Path(parent, name))
        sync_folder(Path(parent))
    old = folder.with_name(f".{folder.name}.old{PARTIAL}")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    sync_folder(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Removes what killed processes left in a folder and, of the folder itself, beside it.

    Only for who holds its lock.
    """
    for path in [
        *folder.glob(f".*{PARTIAL}"),
        *folder.parent.glob(f".{folder.name}.*{PARTIAL}"),
        *folder.parent.glob(f".{folder.name}{PARTIAL}"),
    ]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Puts the folder's list of names on disk: without it, a file renamed just before a power cut
    may be gone after it.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError:
        pass  # some network file systems refuse it; there the server keeps the names
    finally:
        os.close(descriptor)


def _settle(path: Path) -> None:
    """A file's bytes go to disk, and its mode follows the umask: safetensors and `tempfile` make
    files that only their owner may read.
    """
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        found = os.fstat(file.fileno())
    # A hard link's mode is the other file's too; that one has been given its mode already.
    if found.st_nlink == 1 and stat.S_IMODE(found.st_mode) == 0o600:
        path.chmod(0o666 & ~_UMASK)


def inside(folder: Path, name: str) -> Path:
    """The path of `name`, which was read from a file, in `folder`.

    Raises DataError for a name that leads out of it.
    """
    parts = PurePosixPath(name)
    if not name or "\0" in name or "\\" in name or parts.is_absolute() or ".." in parts.parts:
        raise DataError(
            f"{folder}: the name {name!r} leads out of the folder; this file was damaged or made "
            "to harm, fetch it again"
        )
    return folder / parts


def check_room(folder: Path, needed: int) -> None:
    """Raises SetupError unless the file system of `folder` has room for `needed` bytes."""
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < needed + SPARE:
        gigabytes = f"{needed / 1e9:.2f} GB are needed and {free / 1e9:.2f} GB are free"
        raise SetupError(
            f"{folder}: the disk is too full, {gigabytes}; free some space and run the same "
            "command again"
        )


def link(source: Path, target: Path) -> None:
    """A hard link, or a copy across disks; of a symbolic link (the hub's cache holds them) the file
    it leads to.
    """
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
        raise DataError(
            f"{path}: cannot be read ({error.strerror}); check the path and its permissions"
        ) from None


def identity(path: Path) -> tuple[int, int, int, int]:
    """Equal for hard links of one file while nothing writes to it: device, inode, size, time."""
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


_KNOWN_SHA256: dict[tuple[int, int, int, int], str] = {}


def known_sha256(path: Path) -> str:
    """As `file_sha256`, but an unchanged file is read once by a process, hard links together."""
    key = identity(path)
    if key not in _KNOWN_SHA256:
        _KNOWN_SHA256[key] = file_sha256(path)
    return _KNOWN_SHA256[key]


def value_sha256(value: object) -> str:
    """Of a value JSON can hold; the order of its keys means nothing."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """The object a JSON file holds. Raises DataError."""
    try:
        if (size := path.stat().st_size) > LARGEST_JSON:
            raise ValueError(f"{size:,} bytes, {LARGEST_JSON:,} at most")
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}); fetch the folder again"
        ) from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: no valid JSON ({error}); fetch the folder again") from None
    if not isinstance(value, dict):
        raise DataError(
            f"{path}: holds a {type(value).__name__}, not an object; fetch the folder again"
        )
    return value


def write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
