"""How the pieces of a stage are run, on this machine or on a cluster. This package is the door to
datatrove, whose executors keep a marker of every finished piece.

In:  a `Task`: something to pickle that does piece number `rank` of the work and leaves a whole file
     behind.
Out: the files of all pieces; a piece with a marker in `folder` is not done again, whichever
     executor did it, while its files are as they were made.
"""

from pathlib import Path

from configs.schema.executors import Executor, Ray, Slurm
from corpora.executor.pieces import Task as Task
from corpora.executor.seal import Sealed


def run(task: Task, folder: Path, workers: int, name: str, where: Executor) -> None:
    """Does every piece that has no marker in `folder`, `workers` at once. Raises what a piece
    raised, and SetupError when pieces were killed or the cluster cannot be reached."""
    workers = min(workers, len(task.rows))
    if not workers:
        return
    sealed = Sealed(task, folder)
    sealed.forget_damaged()
    # imported where it is needed: a laptop has no Ray
    if isinstance(where, Slurm):
        from corpora.executor.slurm import SlurmExecutor

        SlurmExecutor(sealed, folder, workers, name, where).submit_and_wait()
    elif isinstance(where, Ray):
        from corpora.executor.on_ray import RayExecutor

        RayExecutor(sealed, folder, workers, name, where).run()
    else:
        from corpora.executor.local import LocalExecutor

        LocalExecutor(sealed, folder, workers, name).run()
