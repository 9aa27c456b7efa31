"""Counts the file operations of this process below a folder, and at one of them kills the process
or fails as a full disk does.

Python raises an audit event before each operation, but not for fsync or for files written by C++ or
Rust (safetensors, parquet). Those are still counted, since every file of the project is renamed to
its final name in Python.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
NEED_ROOM = {
    "open",
    "os.mkdir",
    "os.link",
    "os.symlink",
}  # what a full disk refuses; it still lets files go
# Which arguments of the event are paths, and where the descriptor of the folder is that a relative
# path starts from.
PATHS = {
    "os.rename": ((0, 2), (1, 3)),
    "os.remove": ((0,), (1,)),
    "os.mkdir": ((0,), (2,)),
    "os.rmdir": ((0,), (1,)),
    "os.link": ((0, 2), (1, 3)),
    "os.symlink": ((1,), (2,)),
    "os.truncate": ((0,), (None,)),
}


class Hook:
    """`kill_at`: SIGKILL before operation n (from 1). `fail_at`: from operation n on, all that need
    room raise `number`.
    """

    def __init__(
        self, below: Path, kill_at: int | None = None, fail_at: int | None = None, number: int = 0
    ) -> None:
        self.below, self.kill_at, self.fail_at, self.number = (
            f"{below}{os.sep}",
            kill_at,
            fail_at,
            number,
        )
        self.operations: list[str] = []

    def install(self) -> None:
        sys.addaudithook(self._audit)

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(self.operations), encoding="utf-8")

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        path = _path(event, arguments)
        if path is None or not f"{path}{os.sep}".startswith(self.below):
            return
        self.operations.append(f"{event} {path.removeprefix(self.below)}")
        number = len(self.operations)
        if number == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fail_at is not None and number >= self.fail_at and event in NEED_ROOM:
            raise OSError(self.number, os.strerror(self.number), path)


def _path(event: str, arguments: tuple[Any, ...]) -> str | None:
    """The file that an operation changes; None for an event that changes none."""
    if event == "open":
        path, mode, flags = arguments
        writes = set(mode or "") & set("wax+") if mode else (flags or 0) & WRITING
        return os.path.abspath(os.fsdecode(path)) if writes and not isinstance(path, int) else None
    if event not in PATHS:
        return None
    places, folders = PATHS[event]
    last = arguments[places[-1]]
    if isinstance(last, int):
        return None
    name, place = os.fsdecode(last), folders[-1]
    folder = arguments[place] if place is not None and place < len(arguments) else -1
    start = (
        os.readlink(f"/proc/self/fd/{folder}") if isinstance(folder, int) and folder >= 0 else ""
    )
    return os.path.abspath(os.path.join(start, name))
