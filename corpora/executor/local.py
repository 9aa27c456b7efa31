"""Runs the pieces of a stage on this machine.

In:  a task and the number of workers.
Out: its files. When a worker is killed, its piece is tried again.
"""

import multiprocessing
import os
import signal
import sys
import threading
from collections import Counter, deque
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from datatrove.executor.local import LocalPipelineExecutor

from configs.errors import Preempted, SetupError
from corpora.executor import pieces
from corpora.executor.pieces import TRIES, Task, progress


class LocalExecutor(LocalPipelineExecutor):
    """datatrove's local executor on the standard library's process pool.

    datatrove's own `run` leaves a manager process behind when a signal kills it, and hangs when a
    worker is killed.
    """

    def __init__(self, task: Task, folder: Path, workers: int, name: str) -> None:
        super().__init__([task], tasks=len(task.rows), workers=workers, logging_dir=str(folder))
        self.name = name

    def run(self) -> None:
        """Raises what a piece raised; SetupError when a piece's worker was killed TRIES times."""
        (task,) = self.pipeline
        waiting = deque(self.get_incomplete_ranks())
        tries = Counter[int]()
        workers = self.workers
        with progress(task.rows, waiting, self.name) as bar:
            if workers == 1:
                for rank in waiting:
                    self._run_for_rank(rank)
                    bar.update(task.rows[rank])
                return
            while (killed := self._run_until_killed(waiting, workers, bar)) is not None:
                tries.update(killed)
                if hopeless := [rank for rank in killed if tries[rank] == TRIES]:
                    raise SetupError(
                        f"a worker was killed {TRIES} times at piece "
                        f"{' or '.join(map(str, hopeless))} of {self.name}, perhaps for lack of "
                        "memory; lower corpora.workers and run the same command to go on"
                    )
                # retried first, so that a piece that kills its worker is reported early
                waiting.extendleft(reversed(killed))
                workers = max(1, workers // 2)  # lack of memory is the usual cause
                bar.write(
                    f"{self.name}: a worker was killed, perhaps for lack of memory; going on with "
                    f"{workers}",
                    file=sys.stderr,
                )

    def _run_until_killed(self, waiting: deque[int], workers: int, bar: Any) -> list[int] | None:
        """Does the pieces in `waiting`. Returns None when all are done; if a worker is killed, the
        pieces that were interrupted.
        """
        (task,) = self.pipeline
        running: dict[Future[object], int] = {}
        context = multiprocessing.get_context(self.start_method)
        pool = ProcessPoolExecutor(
            workers, context, initializer=_begin_worker, initargs=(context.Value("i", 0),)
        )
        try:
            while waiting or running:
                # never more than there are workers: if the pool breaks, all of `running` was
                # interrupted
                while waiting and len(running) < workers:
                    future = pool.submit(self._run_for_rank, waiting[0])
                    running[future] = waiting.popleft()
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    future.result()
                    bar.update(task.rows[running.pop(future)])
        except (Preempted, KeyboardInterrupt):
            for worker in multiprocessing.active_children():
                worker.kill()  # waiting could take a minute; its piece will be done again
            raise
        except BrokenProcessPool:
            killed = self.get_incomplete_ranks(sorted(running.values()))
            bar.update(sum(task.rows[rank] for rank in running.values() if rank not in killed))
            return killed
        finally:
            pool.shutdown(cancel_futures=True)
        return None


def _begin_worker(workers_so_far: Any) -> None:
    with workers_so_far.get_lock():
        pieces.worker_number = workers_so_far.value
        workers_so_far.value += 1
    # Ctrl-C reaches every process of the terminal; the parent decides
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _end_with_parent()


def _end_with_parent() -> None:
    """Ends this worker when its parent process is gone, however that ended."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
