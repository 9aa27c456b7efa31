"""What all benchmarks share: the command line, the machine in words, and the two files with the
result.
"""

import json
import os
import platform
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from configs import command
from configs.files import whole
from configs.schema.load import load_recipe
from configs.schema.recipe import Recipe

Result = dict[str, Any]


def run(
    prog: str,
    description: str,
    measure: Callable[[Recipe, Namespace], tuple[str, Result]],
    table: Callable[[Result], str],
    argv: list[str] | None,
    options: dict[str, dict[str, Any]] | None = None,
) -> int:
    """Runs `python -m PROG` and returns its exit code.

    `measure` returns the name of the files and the result, from which `table` makes Markdown: rank
    0 writes `<out>/<name>.json` and `.md`, and prints the table. `options`: arguments beside the
    recipe and `--out`, as `add_argument` takes them.
    """

    def body() -> None:
        parser = command.parser(prog, description)
        for flag, settings in (options or {}).items():
            parser.add_argument(flag, **settings)
        parser.add_argument(
            "--out",
            type=command.output_folder,
            default=Path("runs/benchmarks"),
            help="folder of the tables (default %(default)s)",
        )
        arguments = parser.parse_intermixed_args(argv)
        name, result = measure(load_recipe(arguments.recipe, arguments.overrides), arguments)
        if os.environ.get("RANK", "0") == "0":
            _write(arguments.out / name, result, table(result))

    return command.guard(prog, body)


def machine() -> str:
    """The processor or GPU, threads and torch's version."""
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    return (
        f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}"
    )


def _write(path: Path, result: Result, page: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    for ending, text in (("json", json.dumps(result, indent=2)), ("md", page)):
        with whole(path.with_name(f"{path.name}.{ending}")) as file:
            file.write_text(text + "\n", encoding="utf-8")
    print(page)
