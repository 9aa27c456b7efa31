"""One process at a time in a stage's folder, on one machine or on several that share a file system.

In/out: `.FOLDER.lock` beside the folder: who holds it (host, process, job), as JSON. Its owner
        touches it every few seconds. A lock whose owner is gone is taken over, with what the owner
        left half-written swept away; one whose owner is alive is refused.
"""

import fcntl
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from configs.errors import SetupError, one_line
from configs.files import sweep

BEAT_SECONDS = 5.0
# An owner on another machine that has not touched its lock for so long is taken for dead: network
# file systems show a change of time after up to a minute (NFS: acregmax is 60 s).
SILENT_SECONDS = 75.0


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds `folder` (which need not exist yet) while the block runs.

    Raises SetupError while another process holds it.
    """
    path = folder.with_name(f".{folder.name}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    own = _owner()
    while not _create(path, own):
        _take_over(path, folder)
    ended = threading.Event()
    threading.Thread(target=_beat, args=(path, ended), daemon=True).start()
    try:
        sweep(folder)
        yield
    finally:
        ended.set()
        if _read(path) == own:
            path.unlink(missing_ok=True)


def _owner() -> dict[str, Any]:
    job = os.environ.get("SLURM_JOB_ID")
    return {
        "host": socket.gethostname(),
        "machine": _machine(),
        "pid": os.getpid(),
        "started": _start_time(os.getpid()),
        "command": " ".join(sys.argv[:2])[:200],
        "since": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        **({"slurm_job": job} if job else {}),
    }


def _machine() -> str:
    """Tells apart machines, their boots, and containers that number their processes by
    themselves.
    """
    with suppress(OSError):
        return (
            f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} "
            f"{os.readlink('/proc/self/ns/pid')}"
        )
    return socket.gethostname()


def _start_time(pid: int) -> str | None:
    """When a process of this machine started (clock ticks since boot): a number may be given again
    to another process. None: it is gone.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in ("Z", "X") else fields[19]


def _create(path: Path, own: dict[str, Any]) -> bool:
    """Whether the lock is ours now. It appears with its content, and for one process alone."""
    temporary = path.with_name(f"{path.name}.{socket.gethostname()}.{os.getpid()}")
    temporary.write_text(json.dumps(own), encoding="utf-8")
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink()
    return True


def _read(path: Path) -> dict[str, Any] | None:
    """The owner on record; None where there is none, {} where it cannot be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _take_over(path: Path, folder: Path) -> None:
    """Removes the lock of an owner that is gone. Raises SetupError where it is alive."""
    owner = _read(path)
    if owner is None:
        return  # gone meanwhile
    if _is_alive(path, owner):
        job = f", Slurm job {owner['slurm_job']}" if "slurm_job" in owner else ""
        who = (
            f"process {owner.get('pid')} on {owner.get('host')}{job} ({owner.get('command')}, "
            f"since {owner.get('since')})"
        )
        raise SetupError(
            one_line(
                f"{folder}: {who} is writing it; wait until it has ended, or give "
                "run=ANOTHER_FOLDER"
            )
        )
    with _one_at_a_time(path.parent):
        if _read(path) == owner:  # else another has taken it over meanwhile
            path.unlink(missing_ok=True)


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Keeps two processes that find the same owner dead from removing one another's new lock.

    The system ends it with the process.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):  # some network file systems cannot
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _is_alive(path: Path, owner: dict[str, Any]) -> bool:
    if owner.get("machine") == _machine() and isinstance(owner.get("pid"), int):
        return _start_time(owner["pid"]) == owner.get("started")
    # On another machine: does it still touch its lock? Not "when did it last": clocks differ.
    print(
        one_line(
            f"{path}: left by a process on {owner.get('host')}; waiting {SILENT_SECONDS:.0f} s to "
            "see whether it is alive"
        ),
        file=sys.stderr,
    )
    before, deadline = _touched(path), time.monotonic() + SILENT_SECONDS
    while time.monotonic() < deadline:
        time.sleep(min(1.0, SILENT_SECONDS / 10))
        if _touched(path) != before:
            return path.exists()
    return False


def _touched(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _beat(path: Path, ended: threading.Event) -> None:
    while not ended.wait(BEAT_SECONDS):
        with suppress(OSError):
            os.utime(path)
