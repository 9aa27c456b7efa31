"""What every entry of the project shares: recipe and overrides in, exit code out, the stage's folder locked, its seconds on record."""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from configs import schema
from configs.errors import EXIT_CODES, cause_of_system, of_system, one_line
from configs.lock import locked


def parser(prog: str, description: str) -> argparse.ArgumentParser:
    """The arguments every stage takes. `allow_abbrev` is off: a misspelt flag is an error, not a guess."""
    result = argparse.ArgumentParser(prog=f"python -m {prog}", description=description, allow_abbrev=False)
    result.add_argument("recipe", help="a YAML file such as configs/toyworld.yaml")
    result.add_argument("overrides", nargs="*", metavar="section.key=value", help="settings that replace the recipe's")
    return result


def run(prog: str, description: str, stage: Callable[[schema.Recipe], None], argv: list[str] | None = None, writes: str | None = None) -> int:
    """Loads the recipe, runs the stage, records its seconds, and turns known errors into one line and an exit code.

    `writes`: the folder below the run's that the stage makes; it is locked meanwhile.
    """

    def body() -> None:
        arguments = parser(prog, description).parse_args(argv)
        recipe = schema.load(arguments.recipe, arguments.overrides)
        with at_work(recipe.run_dir, prog, writes):
            stage(recipe)

    return guard(prog, body)


def guard(prog: str, body: Callable[[], None]) -> int:
    """Runs `body`; a user's error becomes one line on stderr and its exit code, a bug keeps its traceback."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a console of code page 932 cannot show every character
    try:
        body()
    except KeyboardInterrupt:
        print(f"{prog}: interrupted; run the same command to go on", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # whoever read our output has ended (`| head`)
        return 130
    except tuple(kind for kind, _ in EXIT_CODES) as error:
        print(f"{prog}: {one_line(error)}", file=sys.stderr)
        return next(code for kind, code in EXIT_CODES if isinstance(error, kind))
    except MemoryError as error:
        print(f"{prog}: not enough memory{f' ({one_line(error)})' if str(error) else ''}; free some, or take a larger machine", file=sys.stderr)
        return 4
    except Exception as error:
        cause = cause_of_system(error)
        if cause is None:
            raise
        print(f"{prog}: {one_line(of_system(cause))}", file=sys.stderr)
        return 4
    return 0


@contextmanager
def at_work(run_dir: Path, stage: str, writes: str | None) -> Iterator[None]:
    """Locks the folder that the stage makes below the run's and, if the block ends well, appends its seconds to `<run>/stages.jsonl`.

    Under a launcher only rank 0 records them. Raises SetupError while another process holds the folder.
    """
    started = time.monotonic()
    with locked(run_dir / writes) if writes else nullcontext():
        yield
        if os.environ.get("RANK", "0") == "0" and run_dir.is_dir():
            with open(run_dir / "stages.jsonl", "a", encoding="utf-8") as file:
                file.write(json.dumps({"stage": stage, "seconds": round(time.monotonic() - started, 2)}) + "\n")
