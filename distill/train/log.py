"""Rank 0's record of a training: the progress bar, `metrics.jsonl` and TensorBoard.

Out: `<run>/distill/metrics.jsonl`, one row every `log_every_steps` and at every evaluation;
     `<run>/distill/tensorboard/`.
"""

import json
import time
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from configs.schema.distill import Distill
from distill.train import metrics_file
from distill.train.speed import Speed
from distill.train.work import Work


class Log:
    """Opened at the step training starts or resumes from: rows of later steps are dropped, since
    those steps are made again.
    """

    def __init__(self, run: Path, start: int, work: Work, settings: Distill) -> None:
        self.speed = Speed(work, settings)
        path = run / "metrics.jsonl"
        metrics_file.resume(path, start, settings.log_every_steps)
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (closed by close)
        self._board = SummaryWriter(run / "tensorboard", purge_step=start)
        self._bar = tqdm(
            total=settings.steps, initial=start, desc="distill", unit="step", dynamic_ncols=True
        )
        self._batch_size, self._start, self._started = settings.batch_size, start, time.monotonic()

    def write(self, step: int, row: dict[str, float]) -> None:
        pairs_per_second = (
            (step - self._start) * self._batch_size / (time.monotonic() - self._started)
        )
        row = {
            "step": step,
            **row,
            "pairs_per_second": round(pairs_per_second, 1),
            **self.speed.row(),
        }
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        for name, value in row.items():
            self._board.add_scalar(name, value, step)
        self._bar.set_postfix_str(
            f"loss={row['loss/total']:.4f}, {pairs_per_second:.0f} pairs/s", refresh=False
        )
        self._bar.update(step - self._bar.n)

    def close(self) -> None:
        self._bar.close()
        self._file.close()
        self._board.close()
