"""What every entry of the project shares: recipe and overrides in, exit code out, the stage's seconds on record.

Exit codes: 0 ok, 1 bug, 2 usage or recipe, 3 data or quality gate, 4 environment, 75 preempted, 130 interrupted.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from configs import schema


class DataError(ValueError):
    """What was read is not what it must be; the message is one line for the user (exit code 3)."""


class SetupError(RuntimeError):
    """This machine lacks something the work needs (exit code 4)."""


class Preempted(RuntimeError):
    """Stopped by a signal after saving; the same command goes on from there (exit code 75)."""


EXIT_CODES: tuple[tuple[type[BaseException], int], ...] = (
    (schema.RecipeError, 2),
    (DataError, 3),
    (SetupError, 4),
    (Preempted, 75),
)


def parser(prog: str, description: str) -> argparse.ArgumentParser:
    """The arguments every stage takes. `allow_abbrev` is off: a misspelt flag is an error, not a guess."""
    result = argparse.ArgumentParser(prog=f"python -m {prog}", description=description, allow_abbrev=False)
    result.add_argument("recipe", help="a YAML file such as configs/toyworld.yaml")
    result.add_argument("overrides", nargs="*", metavar="section.key=value", help="settings that replace the recipe's")
    return result


def run(prog: str, description: str, stage: Callable[[schema.Recipe], None], argv: list[str] | None = None) -> int:
    """Loads the recipe, runs the stage, records its seconds, and turns known errors into one line and an exit code."""

    def body() -> None:
        arguments = parser(prog, description).parse_args(argv)
        recipe = schema.load(arguments.recipe, arguments.overrides)
        with recorded(recipe.run_dir, prog):
            stage(recipe)

    return guard(prog, body)


def guard(prog: str, body: Callable[[], None]) -> int:
    """Runs `body`; a user's error becomes one line on stderr and its exit code, a bug keeps its traceback."""
    try:
        body()
    except KeyboardInterrupt:
        print(f"{prog}: interrupted; run the same command to go on", file=sys.stderr)
        return 130
    except tuple(kind for kind, _ in EXIT_CODES) as error:
        print(f"{prog}: {error}", file=sys.stderr)
        return next(code for kind, code in EXIT_CODES if isinstance(error, kind))
    return 0


@contextmanager
def recorded(run_dir: Path, stage: str) -> Iterator[None]:
    """Appends the seconds of a block that ended well to `<run>/stages.jsonl`; under a launcher only rank 0 does."""
    started = time.monotonic()
    yield
    if os.environ.get("RANK", "0") == "0" and run_dir.is_dir():
        with open(run_dir / "stages.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps({"stage": stage, "seconds": round(time.monotonic() - started, 2)}) + "\n")
