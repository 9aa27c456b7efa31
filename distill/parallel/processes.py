"""The processes of one training as one: what rank 0 does for all of them, and how all stop at the
same step.

Under a launcher every process calls the same functions. One process alone needs no other's answer.
"""

import itertools
import json
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from configs import signals
from configs.errors import SetupError, first_line, outcome
from distill.parallel import engine

POLL_SECONDS = 0.2
# Rank 0 may hold the store: where it fails, it stays until the others have read the outcome, or so
# long.
READ_SECONDS = 5.0
OUTCOME, READ, STOP = "distill/outcome", "distill/read", "distill/stop"  # keys of the store
_calls = itertools.count()  # of `first`: each has keys of its own


def store() -> Any:
    """A new connection to the processes' key-value store: a thread that waits on it does not block
    other threads.
    """
    return torch.distributed.distributed_c10d._get_default_store().clone()


def first(body: Callable[[], None]) -> None:
    """Rank 0 runs `body`, however long it takes; the others wait. They go on when it is done.

    If `body` raises, rank 0 raises that error and reports it; the others exit silently with the
    same code.
    """
    if engine.world_size() == 1:
        return body()
    call = next(_calls)
    if engine.rank() == 0:
        return _first(body, call)
    shared = store()
    try:
        # No blocking call: signals are handled between two looks.
        while not shared.check([f"{OUTCOME}/{call}"]):
            time.sleep(POLL_SECONDS)
        code = json.loads(shared.get(f"{OUTCOME}/{call}"))
    finally:
        shared.add(f"{READ}/{call}", 1)
    if code:
        raise SystemExit(code)
    return None


def _first(body: Callable[[], None], call: int) -> None:
    try:
        body()
    except BaseException as error:
        shared = store()
        shared.set(f"{OUTCOME}/{call}", json.dumps((outcome(error) or (1, ""))[0]))
        deadline = time.monotonic() + READ_SECONDS
        while (
            shared.add(f"{READ}/{call}", 0) < engine.world_size() - 1
            and time.monotonic() < deadline
        ):
            time.sleep(POLL_SECONDS)
        raise
    store().set(f"{OUTCOME}/{call}", "0")


def stop_requested(device: torch.device) -> int:
    """The signal that any process was sent, or 0: the same in every process. Every rank must call
    this.

    An all-reduce of four bytes; DeepSpeed has waited for the device in this step already, to look
    at the gradients' norm.
    """
    number = signals.requests.number
    if engine.world_size() == 1:
        return number
    highest = torch.tensor(number, dtype=torch.int32, device=device)
    torch.distributed.all_reduce(highest, op=torch.distributed.ReduceOp.MAX)
    return int(highest.item())


def stop(number: int, where: str) -> BaseException:
    """What every process raises to stop at the same step; rank 0 reports it."""
    if engine.rank():
        return SystemExit(signals.exit_code(number))
    own = signals.requests
    reason = own.reason if own.number else f"{signal.Signals(number).name} to another process"
    return signals.stopped(number, reason, where)


@contextmanager
def lost_ones_explained() -> Iterator[None]:
    """Turns what a collective call raises when another process is gone into one line.

    Raises SetupError; where a stop was requested, of this process or any other, what that request
    raises.
    """
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.distributed.DistError) and not re.search(
            r"\b(gloo|NCCL)\b|Connection (closed|reset)", str(error)
        ):
            raise
        if number := signals.requests.number:
            raise stop(number, " before it could be saved together") from None
        what = f"rank {engine.rank()} lost the connection to another process ({first_line(error)})"
        raise SetupError(
            f"{what}; see that process's own message, and run the same command to go on from the "
            "last checkpoint"
        ) from None
