"""Rank 0's record of a training: the progress bar, `metrics.jsonl` and TensorBoard.

Out: `metrics.jsonl` in the training's folder, one row every `log_every_steps` and at every
     evaluation; `tensorboard/`.
"""

import json
import time
from pathlib import Path
from typing import Protocol

import numpy as np
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from configs.schema.pace import Pace
from distill.train import metrics_file


class Meter(Protocol):
    """How fast a training runs, measured between two rows of the log. `unit`: of a batch."""

    unit: str

    def count(self, step: int, seconds: float) -> None:
        """A step (counted from 0) that took so long."""

    def row(self) -> dict[str, float]:
        """`speed/...` since the last call."""


class Log:
    """Opened at the step training starts or resumes from: rows of later steps are dropped, since
    those steps are made again.
    """

    def __init__(self, run: Path, start: int, pace: Pace, meter: Meter) -> None:
        self.meter = meter
        path = run / "metrics.jsonl"
        metrics_file.resume(path, start, pace.log_every_steps)
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (closed by close)
        self._board = SummaryWriter(run / "tensorboard", purge_step=start)
        self._bar = tqdm(
            total=pace.steps, initial=start, desc=run.name, unit="step", dynamic_ncols=True
        )
        self._batch_size, self._start, self._started = pace.batch_size, start, time.monotonic()

    def write(self, step: int, row: dict[str, float]) -> None:
        rate = (step - self._start) * self._batch_size / (time.monotonic() - self._started)
        unit = self.meter.unit
        row = {
            "step": step,
            **row,
            f"{unit}_per_second": float(f"{rate:.4g}"),
            **self.meter.row(),
        }
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        for name, value in row.items():
            self._board.add_scalar(name, value, step)
        self._bar.set_postfix_str(
            f"loss={row['loss/total']:.4f}, {shown(rate)} {unit}/s", refresh=False
        )
        self._bar.update(step - self._bar.n)

    def picture(self, step: int, picture_HW3: np.ndarray) -> None:
        """8-bit, for TensorBoard."""
        self._board.add_image("validation", picture_HW3, step, dataformats="HWC")

    def close(self) -> None:
        self._bar.close()
        self._file.close()
        self._board.close()


def shown(rate: float) -> str:
    """At least three digits: a step of a large model may take minutes."""
    return f"{rate:.0f}" if rate >= 100 else f"{rate:.3g}"
