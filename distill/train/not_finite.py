"""When a training gives up: too many skipped steps in a row, or a loss that is not finite."""

import math
from typing import Protocol

from configs.errors import DataError
from configs.schema.pace import Pace

SKIPPED_AT_MOST = 10  # steps in a row


class Explains(Protocol):
    def explain(self, step: int) -> str:
        """Why the numbers of this step are not finite, and what to do about it."""


def check_taken(task: Explains, pace: Pace, in_a_row: int, step: int) -> None:
    """Raises DataError after too many skipped steps in a row (`in_a_row`): a single batch may
    overflow, but a run that only skips does not train.

    `step` counts from 0. Every rank must call this.
    """
    last = step + 1 == pace.steps
    if in_a_row >= SKIPPED_AT_MOST or (last and in_a_row > 1):
        raise DataError(
            f"step {step + 1}: the gradient was not finite {in_a_row} steps in a row: "
            f"{task.explain(step)}"
        )


def check_losses(task: Explains, row: dict[str, float], step: int) -> None:
    """Raises DataError for a loss that is not finite.

    `row` is the same in every rank, and every rank must call this.
    """
    bad = [name for name, value in row.items() if not math.isfinite(value)]
    if bad:
        raise DataError(f"step {step + 1}: {bad[0]} is {row[bad[0]]}: {task.explain(step)}")
