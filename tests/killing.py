"""Runs an entry again and again, killed at random moments, until it ends: what is on disk then must
be what an undisturbed run leaves.
"""

import importlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def run_killed(
    entry: str,
    preloaded: list[str],
    arguments: list[str],
    kills: int,
    longest: float,
    piece_rows: int = 0,
) -> int:
    """How often `entry` was killed before it ended well: at most `kills` times, each within
    `longest` seconds of its start.

    `piece_rows`: of each part of a source, where its own number would make one part of everything.
    """
    command = [
        sys.executable,
        __file__,
        json.dumps([entry, preloaded, arguments, kills, longest, piece_rows]),
    ]
    ended = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, (ended.stdout + ended.stderr)[-1000:]
    return int(ended.stdout)


def main() -> int:
    """A process that has the libraries at hand and starts each run as its child: importing them
    would take longer than the run.
    """
    entry, preloaded, arguments, kills, longest, piece_rows = json.loads(sys.argv[1])
    run = importlib.import_module(entry).main
    for module in preloaded:
        importlib.import_module(module)
    if piece_rows:
        part = importlib.import_module("corpora.sources.part")
        part.PART_ROWS = part.STREAM_PART_ROWS = piece_rows  # type: ignore[attr-defined]
    rng = random.Random(0)
    for killed in range(kills + 1):
        child = os.fork()
        if not child:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os._exit(run(arguments))
        limit = time.monotonic() + (rng.uniform(0.01, longest) if killed < kills else 600)
        while not (ended := os.waitpid(child, os.WNOHANG))[0] and time.monotonic() < limit:
            time.sleep(0.002)
        if ended[0]:
            print(killed)
            return os.waitstatus_to_exitcode(ended[1])
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
