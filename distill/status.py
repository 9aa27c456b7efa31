"""What a training is doing, for batch scripts and people: launchers return 1 whatever their
processes return.

    python -m distill.status configs/toyworld.yaml [--since SECONDS]

In/out: `<run>/distill/status.json`, written whole at every change. The command prints it as one
        line and ends with the training's exit code: 0 while it is running.
"""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from configs import command, signals
from configs.errors import SetupError, outcome
from configs.records import Record
from configs.schema.load import load_recipe
from configs.schema.recipe import Recipe

STATUS = "status.json"
State = Literal["preparing", "training", "saved_and_stopped", "finished", "failed"]
WAY_OUT = "delete it; the training writes it again"


class Status(Record):
    """`step`: the last one that is saved. `exit_code`: None while the training runs.

    `time`: Unix seconds.
    """

    state: State
    step: int
    exit_code: int | None
    message: str
    time: float
    written: str
    host: str
    pid: int
    job: str | None


class Writer:
    """Rank 0's, while it holds the lock of the run's folder."""

    def __init__(self, run: Path) -> None:
        self.path, self.step = run / STATUS, 0

    def write(self, state: State, message: str, exit_code: int | None = None) -> None:
        now = time.time()
        Status(
            state=state,
            step=self.step,
            exit_code=exit_code,
            message=message,
            time=now,
            written=time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(now)),
            host=socket.gethostname(),
            pid=os.getpid(),
            job=os.environ.get("SLURM_JOB_ID") or os.environ.get("TORCHELASTIC_RUN_ID"),
        ).write(self.path)

    def end(self, code: int, message: str) -> None:
        """The final status. Errors of the disk are ignored: they must not hide why it ended."""
        stopped: State = "saved_and_stopped" if code in (75, 130) else "failed"
        with suppress(OSError):
            self.write(stopped if code else "finished", message, code)


@contextmanager
def recorded(writer: Writer) -> Iterator[None]:
    """Writes how the block ended, also where a signal ends the process at once."""
    signals.requests.before_exit = writer.end
    try:
        yield
    except BaseException as error:
        writer.end(
            *(outcome(error) or (1, f"bug: {type(error).__name__}; its traceback is on stderr"))
        )
        raise
    finally:
        signals.requests.before_exit = None


def show(recipe: Recipe, since: float) -> int:
    """Prints the status. Raises SetupError where there is none since that time."""
    path = recipe.run_dir / "distill" / STATUS
    found = Status.read(path, WAY_OUT) if path.is_file() else None
    if found is None or found.time < since:
        raise SetupError(f"{path}: no status of this training; it ended before it could write one")
    print(
        f"{found.state}, step {found.step}, {found.written}, process {found.pid} on {found.host}: "
        f"{found.message}"
    )
    return found.exit_code or 0


def main(argv: list[str] | None = None) -> int:
    codes: list[int] = []

    def body() -> None:
        parser = command.parser(
            "distill.status", "Prints what a training does and ends with its exit code."
        )
        parser.add_argument(
            "--since", type=float, default=0.0, help="Unix seconds: older statuses do not count"
        )
        arguments = parser.parse_args(argv)
        codes.append(show(load_recipe(arguments.recipe, arguments.overrides), arguments.since))

    return command.guard("distill.status", body) or codes[0]


if __name__ == "__main__":
    raise SystemExit(main())
