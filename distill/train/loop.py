"""A training from start to end, whatever is trained: the process group, resuming, the steps, the
log, checkpoints, and stopping when asked to. Distilling and finetuning share it.
"""

import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from configs import memory, signals
from configs.lock import locked
from configs.schema.pace import Pace
from distill.checkpoints.checkpoint import Checkpoints
from distill.parallel import engine, processes, watch
from distill.parallel.engine import Engine
from distill.parallel.watch import Watch
from distill.status import Writer, recorded
from distill.train import not_finite
from distill.train.log import Log, Meter


class Training(Protocol):
    """What is trained. Every rank calls each of these; `step` counts from 0."""

    @property
    def engine(self) -> Engine: ...

    def one_step(self, step: int) -> tuple[dict[str, torch.Tensor], bool]:
        """One optimizer step: this process's share of every term, `loss/total` among them, and
        whether the step was taken (`Engine.step`).
        """

    def held_out(self, step: int) -> dict[str, float]:
        """The loss on rows that are never trained on, as `val/...`; {} where there are none."""

    def show(self, step: int, alive: Callable[[], None]) -> np.ndarray | None:
        """A picture (H, W, 3) for people to look at, of what `step` steps have made; None where
        there is none. `alive` is to be called now and then.
        """

    def explain(self, step: int) -> str:
        """Why the numbers of this step are not finite, and what to do about it."""

    def finish(self) -> None:
        """After the last step."""


@dataclass(frozen=True)
class Session:
    """What a training holds while it runs. `folder`: of its checkpoints, metrics and status.
    `process_bytes`: memory of Python and its libraries, before anything is loaded.
    """

    folder: Path
    process_bytes: int
    watched: Watch
    writer: Writer
    _held: ExitStack

    def hold(self, preparing: str, claim: Callable[[], None]) -> None:
        """Rank 0 alone: locks the folder, runs `claim`, and records from now on how it ends."""
        self._held.enter_context(locked(self.folder))
        claim()
        self._held.enter_context(recorded(self.writer))
        self.writer.write("preparing", preparing)


@contextmanager
def process_group() -> Iterator[None]:
    """Every process of the launcher joins it, once in its life: DeepSpeed keeps what it has made of
    the first one.

    Raises what the block raises.
    """
    # A lost connection is reported in one line, not with torch's stack.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    watch.follow_launcher()
    engine.start()
    try:
        with processes.lost_ones_explained():
            yield
    finally:
        engine.stop()


@contextmanager
def session(folder: Path, hung_after_seconds: float, program: str) -> Iterator[Session]:
    """One training, watched by a thread that ends it when it hangs. `program`: `distill.train`.

    Raises what the block raises, and SystemExit in processes whose end rank 0 reports.
    """
    writer = Writer(folder)
    with ExitStack() as held:
        watched = watch.Watch(hung_after_seconds, writer.end, program)
        held.callback(watched.stop)
        yield Session(folder, memory.held(), watched, writer, held)


def train(
    session: Session,
    pace: Pace,
    what: str,
    load: Callable[[], tuple[Any, str]],
    meter: Callable[[Any], Meter],
) -> None:
    """Runs or resumes it.

    `what`: "the distillation", for messages. `load` builds the `Training` and says what it works
    on; `meter` of a task measures its speed.
    """
    checkpoints = Checkpoints(session.folder, pace.keep_checkpoints)
    newest = checkpoints.latest()
    if newest is not None and newest.name == f"step_{pace.steps:06d}":
        say(f"{newest}: {what} is finished")
        return _finish(session, pace, what)
    session.watched.at(0, "loading for")
    task, description = load()
    start = checkpoints.resume(task.engine, newest)
    say(f"step {start} to {pace.steps}, {description}, {engine.world_size()} processes")
    session.writer.step = start
    signals.defer()
    log = None
    if engine.rank() == 0:
        session.writer.write("training", f"step {start} to {pace.steps}")
        log = Log(session.folder, start, pace, meter(task))
    try:
        if start == 0:
            _show(task, 0, session.watched, log)
        _steps(task, pace, session, start, checkpoints, log)
    finally:
        if log is not None:
            log.close()
    task.finish()
    _finish(session, pace, what)


