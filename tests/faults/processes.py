"""Finds and ends the processes that the harness started, by a canary in their environment."""

import contextlib
import os
import signal
import time
from pathlib import Path


def alive(canary: str) -> dict[int, str]:
    """The command lines, by number, of the running processes whose environment holds `canary`
    (NAME=VALUE).
    """
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            if canary.encode() in entry.joinpath("environ").read_bytes().split(b"\0"):
                found[int(entry.name)] = (
                    entry.joinpath("cmdline")
                    .read_bytes()
                    .replace(b"\0", b" ")
                    .decode(errors="replace")
                    .strip()
                )
    return {pid: line for pid, line in found.items() if not _is_dead(pid)}


def _is_dead(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in ("Z", "X")
    except OSError:
        return True


def gone(canary: str, seconds: float) -> dict[int, str]:
    """Waits until none is left; those that are still there after `seconds`."""
    limit = time.monotonic() + seconds
    while (found := alive(canary)) and time.monotonic() < limit:
        time.sleep(0.1)
    return found


def end(canary: str) -> int:
    """Kills all that are left; how many there were."""
    found = alive(canary)
    for pid in found:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    return len(found)
