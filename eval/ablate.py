"""The same recipe with some of its settings varied: a run for every combination, and one table.

    python -m eval.ablate configs/toyworld.yaml --vary distill.seed 0 1 2
    python -m eval.ablate configs/emojiworld.yaml distill.steps=500 --at-once 2 \\
        --vary vocab_init.method nearest alignment --vary distill.seed 0 1 2

In:  a recipe whose stages can run on this machine.
Out: `<run>/ablation/NAME/`, a run folder a combination, with the output of its stages in
     `stages.log`; the table of `eval.compare_runs` over all of them in the terminal, and in
     `<run>/ablation/` as `comparison.md`, `.json` and `.png`.

The same command goes on where it was stopped: a stage that is done does nothing. Where nothing of
`corpora` is varied, the pairs are prepared once, in `<run>/pairs`. The vectors of `vocab_init`, and
the teacher's pictures where they are the same in all runs, are copied from the first run that has
them to the others.
"""

import itertools
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from threading import Event
from typing import NamedTuple

from tqdm import tqdm

from configs import command
from configs.errors import RecipeError, SetupError, one_line
from configs.schema.load import load_recipe
from configs.schema.recipe import Recipe
from eval import compare_runs
from eval.rows import TEACHER, UNTRANSLATED

PREPARE, START, PAINT = "corpora.prepare", "vocab_init", "eval.generate"
STAGES = (
    PREPARE,
    START,
    "distill.train",
    "distill.export",
    "eval.compare_hidden_states",
    PAINT,
    "eval.summary",
)
# Settings, or sections, that change what the teacher paints.
PAINTED_BY = ("corpora", "eval", "distill.base", "distill.refiner", "distill.teacher")
DESCRIPTION = "Runs a recipe once for every combination of some settings and compares the runs."


class Combination(NamedTuple):
    """One combination: its folder, and what its stages are called with."""

    folder: Path
    arguments: list[str]


def combinations(
    recipe: Recipe, given: list[str], varied: list[tuple[str, list[str]]]
) -> list[Combination]:
    """A run for every combination of the values; the last setting's change first.

    `given`: the recipe's file and overrides. Raises RecipeError for a value no recipe takes, or if
    two combinations would share a folder.
    """
    runs: dict[Path, Combination] = {}
    for values in itertools.product(*(values for _, values in varied)):
        chosen = [(key, value) for (key, _), value in zip(varied, values, strict=True)]
        name = "_".join(f"{key.rsplit('.')[-1]}-{_plain(value)}" for key, value in chosen)
        folder = recipe.run_dir / "ablation" / name
        if folder in runs:
            raise RecipeError(f"--vary: two combinations are called {name}; give each value once")
        overrides = [*given[1:], *(f"{key}={value}" for key, value in chosen), f"run={folder}"]
        load_recipe(given[0], overrides)
        runs[folder] = Combination(folder, [given[0], *overrides])
    return list(runs.values())


def _plain(value: str) -> str:
    """The value as a part of a folder's name."""
    return re.sub(r"[^\w.]+", "-", value).strip("-") or "empty"