def _finish(session: Session, pace: Pace, what: str) -> None:
    """Reports success, also if a signal arrived after the last save: all steps are done."""
    session.writer.step = pace.steps
    if engine.rank() == 0:
        session.writer.end(0, f"{what} is finished")


def _steps(
    task: Training,
    pace: Pace,
    session: Session,
    start: int,
    checkpoints: Checkpoints,
    log: Log | None,
) -> None:
    skipped, due, watched, writer = 0, False, session.watched, session.writer
    for step in range(start, pace.steps):
        watched.at(step + 1, "training")
        started = time.monotonic()
        values, taken = task.one_step(step)
        if log is not None:
            log.meter.count(step, time.monotonic() - started)
        skipped = 0 if taken else skipped + 1
        not_finite.check_taken(task, pace, skipped, step)
        last = step + 1 == pace.steps
        evaluate = last or (step + 1) % pace.eval_every_steps == 0
        if taken and (evaluate or (step + 1) % pace.log_every_steps == 0):
            row = _measured(task, pace, step, values) | _memory(task.engine.device, session)
            if evaluate:
                watched.at(step + 1, "evaluating")
                row |= task.held_out(step)
            if log is not None:
                log.write(step + 1, row)
        _show(task, step + 1, watched, log)  # before the step is saved: then it is never left out
        stopping = processes.stop_requested(task.engine.device)
        due = due or last or bool(stopping) or (step + 1) % pace.save_every_steps == 0
        # A state whose gradient is not finite may be a diverged one: it replaces no good one.
        if due and (taken or last):
            watched.at(step + 1, "saving")
            checkpoints.save(task.engine, step + 1)
            due, writer.step = False, step + 1
            if engine.rank() == 0 and not (last or stopping):
                writer.write("training", f"step {step + 1} of {pace.steps} is saved")
        if stopping and not last:
            saved = "which is not saved, as it was skipped" if due else "which is saved"
            raise processes.stop(stopping, f" after step {step + 1}, {saved}")


def _show(task: Training, step: int, watched: Watch, log: Log | None) -> None:
    """Every rank must call this."""

    def alive() -> None:
        watched.at(step, "painting")

    picture = task.show(step, alive)
    if log is not None and picture is not None:
        log.picture(step, picture)


def _measured(
    task: Training, pace: Pace, step: int, values: dict[str, torch.Tensor]
) -> dict[str, float]:
    """A row of the log: the terms of the step's loss, and what its update was."""
    shares = [value.to(task.engine.device, torch.float32) for value in values.values()]
    sums = engine.all_reduce_sum(torch.stack(shares))
    row = dict(zip(values, sums.tolist(), strict=True))
    not_finite.check_losses(task, row, step)
    ratios = task.engine.update_ratios()
    return {
        **row,
        "learning_rate": learning_rate(step, pace),
        "skipped_steps": task.engine.skipped_steps,
        "optimizer/gradient_norm": task.engine.gradient_norm,
        **{f"optimizer/update_ratio_{name}": ratio for name, ratio in ratios.items()},
    }


def _memory(device: torch.device, session: Session) -> dict[str, float]:
    """The most bytes of this process's tensors on its GPU so far; on a CPU, where only somebody who
    looks on sees a peak, what is to be taken off it.
    """
    if device.type != "cuda":
        return {"memory/process": float(session.process_bytes)}
    return {"memory/gpu_peak": float(torch.cuda.max_memory_allocated(device))}


def learning_rate(step: int, pace: Pace) -> float:
    """Linear warm-up, then a cosine to zero."""
    if step < pace.warmup_steps:
        return pace.learning_rate * (step + 1) / pace.warmup_steps
    done = (step - pace.warmup_steps) / (pace.steps - pace.warmup_steps)
    return pace.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def say(text: str) -> None:
    if engine.rank() == 0:
        print(text, file=sys.stderr)
