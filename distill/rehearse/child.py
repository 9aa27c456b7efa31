"""One command of the project in a process of its own, with its seconds and its memory.

Out: nothing on disk; what it writes to its terminal is passed on.
"""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from configs import memory
from configs.errors import SetupError, one_line

# What launchers set for the processes of one training; a stage that runs once must not see it.
LAUNCHERS = re.compile(
    r"(LOCAL_|GROUP_|ROLE_)?(RANK|WORLD_SIZE)|MASTER_\w+|TORCHELASTIC_\w+|CROSS_\w+"
)
LOOKED_AT_EVERY = 0.05  # seconds
LAST_WORDS = 2000  # characters of its messages that are kept


class Ended(NamedTuple):
    """`peak_bytes`: the most memory it had for itself, mapped files left aside; None where the
    system does not tell (it is read from Linux' /proc).
    """

    seconds: float
    peak_bytes: int | None


def run(
    words: list[str], environment: dict[str, str], until: Callable[[], bool] | None = None
) -> Ended:
    """Runs `python -m WORDS`, and kills it once `until` is true.

    Raises SetupError with its last line where it fails.
    """
    started, peak, killed = time.monotonic(), 0, False
    child = subprocess.Popen(
        [sys.executable, "-m", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
    )
    said = _Output(child)
    try:
        while child.poll() is None:
            peak = max(peak, memory.held(child.pid))
            if until is not None and not killed and until():
                child.kill()
                killed = True
            time.sleep(LOOKED_AT_EVERY)
    except BaseException:  # Ctrl-C too: the stage must not go on without us
        child.send_signal(signal.SIGTERM)
        child.wait()
        raise
    finally:
        said.thread.join()
    if child.returncode and not killed:
        raise SetupError(f"python -m {words[0]} ended with {child.returncode}: {said.last_line()}")
    return Ended(time.monotonic() - started, peak or None)


def alone() -> dict[str, str]:
    """The environment of a stage that runs in one process, whatever the launcher."""
    return {key: value for key, value in os.environ.items() if not LAUNCHERS.fullmatch(key)}


def together(number: int) -> dict[str, str]:
    """The environment of a stage that all processes of the launcher run.

    torchrun keeps one key-value store for all its processes' lives: the number of the restart makes
    the keys of stage `number` its own.
    """
    return {**os.environ, "TORCHELASTIC_RESTART_COUNT": str(1000 + number)}


class _Output:
    """Passes the child's output on to our stderr, and keeps the end of it."""

    def __init__(self, child: "subprocess.Popen[bytes]") -> None:
        self._child, self._kept = child, b""
        self.thread = threading.Thread(target=self._pass_on, daemon=True)
        self.thread.start()

    def _pass_on(self) -> None:
        assert self._child.stdout is not None
        with self._child.stdout as pipe:
            while piece := os.read(pipe.fileno(), 1 << 16):
                sys.stderr.write(piece.decode("utf-8", "replace"))
                sys.stderr.flush()
                self._kept = (self._kept + piece)[-LAST_WORDS:]

    def last_line(self) -> str:
        lines = re.split(r"[\r\n]+", self._kept.decode("utf-8", "replace").strip())
        return one_line(lines[-1], 500)
