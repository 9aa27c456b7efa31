"""Runs the pieces of a stage as Ray tasks. The door to Ray, an optional dependency.

In:  a task and the recipe's `corpora.executor`. Every node must see the folder and all files that
     the task reads and writes.
Out: its files. Ray tries a piece again if its worker or node is gone.
"""

import os
import sys
from collections import deque
from pathlib import Path
from typing import Any

from datatrove.executor.ray import RayPipelineExecutor

from configs.errors import EXIT_CODES, SetupError
from configs.schema.executors import Ray
from corpora.executor.pieces import TRIES, Task, progress

CODE = Path(__file__).resolve().parents[2]
USERS_ERRORS = tuple(kind for kind, _ in EXIT_CODES)


class RayExecutor(RayPipelineExecutor):
    """datatrove's Ray executor on plain Ray tasks.

    datatrove's own `run` forks inside an actor: it hangs when the fork is killed for lack of
    memory, and does not pass on a piece's error.
    """

    def __init__(self, task: Task, folder: Path, workers: int, name: str, where: Ray) -> None:
        options = {"cpus_per_task": where.cpus_per_task, "mem_per_cpu_gb": where.mem_per_cpu_gb}
        super().__init__(
            [task],
            tasks=len(task.rows),
            workers=workers,
            logging_dir=str(folder.resolve()),
            **options,
        )
        self.name, self.address = name, where.address
        self.directory = Path.cwd()  # a recipe's paths may be relative

    def run(self) -> None:
        """Raises what a piece raised; SetupError if Ray or its cluster is missing, or a piece was
        killed TRIES times.
        """
        (task,) = self.pipeline
        waiting = deque(self.get_incomplete_ranks())
        if not waiting:
            return
        ray = _connected(self.address)
        try:
            memory = self.cpus_per_task * self.mem_per_cpu_gb << 30
            piece = ray.remote(num_cpus=self.cpus_per_task, memory=memory, max_retries=TRIES - 1)(
                _run_piece
            )
            executor = ray.put(self)
            running: dict[Any, int] = {}
            with progress(task.rows, waiting, self.name) as bar:
                if not any(
                    one["Alive"] and one["Resources"].get("memory", 0) >= memory
                    for one in ray.nodes()
                ):
                    bar.write(
                        f"{self.name}: no node has {memory >> 30} GB yet (corpora.executor); the "
                        "pieces wait for one",
                        file=sys.stderr,
                    )
                while waiting or running:
                    while waiting and len(running) < self.workers:
                        running[piece.remote(executor, waiting[0])] = waiting[0]
                        waiting.popleft()
                    (done,), _ = ray.wait(list(running))
                    rank = running.pop(done)
                    self._raise_if_failed(ray, done, rank)
                    bar.update(task.rows[rank])
        finally:
            ray.shutdown()  # ends what still runs

    def _raise_if_failed(self, ray: Any, done: Any, rank: int) -> None:
        try:
            ray.get(done)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, USERS_ERRORS):
                raise error.cause from None
            raise  # a bug: with the worker's traceback
        except ray.exceptions.RayError as error:
            raise SetupError(
                f"piece {rank} of {self.name} was killed {TRIES} times ({type(error).__name__}), "
                "perhaps for lack of memory; raise corpora.executor.mem_per_cpu_gb and run the "
                "same command to go on"
            ) from None


def _run_piece(executor: RayExecutor, rank: int) -> None:
    """On a node: does one piece in the working folder of the waiting process."""
    os.chdir(executor.directory)
    executor._run_for_rank(rank)


def _connected(address: str) -> Any:
    """The `ray` module, connected to the cluster. Raises SetupError."""
    try:
        import ray
    except ImportError:
        raise SetupError(
            "corpora.executor.kind is ray, and Ray is not installed; pip install -e '.[ray]' here "
            "and on the nodes, or choose local or slurm"
        ) from None
    # Ray's workers start in another folder and environment, but must import this very code.
    path = os.pathsep.join([str(CODE), *filter(None, [os.environ.get("PYTHONPATH")])])
    try:
        ray.init(
            address=address,
            runtime_env={"env_vars": {"PYTHONPATH": path}},
            log_to_driver=False,
            logging_level="ERROR",
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise SetupError(
            f"corpora.executor.address {address!r}: no Ray cluster answers there ({error}); start "
            "one: ray start --head"
        ) from None
    return ray
