"""Where the corpora stages run: one section a kind of executor. The bytes they make are the same on
all of them.

How many pieces are done at once is `corpora.workers`, everywhere.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from configs.schema.section import Positive, Section

# What datatrove and we fill in ourselves: another value would hide the jobs or their logs from the
# process that waits for them.
FILLED_IN = ("array", "chdir", "error", "job-name", "output")


class Local(Section):
    """Processes of this machine."""

    kind: Literal["local"] = "local"


class _Cluster(Section):
    cpus_per_task: Positive = 1
    mem_per_cpu_gb: Positive = 4


class Slurm(_Cluster):
    """Arrays of Slurm jobs, submitted from where `sbatch` works."""

    kind: Literal["slurm"]
    partition: str
    time: str | Positive = Field(
        description="the limit of one job, in Slurm's words: 02:00:00, or a number of minutes"
    )
    pieces_per_job: Positive = Field(
        1, description="pieces a job does one after another: more where jobs are slow to start"
    )
    max_array_size: Positive = Field(
        1001, description="the cluster's MaxArraySize; more jobs are submitted as several arrays"
    )
    sbatch_args: dict[str, str | int] = Field(
        {},
        description="any other option of sbatch, without its dashes: {account: NAME, exclusive: "
        '""}',
    )
    env_command: str | None = Field(
        None,
        description="a line of shell that activates the environment on a node; without it, this "
        "very Python",
    )

    @model_validator(mode="after")
    def _ours_stay_ours(self) -> Self:
        if taken := sorted(set(self.sbatch_args) & set(FILLED_IN)):
            raise ValueError(
                f"corpora.executor.sbatch_args cannot set {taken[0]!r}: the executor and the "
                "process that waits agree on it"
            )
        return self


class Ray(_Cluster):
    """Tasks of a Ray cluster that runs already."""

    kind: Literal["ray"]
    address: str = Field(
        "auto",
        description='ray.init\'s: "auto" is the cluster this machine belongs to, "local" a new one '
        "on this machine",
    )


Executor = Annotated[Local | Slurm | Ray, Field(discriminator="kind")]
KINDS: dict[str, type[Section]] = {"local": Local, "slurm": Slurm, "ray": Ray}
