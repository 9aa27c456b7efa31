"""What every entry of the project shares: recipe and overrides in, exit code out, the stage's
folder locked, its seconds on record.
"""

import argparse
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import NoReturn

from configs import signals, stage_times
from configs.errors import Preempted, one_line, outcome
from configs.lock import locked
from configs.schema.load import load_recipe
from configs.schema.recipe import Recipe


class Parser(argparse.ArgumentParser):
    """Arguments of the command `python -m PROG`. A misspelt flag is an error, not a guess."""

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(prog=f"python -m {prog}", description=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        super().error(one_line(message, 500))  # it repeats the value, which may be of any length


def parser(prog: str, description: str) -> Parser:
    """The arguments every stage takes."""
    result = Parser(prog, description)
    result.add_argument("recipe", help="a YAML file such as configs/toyworld.yaml")
    result.add_argument(
        "overrides",
        nargs="*",
        metavar="section.key=value",
        help="settings that replace the recipe's",
    )
    return result


def under_a_launcher(argv: list[str] | None) -> list[str]:
    """The arguments (None: the program's own) without what torch.distributed.launch and deepspeed
    add: the process's number on its machine, which LOCAL_RANK says too.
    """
    given = sys.argv[1:] if argv is None else argv
    return [one for one in given if not re.fullmatch(r"--local[-_]rank=\d+", one)]


def output_file(text: str) -> Path:
    """The `type` of an argument that names a file to write: what cannot be written is told before
    the work."""
    path = Path(os.path.expanduser(text))
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{path} is a folder; give a file")
    _check_room_for_names(path.parent)
    return path


def output_folder(text: str) -> Path:
    """The `type` of an argument that names a folder to write into, which need not be there yet."""
    path = Path(os.path.expanduser(text))
    _check_room_for_names(path)
    return path


def _check_room_for_names(folder: Path) -> None:
    """The folder, or the one in which it will be made, must be one we may write to."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise argparse.ArgumentTypeError(f"{there} is a file; give a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise argparse.ArgumentTypeError(f"{there} may not be written to; give another folder")


def run(
    prog: str,
    description: str,
    stage: Callable[[Recipe], None],
    argv: list[str] | None = None,
    writes: str | None = None,
) -> int:
    """Loads the recipe, runs the stage, records its seconds, and turns known errors into one line
    and an exit code.

    `writes`: the folder below the run's that the stage makes; it is locked meanwhile.
    """

    def body() -> None:
        arguments = parser(prog, description).parse_args(argv)
        recipe = load_recipe(arguments.recipe, arguments.overrides)
        with at_work(recipe.run_dir, prog, writes):
            stage(recipe)

    return guard(prog, body)


def guard(prog: str, body: Callable[[], None]) -> int:
    """Runs `body`; a user's error becomes one line on stderr and its exit code, a bug keeps its
    traceback.

    A signal that asks to stop is such an error too (`configs.signals`).
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(
                errors="backslashreplace"
            )  # a console of code page 932 cannot show every character
    threading.excepthook = partial(_report_thread, prog)
    try:
        with signals.handled(prog):
            body()
    except BrokenPipeError:
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # whoever read our output has ended (`| head`)
        return 130
    except (Exception, KeyboardInterrupt, Preempted) as error:
        known = outcome(error)
        asked = signals.requests
        if (
            known is None and asked.number
        ):  # a library turned what the signal raised into an error of its own
            known = outcome(signals.stopped(asked.number, asked.reason))
        if known is None:
            raise
        code, line = known
        if code not in (75, 130) or signals.rank() == 0:  # all processes stop: one says so
            print(f"{prog}: {line}", file=sys.stderr)
        return code
    return 0


def _report_thread(prog: str, failed: threading.ExceptHookArgs) -> None:
    """A library's thread that meets a full disk (TensorBoard's writer) is one line too; the main
    thread meets it next.
    """
    known = outcome(failed.exc_value) if failed.exc_value is not None else None
    if known is None:
        threading.__excepthook__(failed)
    else:
        print(f"{prog}: {known[1]}", file=sys.stderr)


@contextmanager
def at_work(run_dir: Path, stage: str, writes: str | None) -> Iterator[None]:
    """Locks the folder that the stage makes below the run's and, if the block ends well, appends
    its seconds to `<run>/stages.jsonl`.

    Under a launcher only rank 0 records them. Raises SetupError while another process holds the
    folder.
    """
    started = time.monotonic()
    with locked(run_dir / writes) if writes else nullcontext():
        yield
        if signals.rank() == 0 and run_dir.is_dir():
            stage_times.append(run_dir, stage, time.monotonic() - started)
