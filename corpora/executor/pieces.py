"""What the executors share: the task they are given, the bar they show, how often a piece is tried.

In:  a task's rows a piece, and the numbers of the pieces to do.
Out: a progress bar that counts rows, those of earlier runs included.
"""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Protocol

from loguru import logger
from tqdm import tqdm

# of a piece whose worker is killed; the killer may be another process of the machine, or this very
# piece
TRIES = 3

# Of this process among those of its machine, from 0: with several GPUs each worker takes its own. A
# job of a cluster is given its GPU by that.
worker_number = 0

# datatrove tells its progress through loguru, on stderr; errors reach the user as exceptions. At
# import, so in every worker too.
logger.disable("datatrove")


class Task(Protocol):
    @property
    def rows(self) -> Sequence[int]:
        """Of each piece: how much of the work it is."""

    def __call__(self, data: object, rank: int, world_size: int) -> None:
        """Does piece number `rank` of `world_size`, one call a process at a time; `data` is
        datatrove's and None.
        """

    def files(self, rank: int) -> Sequence[Path]:
        """What the piece leaves behind."""


def progress(rows: Sequence[int], ranks: Collection[int], name: str) -> Any:
    """A bar of all rows, of which those of `ranks` are still to do."""
    return tqdm(
        total=sum(rows),
        initial=sum(rows) - sum(rows[rank] for rank in ranks),
        desc=name,
        unit="rows",
        unit_scale=True,
    )
