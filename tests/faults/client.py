"""The client of the fork server: runs a command and returns its exit code and output, always within
the time limit.
"""

import contextlib
import hashlib
import json
import os
import select
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
LIMIT_SECONDS = 150.0
START_SECONDS = 180.0


@dataclass(frozen=True)
class Command:
    """One run of an entry in a case's folder.

    `victims` (ranks) are killed `kill_after` seconds after the start, or when the pattern
    `kill_when` matches. `hook`: arguments of `hook.Hook`. `patches`: values by "module:NAME".
    """

    entry: str
    folder: str
    arguments: list[str]
    log: str
    processes: int = 1
    limit: float = LIMIT_SECONDS
    kill_after: float | None = None
    kill_when: str | None = None
    victims: list[int] = field(default_factory=lambda: [0])
    hook: dict[str, Any] | None = None
    file_bytes: int | None = None
    memory_bytes: int | None = None
    patches: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Ended:
    """`code`: the highest exit code of the run's processes, or the signal that ended one, negative.
    `text`: what it printed.
    """

    code: int
    killed: bool
    timed_out: bool
    seconds: float
    text: str


class Slot:
    """One of the places cases run in, with a fork server of its own that is started when it is
    first needed.
    """

    def __init__(self, canary: str) -> None:
        self.canary = canary
        self._process: subprocess.Popen[str] | None = None

    def run(self, entry: str, folder: Path, *overrides: str, **more: Any) -> Ended:
        """Runs `entry` with the case's recipe."""
        return self.call(entry, folder, ["recipe.yaml", *overrides], **more)

    def call(self, entry: str, folder: Path, arguments: list[str], **more: Any) -> Ended:
        number = len(list(folder.glob("log_*.txt")))
        log = folder / f"log_{number:03d}_{entry}.txt"
        command = Command(entry, str(folder), arguments, str(log), **more)
        answer = self._ask(command)
        text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
        if answer is None:
            self.close()
            return Ended(-signal.SIGKILL, False, True, command.limit, text)
        codes = answer["codes"]
        code = next(
            (one for one in codes if one not in (0, -signal.SIGTERM)),
            next((one for one in codes if one), 0),
        )
        return Ended(code, answer["killed"], answer["timed_out"], answer["seconds"], text)

    def operations(self, folder: Path) -> list[str]:
        """What the hook counted in the folder's last run."""
        last = max(folder.glob("log_*.operations"))
        return list(json.loads(last.read_text(encoding="utf-8")))

    def close(self) -> None:
        if self._process is not None:
            with contextlib.suppress(OSError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _ask(self, command: Command) -> dict[str, Any] | None:
        """The server's answer; None where it gave none in time."""
        process = self._process or self._start()
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(asdict(command)) + "\n")
            process.stdin.flush()
        except BrokenPipeError:
            return None
        line = self._line(process, command.limit + 60)
        return json.loads(line) if line else None

    def _start(self) -> subprocess.Popen[str]:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.server"],
            cwd=ROOT,
            env=environment(self.canary),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        if self._line(self._process, START_SECONDS).strip() != "ready":
            raise RuntimeError(
                "the fork server did not start: python -m tests.faults.server says why"
            )
        return self._process

    @staticmethod
    def _line(process: subprocess.Popen[str], seconds: float) -> str:
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], seconds)
        return process.stdout.readline() if ready else ""


def environment(canary: str) -> dict[str, str]:
    """Offline, one thread a process; the canary tells the harness's own processes from all
    others.
    """
    names = {
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONWARNINGS": "ignore",
    }
    launcher = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    # DeepSpeed compiles an operator once an environment; other checkouts on this machine would make
    # each other compile it anew.
    names["TORCH_EXTENSIONS_DIR"] = os.environ.get(
        "TORCH_EXTENSIONS_DIR", str(Path.home() / ".cache" / "torch_extensions_faults" / place())
    )
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in launcher and not name.startswith("SLURM_")
    }
    return kept | names | {"FAULTS_RUN": canary, "PYTHONPATH": f"{ROOT}", "DS_ACCELERATOR": "cpu"}


def place() -> str:
    """A short name of this Python environment."""
    return hashlib.sha256(sys.prefix.encode()).hexdigest()[:12]
