"""A thread that ends this process when it would otherwise train on alone, or wait for ever.

Alone: the launcher that started it is gone (SIGKILL, or a signal it does not handle); then the
process stops as on SIGTERM. For ever: another process hangs; then the process ends with exit code 4
after one line that names it. Processes report to their common store that they are alive, so a
stopped one is known from one that waits for it.
"""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from configs import signals
from distill.parallel import engine, processes

LAUNCHERS = (b"torch", b"deepspeed")  # part of their command lines
LOOK_SECONDS = 1.0  # how often a process looks for a request to stop that another was sent
UNBOUNDED = "preparing"  # may take hours: only the process that prepares must be alive


def follow_launcher() -> None:
    """Watches, from now on, the process that started this one, and under `deepspeed` also the one
    before.

    Only where a launcher started it: a process of its own may outlive its shell.
    """
    if "RANK" in os.environ:
        threading.Thread(target=_follow, args=(_ancestors(),), daemon=True).start()


def _follow(before: list[int]) -> None:
    started_by_launcher = "TORCHELASTIC_RUN_ID" in os.environ or "CROSS_SIZE" in os.environ
    if not (started_by_launcher and _is_orphan(before)):
        while _ancestors() == before:
            time.sleep(0.5)
    signals.request("the end of its launcher")


def _ancestors() -> list[int]:
    """The parent, and the parent's parent where the parent is one of the two processes of
    `deepspeed`.
    """
    parent = os.getppid()
    return [parent, _parent_of(parent)] if b"deepspeed" in _command(parent) else [parent]


def _is_orphan(ancestors: list[int]) -> bool:
    """Whether a launcher was gone before this process could look: orphans are given to process
    1.
    """
    return ancestors[-1] == 1 and not any(name in _command(1) for name in LAUNCHERS)


