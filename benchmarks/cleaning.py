"""Measures how fast rows become pairs (reading, normalising, filters, language identification) by
one worker and by two, and the time of corpora.prepare in all.

    python -m benchmarks.cleaning configs/toyworld.yaml --out runs/benchmarks

In:  a recipe whose pairs are prepared: their texts, repeated with a number appended until there are
     enough rows, make a TSV source. Near duplicates are not looked for.
Out: `<out>/cleaning.json` and `.md`: medians over the rounds, in which sizes and contestants take
     turns; ratios are of the same round. Two independent processes with half the rows each show
     what the machine can give two workers at that moment. Memory is the peak of the single process
     that one worker needs.
"""

import itertools
import json
import statistics
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tqdm import tqdm

from benchmarks import entry
from benchmarks.entry import machine
from configs.errors import DataError
from configs.schema.load import dump_recipe
from configs.schema.recipe import Recipe
from configs.schema.sources import TsvSource
from corpora.pair import read_pairs

ROWS, ROUNDS = (100_000, 1_000_000), 3
ONE, TWO, APART = "one worker", "two workers", "two processes at once"
# Patches `executor.run` to time the part that cleans row by row; the rest of the time is
# duplicates, split, shards and the data card.
PROGRAM = """
import json, resource, sys, time
from configs.schema.load import load_recipe
from corpora import executor, pipeline
run = executor.run
def timed(*arguments, **options):
    start = time.perf_counter()
    run(*arguments, **options)
    took["cleaning"] = time.perf_counter() - start
executor.run, took, start = timed, {}, time.perf_counter()
pipeline.prepare(load_recipe(sys.argv[1]))
took["seconds"] = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
print(json.dumps({**took, "gigabytes": peak}))
"""


def measure(recipe: Recipe, sizes: list[int], rounds: int) -> dict[str, Any]:
    """Raises DataError where the recipe's pairs are missing or cannot be prepared again."""
    took: dict[tuple[int, str], list[dict[str, float]]] = {}
    with TemporaryDirectory() as name:
        folder = Path(name)
        recipes = {
            rows: write_source(recipe, rows, folder) for size in sizes for rows in (size, size // 2)
        }
        turns = itertools.product(range(rounds), sizes, (ONE, TWO, APART))
        for number, size, who in tqdm([*turns], desc="turns", unit="turn"):
            workers, halves = 2 if who == TWO else 1, 2 if who == APART else 1
            runs = [
                start(recipes[size // halves], workers, folder / f"{number}-{size}-{who}-{half}")
                for half in range(halves)
            ]
            found = [finished(run) for run in runs]
            took.setdefault((size, who), []).append(
                {key: max(one[key] for one in found) for key in found[0]}
            )
    return {
        "machine": machine(),
        "rounds": rounds,
        "rows": [row(size, who, took) for size, who in took],
    }


def write_source(recipe: Recipe, size: int, folder: Path) -> Recipe:
    """A recipe whose only source is a TSV of `size` rows: the training pairs, repeated with another
    number appended each time.
    """
    path, left = folder / f"{size}.tsv", size
    with open(path, "w", encoding="utf-8") as file:
        for number in itertools.count():
            mark = f" {number}" if number else ""
            before = left
            for pair in itertools.islice(read_pairs(recipe.run_dir / "pairs", "train"), left):
                file.write(f"{pair.text}{mark}\t{pair.en}{mark}\n")
                left -= 1
            if before == left:
                break
    source = TsvSource(
        kind="tsv", name="texts", licence="as the pairs", path=str(path), header=False, text=0, en=1
    )
    return recipe.model_copy(
        update={
            "corpora": recipe.corpora.model_copy(
                update={"sources": [source], "near_duplicates": None}
            )
        }
    )


def start(recipe: Recipe, workers: int, run: Path) -> subprocess.Popen[str]:
    """Starts corpora.prepare in a new process."""
    run.mkdir()
    settings = {"run": str(run), "corpora": recipe.corpora.model_copy(update={"workers": workers})}
    (run / "recipe.yaml").write_text(
        dump_recipe(recipe.model_copy(update=settings)), encoding="utf-8"
    )
    command = [sys.executable, "-c", PROGRAM, str(run / "recipe.yaml")]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(run: subprocess.Popen[str]) -> dict[str, float]:
    """Waits for the process; its seconds and its peak memory in GB. Raises DataError if it
    failed.
    """
    out, error = run.communicate()
    if run.returncode:
        raise DataError(
            f"the recipe's pairs cannot be prepared again: {error.strip().splitlines()[-1]}"
        )
    result: dict[str, float] = json.loads(out.splitlines()[-1])
    return result


def row(size: int, who: str, took: dict[tuple[int, str], list[dict[str, float]]]) -> dict[str, Any]:
    """Medians of one size and contestant, and of each round the ratios to one worker and to the
    smallest size.
    """
    least = min(size for size, _ in took)
    own, alone, smallest = took[size, who], took[size, ONE], took[least, who]
    medians = {name: statistics.median(one[name] for one in own) for name in own[0]}
    times = [one["cleaning"] / two["cleaning"] for one, two in zip(alone, own, strict=True)]
    costs = [
        (two["seconds"] / size) / (one["seconds"] / least)
        for one, two in zip(smallest, own, strict=True)
    ]
    return {
        "rows": size,
        "who": who,
        **medians,
        "cleaned_rows_per_second": size / medians["cleaning"],
        "times_one_worker": statistics.median(times),
        "seconds_a_row_beside_the_smallest": statistics.median(costs),
    }


def table(result: dict[str, Any]) -> str:
    """Markdown."""
    lines = [
        f"{result['machine']}; medians of {result['rounds']} interleaved rounds; no near "
        "duplicates.",
        "",
    ]
    lines += [
        "| rows | who | cleaned rows/s | times one worker | all of prepare, s | time a row beside "
        "the smallest | peak memory, GB |"
    ]
    lines += ["|---|---|---|---|---|---|---|"]
    for one in result["rows"]:
        memory = f"{one['gigabytes']:.2f}" if one["who"] == ONE else "-"
        rates = (
            f"{one['cleaned_rows_per_second']:,.0f} | {one['times_one_worker']:.2f} | "
            f"{one['seconds']:.1f}"
        )
        lines.append(
            f"| {one['rows']:,} | {one['who']} | {rates} | "
            f"{one['seconds_a_row_beside_the_smallest']:.2f} | {memory} |"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    return entry.run(
        "benchmarks.cleaning",
        "Times how rows become clean pairs, by one worker and by two.",
        lambda recipe, given: ("cleaning", measure(recipe, sorted(given.rows), given.rounds)),
        table,
        argv,
        {
            "--rows": {
                "type": int,
                "nargs": "+",
                "default": list(ROWS),
                "help": "sizes (default %(default)s)",
            },
            "--rounds": {"type": int, "default": ROUNDS, "help": "(default %(default)s)"},
        },
    )


if __name__ == "__main__":
    raise SystemExit(main())
