"""Runs the pieces of a stage, on this machine or on a cluster. The door to datatrove, whose
executors keep a marker file for every finished piece.

In:  a `Task`: a picklable object that does piece `rank` of the work and writes whole files.
Out: the files of all pieces. A piece with a marker in `folder` is skipped, whichever executor did
     it, while its files are unchanged.
"""

from pathlib import Path

from configs.schema.executors import Executor, Ray, Slurm
from corpora.executor.pieces import Task as Task
from corpora.executor.seal import Sealed


def run(task: Task, folder: Path, workers: int, name: str, where: Executor) -> None:
    """Does every piece without a marker in `folder`, `workers` at a time.

    Raises what a piece raised; SetupError if pieces were killed or the cluster cannot be reached.
    """
    workers = min(workers, len(task.rows))
    if not workers:
        return
    sealed = Sealed(task, folder)
    sealed.forget_damaged()
    # late imports: a laptop has no Ray
    if isinstance(where, Slurm):
        from corpora.executor.slurm import SlurmExecutor

        SlurmExecutor(sealed, folder, workers, name, where).submit_and_wait()
    elif isinstance(where, Ray):
        from corpora.executor.on_ray import RayExecutor

        RayExecutor(sealed, folder, workers, name, where).run()
    else:
        from corpora.executor.local import LocalExecutor

        LocalExecutor(sealed, folder, workers, name).run()
