"""How the pieces of a stage are run: the one door to datatrove, whose executor keeps a marker of every finished piece.

In:  a `Task`: something to pickle that does piece number `rank` of the work and leaves a whole file behind.
Out: the files of all pieces; a piece with a marker in `folder` is not done again.
"""

import multiprocessing
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Protocol

from datatrove.executor.local import LocalPipelineExecutor
from loguru import logger
from tqdm import tqdm

from configs.command import SetupError

# datatrove tells its progress through loguru, on stderr; errors reach the user as exceptions. At import, so in every worker too.
logger.disable("datatrove")


class Task(Protocol):
    @property
    def rows(self) -> Sequence[int]:
        """Of each piece: how much of the work it is."""

    def __call__(self, data: object, rank: int, world_size: int) -> None:
        """Does piece number `rank` of `world_size`, one call a process at a time; `data` is datatrove's and None."""


def run(task: Task, folder: Path, workers: int, name: str) -> None:
    """Does every piece that has no marker in `folder`. Raises what a piece raised, and SetupError when a worker was killed."""
    pieces = len(task.rows)
    if pieces:
        Executor([task], tasks=pieces, workers=min(workers, pieces), logging_dir=str(folder), name=name).run()


class Executor(LocalPipelineExecutor):
    """datatrove's local executor on the standard library's process pool.

    Its own `run` keeps a manager process that outlives a run killed by a signal, and waits for ever when a worker is killed.
    """

    def __init__(self, *arguments: object, name: str, **options: object) -> None:
        super().__init__(*arguments, **options)
        self.name = name

    def run(self) -> None:
        (task,) = self.pipeline
        ranks = self.get_incomplete_ranks()
        rows = task.rows
        with tqdm(total=sum(rows), initial=sum(rows) - sum(rows[rank] for rank in ranks), desc=self.name, unit="rows", unit_scale=True) as bar:
            if self.workers == 1:
                for rank in ranks:
                    self._run_for_rank(rank)
                    bar.update(rows[rank])
                return
            context = multiprocessing.get_context(self.start_method)
            pool = ProcessPoolExecutor(self.workers, context, initializer=_end_with_parent)
            try:
                running = {pool.submit(self._run_for_rank, rank): rank for rank in ranks}
                for future in as_completed(running):
                    future.result()
                    bar.update(rows[running[future]])
            except BrokenProcessPool:
                raise SetupError("a worker was killed, perhaps for want of memory; lower corpora.workers and run the same command to go on") from None
            finally:
                pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """Ends this worker when the process that started it is gone, however that ended."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
