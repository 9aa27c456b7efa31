"""What a command does when it is asked to stop: SIGTERM, SIGHUP, SIGUSR1 (exit code 75) or SIGINT
(exit code 130).

The first request raises Preempted or KeyboardInterrupt in the main thread, wherever it is: what a
stage makes appears whole or not at all, so nothing half-made is lost. Training calls `defer` and
stops by itself after saving. The second request prints a line, the third ends the process at once.
Launchers repeat a signal, so what arrives within REPEATED_SECONDS of a request is part of it.
"""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from configs.errors import Preempted

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGINT)
REPEATED_SECONDS = 3.0
# How long the main thread may take to unwind after the first request. It may be inside a library's
# call that takes longer, or in one that waits for other machines; then the process ends without it.
GRACE_SECONDS = 10.0


class Requests:
    """Of this process; signals belong to the process, so there is one of these (`requests`)."""

    def __init__(self) -> None:
        self.number = 0  # of the first signal; 0 before it
        self.reason = ""  # for the message: "SIGTERM", or why the process sent it to itself
        self.deferred = False
        self.ended = (
            False  # the command has returned or raised; only the interpreter is left to end
        )
        self.before_exit: Callable[[int, str], None] | None = (
            None  # called with code and line before a hard end
        )
        self._counted, self._last = 0, 0.0
        self._lock = threading.Lock()

    def note(self, number: int) -> None:
        with self._lock:
            if not self.number:
                self.number = number
                self.reason = self.reason or signal.Signals(number).name

    def count(self) -> int:
        """How many requests there were with this signal; 0 where it is part of the one before."""
        now = time.monotonic()
        if self._counted and now - self._last < REPEATED_SECONDS:
            return 0
        self._counted, self._last = self._counted + 1, now
        return self._counted


requests = Requests()


def request(reason: str) -> None:
    """Asks this process to stop as SIGTERM would; `reason` stands in the message in the signal's
    place.
    """
    if not requests.number:
        requests.reason = reason
    os.kill(os.getpid(), signal.SIGTERM)


def defer() -> None:
    """From now on requests are only noted in `requests.number`.

    Raises what a request noted before would have.
    """
    requests.deferred = True
    if requests.number:
        raise stopped(requests.number, requests.reason)


def stopped(number: int, reason: str, where: str = "") -> BaseException:
    """What a request to stop raises; `where` says how far the work is."""
    line = f"stopped by {reason}{where}; run the same command to go on"
    return KeyboardInterrupt(line) if number == signal.SIGINT else Preempted(line)


def exit_code(number: int) -> int:
    return 130 if number == signal.SIGINT else 75


@contextmanager
def handled(prog: str) -> Iterator[None]:
    """Handles the signals while the block runs. One that is ignored on entry stays ignored: so
    `nohup` asks of SIGHUP.

    After the block they are ignored where the process is the command itself, and as before in any
    other process.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    global requests
    requests = Requests()
    read, write = socket.socketpair()
    write.setblocking(False)
    # An ignored SIGINT is not kept: shells ignore it for what they start with `&`.
    caught = [n for n in SIGNALS if n == signal.SIGINT or signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, _raise) for number in caught}
    fd = signal.set_wakeup_fd(write.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_listen, args=(prog, read, requests), daemon=True).start()
    try:
        yield
    finally:
        requests.ended = True
        spec = getattr(sys.modules.get("__main__"), "__spec__", None)
        is_command = spec is not None and spec.name in (prog, f"{prog}.__main__")
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if is_command else handler)
        signal.set_wakeup_fd(fd)
        write.close()


def _raise(number: int, _frame: FrameType | None) -> None:
    first = not requests.number
    requests.note(number)
    if first and not requests.deferred and not requests.ended:
        raise stopped(number, requests.reason)


def _forget() -> None:
    """In a forked child: it is the one that forked which decides, and its socket must not hear of
    the child's signals.
    """
    ours = [number for number in SIGNALS if signal.getsignal(number) is _raise]
    for number in ours:
        signal.signal(
            number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        )
    if ours:
        signal.set_wakeup_fd(-1)


os.register_at_fork(after_in_child=_forget)


def _listen(prog: str, read: socket.socket, of: Requests) -> None:
    """Does what must also happen while the main thread is inside a call that never returns to
    Python.
    """
    while numbers := read.recv(64):
        for number in numbers:
            if number not in SIGNALS or of.ended:
                continue
            requested = of.count()
            if requested == 1 and not of.deferred:
                threading.Thread(
                    target=_end_after_grace, args=(prog, number, of), daemon=True
                ).start()
            elif requested == 2:
                _print(f"{prog}: stopping already; one more signal ends it at once")
            elif requested == 3:
                name = signal.Signals(number).name
                _end(
                    prog,
                    number,
                    f"ended at once by a third signal ({name}); run the same command to go on",
                    of,
                )
    read.close()


def _end_after_grace(prog: str, number: int, of: Requests) -> None:
    deadline = time.monotonic() + GRACE_SECONDS
    while time.monotonic() < deadline:
        if of.ended or of.deferred:
            return
        time.sleep(0.1)
    _end(prog, number, str(stopped(number, of.reason or signal.Signals(number).name)), of)


def _end(prog: str, number: int, line: str, of: Requests) -> None:
    _print(f"{prog}: {line}")
    if of.before_exit is not None:
        of.before_exit(exit_code(number), line)
    os._exit(exit_code(number))


def rank() -> int:
    """Of this process among those of its launcher; 0 without one.

    Known before the processes are connected, and the same afterwards.
    """
    return int(os.environ.get("RANK", "0"))


def _print(line: str) -> None:
    """Under a launcher rank 0 prints for all."""
    if rank() == 0:
        os.write(2, f"{line}\n".encode(errors="backslashreplace"))
