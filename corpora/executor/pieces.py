"""What the executors share: the task protocol, the progress bar, the number of tries.

In:  the rows of each piece, and the ranks still to do.
Out: a progress bar in rows, those of earlier runs included.
"""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Protocol

from loguru import logger
from tqdm import tqdm

# per piece whose worker is killed, for its own use of memory or another process's
TRIES = 3

# Index of this worker on its machine (0, 1, ...), used to pick a GPU. Stays 0 in a cluster job,
# whose scheduler assigns the GPU.
worker_number = 0

# datatrove logs progress to stderr; errors reach the user as exceptions. Disabled at import, so in
# every worker.
logger.disable("datatrove")


class Task(Protocol):
    @property
    def rows(self) -> Sequence[int]:
        """The rows of each piece, for the progress bar."""

    def __call__(self, data: object, rank: int, world_size: int) -> None:
        """Does piece `rank` of `world_size`, one call at a time in a process; `data` is datatrove's
        and always None.
        """

    def files(self, rank: int) -> Sequence[Path]:
        """The files that the piece writes."""


def progress(rows: Sequence[int], ranks: Collection[int], name: str) -> Any:
    """A bar over all rows; the pieces `ranks` are still to do."""
    return tqdm(
        total=sum(rows),
        initial=sum(rows) - sum(rows[rank] for rank in ranks),
        desc=name,
        unit="rows",
        unit_scale=True,
    )