def _parent_of(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


class Watch:
    """Of one process. `limit`: seconds without a finished step (or save, or loading) after which
    the training hangs.

    Another process that hangs is found within 1.1 times the limit and 3 seconds.
    """

    def __init__(self, limit: float, report: Callable[[int, str], None], program: str) -> None:
        """`report` is given the exit code and the line, in the process that prints it; `program` is
        the module that was started, `distill.train`.

        Every rank must call this.
        """
        self.program = program
        self.limit, self.report = limit, report
        self.doing, self.step, self.since = UNBOUNDED, 0, time.monotonic()
        self.rank, self.size = engine.rank(), engine.world_size()
        self.beat = min(limit / 20, 30.0)
        self.answered = time.monotonic()  # when the store last did
        self.alive_0 = time.monotonic()  # when rank 0 last reported
        self.ended = threading.Event()
        self.peers: list[bytes] = []  # by rank: host and process
        for target in (self._report, self._check):
            threading.Thread(target=target, daemon=True).start()

    def at(self, step: int, doing: str) -> None:
        """The main thread begins something that must end within the limit."""
        self.doing, self.step, self.since = doing, step, time.monotonic()

    def stop(self) -> None:
        """Ends the watch.

        A process that stops alone, before all are in step, first asks the others to stop too.
        """
        self.ended.set()
        if self.size > 1 and signals.requests.number and not signals.requests.deferred:
            with suppress(RuntimeError):
                processes.store().set(processes.STOP, str(signals.requests.number))
            if self.rank == 0:
                time.sleep(2 * LOOK_SECONDS)  # it may hold the store

    def _report(self) -> None:
        if self.size == 1:
            return
        with suppress(
            RuntimeError
        ):  # the process that keeps the store has ended: the main thread meets that too
            self._report_until_ended(processes.store())

    def _report_until_ended(self, store: Any) -> None:
        store.set(f"distill/peer/{self.rank}", f"{socket.gethostname()} {os.getpid()}")
        store.set(_key(self.rank), "0 0")
        # Asked now: when it is needed, the store may be in the process that hangs.
        self.peers = store.multi_get([f"distill/peer/{rank}" for rank in range(self.size)])
        beats, last_0 = 0, b""
        while not self.ended.wait(
            self.beat if signals.requests.deferred else min(self.beat, LOOK_SECONDS)
        ):
            beats += 1
            store.set(_key(self.rank), f"{beats} {self.step}")
            now_0 = store.get(_key(0))
            self.answered = time.monotonic()
            if now_0 != last_0:
                last_0, self.alive_0 = now_0, self.answered
            if (
                not signals.requests.deferred
                and not signals.requests.number
                and store.check([processes.STOP])
            ):
                number = int(store.get(processes.STOP))
                signals.requests.reason = f"{signal.Signals(number).name} to another process"
                os.kill(os.getpid(), number)

    def _check(self) -> None:
        while not self.ended.wait(min(self.beat, LOOK_SECONDS)):
            now = time.monotonic()
            if self.doing == UNBOUNDED:
                if self.size > 1 and self.rank > 0 and now - self.alive_0 > self.limit:
                    self._end(
                        [0],
                        "waiting for rank 0 to prepare; it has not reported for "
                        f"{now - self.alive_0:.0f} s",
                    )
            elif now - self.since > self.limit:
                waited = f"{self.doing} step {self.step} for {now - self.since:.0f} s"
                self._end(*self._culprits(waited))

    def _culprits(self, waited: str) -> tuple[list[int], str]:
        """The ranks that do not report any more, and the line that names them."""
        if self.size == 1:
            return [], f"has been {waited}"
        if time.monotonic() - self.answered > 4 * self.beat:
            return [
                0
            ], f"has been {waited}; rank 0, which keeps the processes' store, does not answer"
        found: list[list[bytes]] = []
        asking = threading.Thread(target=lambda: found.extend(self._two_looks()), daemon=True)
        asking.start()
        asking.join(2 * self.beat + 3)
        if len(found) < 2:
            return [
                0
            ], f"has been {waited}; rank 0, which keeps the processes' store, does not answer"
        silent = [
            rank
            for rank, (one, two) in enumerate(zip(*found, strict=True))
            if one == two and rank != self.rank
        ]
        if silent:
            return (
                silent,
                f"has been {waited}; rank {_listed(silent)} of {self.size} does not report any "
                "more",
            )
        steps = [int(beat.split()[1]) for beat in found[1]]
        behind = [rank for rank, step in enumerate(steps) if step < max(steps)]
        which = (
            f"rank {_listed(behind)} is at step {min(steps)}"
            if behind
            else "all ranks report and wait for each other"
        )
        return [], f"has been {waited}; {which}"

    def _two_looks(self) -> list[list[bytes]]:
        store, keys = processes.store(), [_key(rank) for rank in range(self.size)]
        looks = [store.multi_get(keys)]
        time.sleep(2 * self.beat)
        return [*looks, store.multi_get(keys)]

    def _end(self, silent: list[int], what: str) -> None:
        """Ends this process, and those of this machine that do not react to anything any more."""
        if self.ended.is_set():
            return
        line = (
            f"rank {self.rank} {what}; nothing is lost, the same command goes on from the last "
            "checkpoint"
        )
        if self._speaks(silent):
            line += " (hung_after_seconds is the limit)"
            print(f"{self.program}: {line}", file=sys.stderr, flush=True)
            self.report(4, line)
        # The others are about to find the same; the first to end costs them their connection, which
        # would be another line.
        time.sleep(2 * min(self.beat, LOOK_SECONDS))
        for rank in silent:
            host, pid = self.peers[rank].decode().split()
            if host == socket.gethostname() and self.program.encode() in _command(int(pid)):
                with suppress(OSError):
                    os.kill(int(pid), signal.SIGKILL)
        os._exit(4)

    def _speaks(self, silent: list[int]) -> bool:
        """The lowest rank that reports; so no store is needed for it."""
        return self.rank == min(set(range(self.size)) - set(silent))


def _key(rank: int) -> str:
    return f"distill/alive/{rank}"


def _listed(ranks: list[int]) -> str:
    return ", ".join(map(str, ranks[:8])) + (" and more" if len(ranks) > 8 else "")
