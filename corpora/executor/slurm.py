"""Runs the pieces of a stage as arrays of Slurm jobs.

In:  a task and the recipe's `corpora.executor`. Every node must see the folder and all files that
     the task reads and writes.
Out: its files. The submitting process only waits: if it is killed, the jobs go on, and the same
     command waits for them again. It finds them in the queue by a name made from the folder, and
     submits nothing while a job of that name exists.
"""

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, NoReturn

from datatrove.executor.slurm import SlurmPipelineExecutor

from configs.errors import EXIT_CODES, SetupError
from configs.records import Record
from configs.schema.executors import Slurm
from corpora.executor.pieces import Task, progress

POLL_SECONDS = 10.0
SETTLE_SECONDS = 60.0  # a network file system may show a node's new file this much later
USERS_ERRORS: dict[str, type[BaseException]] = {kind.__name__: kind for kind, _ in EXIT_CODES}


class Failure(Record):
    """Why a piece failed on its node, for the waiting process."""

    kind: str
    message: str


class SlurmExecutor(SlurmPipelineExecutor):
    """datatrove's Slurm executor, submitted and waited for. The nodes run its pickle."""

    def __init__(self, task: Task, folder: Path, workers: int, name: str, where: Slurm) -> None:
        folder = folder.resolve()
        super().__init__(
            [task],
            tasks=len(task.rows),
            workers=workers,
            logging_dir=str(folder),
            job_name=f"{name}-{hashlib.sha256(str(folder).encode()).hexdigest()[:12]}",
            partition=where.partition,
            time=str(where.time),
            cpus_per_task=where.cpus_per_task,
            mem_per_cpu_gb=where.mem_per_cpu_gb,
            tasks_per_job=where.pieces_per_job,
            max_array_size=where.max_array_size,
            sbatch_args=dict(where.sbatch_args),
            env_command=where.env_command,
            qos="",  # the cluster's default; datatrove's "normal" may not exist
        )
        self.name = name
        self.failures = folder / "failures"

    def submit_and_wait(self) -> None:
        """Raises what a piece raised; SetupError if Slurm refuses the jobs, or no job is left and
        pieces are missing.
        """
        (task,) = self.pipeline
        missing = self.get_incomplete_ranks()
        submitted = False
        with progress(task.rows, missing, self.name) as bar:
            while missing:
                states = self._queue()
                if states is None or states:
                    status = (
                        ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
                        if states
                        else "squeue does not answer"
                    )
                    bar.set_postfix_str(status)
                    time.sleep(POLL_SECONDS)
                    missing = self._still_missing(bar, missing)
                elif not submitted:
                    self._submit(bar)
                    submitted = True
                elif missing := self._settled(bar, missing):
                    self._fail(missing)

    def _still_missing(self, bar: Any, missing: list[int]) -> list[int]:
        """The pieces that have no marker yet; advances the bar by the rows of the others."""
        (task,) = self.pipeline
        still_missing = self.get_incomplete_ranks(missing)
        bar.update(
            sum(task.rows[rank] for rank in missing)
            - sum(task.rows[rank] for rank in still_missing)
        )
        return still_missing

    def _settled(self, bar: Any, missing: list[int]) -> list[int]:
        """`_still_missing`, once all markers had time to appear or a piece reported a failure."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while (
            (missing := self._still_missing(bar, missing))
            and not self._failed(missing)
            and time.monotonic() < deadline
        ):
            time.sleep(min(POLL_SECONDS, SETTLE_SECONDS))
        return missing

    def _queue(self) -> Counter[str] | None:
        """Number of our jobs in each state; None if Slurm does not answer, as when its controller
        is busy.
        """
        command = ["squeue", "--noheader", "--array", "--format=%T", f"--name={self.job_name}"]
        try:
            answer = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            raise SetupError(
                "squeue: no such command here; work where Slurm's commands are, or set "
                "'corpora.executor={kind: local}'"
            ) from None
        return Counter(answer.stdout.lower().split()) if answer.returncode == 0 else None

    def _submit(self, bar: Any) -> None:
        shutil.rmtree(self.failures, ignore_errors=True)  # of earlier jobs
        # If we are a job ourselves, sbatch would pass our limits on, and srun refuse larger jobs.
        ours = {
            key: os.environ.pop(key)
            for key in list(os.environ)
            if key.startswith("SLURM_") and key != "SLURM_CONF"
        }
        try:
            self.launch_job()
        except (FileNotFoundError, subprocess.CalledProcessError):
            raise SetupError(
                "sbatch refused the jobs (its own message is above); correct corpora.executor "
                "and run the same command"
            ) from None
        finally:
            os.environ.update(ours)
        bar.write(
            f"{self.name}: submitted as {self.job_name}; this command only waits, and may be ended "
            "and given again",
            file=sys.stderr,
        )

    def launch_merge_stats(self) -> None:
        """Does nothing: datatrove would submit a job to merge statistics that our tasks do not
        keep.
        """

    def get_launch_file_contents(self, sbatch_args: dict[str, object], run_script: str) -> str:
        """datatrove's script, but with this very Python, even if its environment is not activated,
        and with quoted paths.
        """
        python = "python" if self.env_command else shlex.quote(sys.executable)
        pickled = shlex.quote(self.logging_dir.resolve_paths("executor.pik"))
        line = (
            f"srun --ntasks=1 --cpus-per-task={self.cpus_per_task} {python} -m "
            f"datatrove.tools.launch_pickled_pipeline {pickled}"
        )
        return super().get_launch_file_contents(
            {
                key: shlex.quote(str(value)) if value != "" else ""
                for key, value in sbatch_args.items()
            },
            line,
        )

    def _run_for_rank(self, rank: int, *arguments: object, **options: object) -> object:
        """On a node: records a piece's error for the waiting process; the traceback is in the job's
        log.
        """
        try:
            return super()._run_for_rank(rank, *arguments, **options)
        except Exception as error:
            self.failures.mkdir(exist_ok=True)
            Failure(kind=type(error).__name__, message=str(error)).write(
                self.failures / f"{rank:05d}.json"
            )
            raise

    def _failed(self, ranks: list[int]) -> list[Path]:
        return [path for rank in ranks if (path := self.failures / f"{rank:05d}.json").exists()]

    def _fail(self, missing: list[int]) -> NoReturn:
        failures = [
            Failure.read(path, "remove it, and run the same command again")
            for path in self._failed(missing)
        ]
        kind: type[BaseException] = SetupError
        what = "a job was killed, perhaps for lack of memory or time"
        for failure in failures:
            # a bug, unless another piece reports a user's mistake
            what = f"a job ended with {failure.kind}: {failure.message}"
            if failure.kind in USERS_ERRORS:
                kind, what = USERS_ERRORS[failure.kind], failure.message
                break
        raise kind(
            f"{what} ({len(missing)} of {self.tasks} pieces are not done and no job is left; their "
            f"logs: {self.slurm_logs_folder}; "
            "the same command goes on from the pieces that are done)"
        )