class Ablation:
    """Runs the stages of all combinations, some at once, and stops them where it is stopped."""

    def __init__(self, recipe: Recipe, given: list[str], varied: list[str], at_once: int) -> None:
        self.recipe, self.given, self.at_once = recipe, given, at_once
        self.shares_pairs = not _changes(varied, ("corpora", "language"))
        self.shares_pictures = not _changes(varied, PAINTED_BY)
        threads = max(1, (os.cpu_count() or 1) // at_once)
        self.environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
        self.stopped = Event()
        self.children: set[subprocess.Popen[bytes]] = set()

    def run(self, runs: list[Combination]) -> list[str]:
        """Runs everything; returns a line for every run that failed."""
        failed = []
        stages = STAGES[1:] if self.shares_pairs else STAGES
        with (
            tqdm(total=len(runs) * len(stages), desc="ablation", unit="stage") as bar,
            ThreadPoolExecutor(self.at_once) as pool,
        ):
            try:
                if self.shares_pairs:
                    log = self.recipe.run_dir / "ablation" / "prepare.log"
                    self._stage(PREPARE, self.given, log)
                waiting = {pool.submit(self._stages, one, runs, stages, bar): one for one in runs}
                for done in as_completed(waiting):
                    error = done.exception()
                    if isinstance(error, SetupError):
                        failed.append(f"{waiting[done].folder.name}: {error}")
                        bar.write(failed[-1], file=sys.stderr)
                    elif error is not None:
                        raise error
            except BaseException:  # Ctrl-C too: no stage may go on without us
                self.stopped.set()
                for child in list(self.children):
                    child.terminate()
                raise
        return failed

    def _stages(
        self, one: Combination, runs: list[Combination], stages: tuple[str, ...], bar: tqdm
    ) -> None:
        one.folder.mkdir(parents=True, exist_ok=True)
        if self.shares_pairs and not (one.folder / "pairs").exists():
            (one.folder / "pairs").symlink_to(Path("..", "..", "pairs"), target_is_directory=True)
        for stage in stages:
            if self.stopped.is_set():
                return
            if stage == START:
                _copy(one, runs, Path("piece_vectors"), made_with="initial_student")
            if stage == PAINT and self.shares_pictures:
                for row in (TEACHER, UNTRANSLATED):
                    _copy(one, runs, Path("eval", "pictures", row), made_with="summary.json")
            self._stage(stage, one.arguments, one.folder / "stages.log")
            bar.update()

    def _stage(self, stage: str, arguments: list[str], log: Path) -> None:
        """Raises SetupError with the last line of its output where it fails."""
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            begins = output.tell()
            child = subprocess.Popen(
                [sys.executable, "-m", stage, *arguments],
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self.environment,
            )
            self.children.add(child)
            if self.stopped.is_set():  # just now
                child.terminate()
            code = child.wait()
            self.children.discard(child)
        if code and not self.stopped.is_set():
            said = log.read_bytes()[begins:].decode("utf-8", "replace").strip()
            last = one_line(re.split(r"[\r\n]+", said)[-1], 500)
            raise SetupError(f"python -m {stage} ended with {code}: {last} (all of it: {log})")


def _changes(varied: list[str], sections: tuple[str, ...]) -> bool:
    """Whether a varied setting is one of these, or in one of them."""
    return any(f"{key}.".startswith(f"{section}.") for key in varied for section in sections)


def _copy(one: Combination, runs: list[Combination], folder: Path, made_with: str) -> None:
    """Takes a folder that is not there yet from a run that has it, whole once `made_with` is
    there.
    """
    own = one.folder / folder
    for other in runs:
        there = other.folder / folder
        if not own.exists() and (other.folder / made_with).exists() and there.is_dir():
            shutil.copytree(there, own)


def ablate(recipe: Recipe, given: list[str], varied: list[list[str]], at_once: int) -> None:
    """Runs what is not done yet and prints the table.

    `varied`: key and values of every setting. Raises RecipeError for values no recipe takes, and
    SetupError at the end if a run has failed.
    """
    for key, *values in varied:
        if not values:
            raise RecipeError(f"--vary {key}: give its values behind it, as in --vary {key} 0 1")
    runs = combinations(recipe, given, [(key, values) for key, *values in varied])
    failed = Ablation(recipe, given, [key for key, *_ in varied], at_once).run(runs)
    done = [one.folder for one in runs if (one.folder / "summary.json").is_file()]
    if done:
        compare_runs.compare(done, recipe.run_dir / "ablation" / "comparison.md")
    if failed:
        raise SetupError(f"{len(failed)} of {len(runs)} runs failed: {'; '.join(failed)}")


def main(argv: list[str] | None = None) -> int:
    def body() -> None:
        parser = command.parser("eval.ablate", DESCRIPTION)
        parser.add_argument(
            "--vary",
            nargs="+",
            action="append",
            required=True,
            metavar=("section.key", "VALUE"),
            help="a setting and its values; several --vary give every combination",
        )
        parser.add_argument(
            "--at-once", type=int, default=1, metavar="N", help="runs side by side (default: 1)"
        )
        arguments = parser.parse_intermixed_args(argv)
        if arguments.at_once < 1:
            raise RecipeError(f"--at-once: {arguments.at_once} is below 1")
        recipe = load_recipe(arguments.recipe, arguments.overrides)
        given = [arguments.recipe, *arguments.overrides]
        with command.at_work(recipe.run_dir, "eval.ablate", "ablation"):
            ablate(recipe, given, arguments.vary, arguments.at_once)

    return command.guard("eval.ablate", body)


if __name__ == "__main__":
    raise SystemExit(main())
