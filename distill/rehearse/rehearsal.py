"""A rehearsal: one stage after the other, each once, and the report.

Under a launcher every process runs this. Stages of one process are rank 0's; the others wait for
its record of them. All run their own part of the stages that train. After the last of those the
others end: rank 0 deletes its record with all the rest once the report is written.
"""

import json
import os
import shutil
import sys
import time
from contextlib import nullcontext
from pathlib import Path

from configs import signals
from configs.artefact import CODE_VERSION
from configs.errors import DataError, SetupError, one_line, outcome
from configs.files import value_sha256
from configs.lock import locked
from configs.records import Record
from configs.references import ModelName
from configs.schema.load import dump_recipe
from configs.schema.recipe import Recipe
from distill.plan import estimate
from distill.rehearse import checks, child, random_weights, report
from distill.rehearse.stages import Stage, small, stages, write
from distill.sdxl.base import settled

FOLDER, WORK, STATE = "rehearsal", "unfinished", "state.json"
POLL_SECONDS = 0.5
STARTED = time.time()  # a failure before is of an earlier try


class StageRecord(Record):
    """`peak_bytes`: None where it cannot be measured. `process_bytes` and `pairs_per_second`: of
    stages that train; the first is what Python and its libraries hold of the peak.
    """

    name: str
    shows: str
    seconds: float
    peak_bytes: int | None
    gpu_peak_bytes: int | None = None
    process_bytes: int = 0
    pairs_per_second: float | None = None


class RehearsalState(Record):
    """Rank 0's record. `asked`: a digest of what is rehearsed. `failure`: of the last try, at the
    Unix time `failed_at`.
    """

    asked: str
    stages: list[StageRecord]
    failure: str | None = None
    failed_at: float = 0.0


def rehearse(recipe: Recipe, given: list[str], steps: int, with_random_weights: bool) -> None:
    """Runs what is not done yet, and writes the report. `given`: the words that name the recipe.

    Raises DataError with everything that is missing, SetupError where a stage fails.
    """
    folder, first = recipe.run_dir / FOLDER, signals.rank() == 0
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    asked = value_sha256([dump_recipe(recipe), steps, with_random_weights, CODE_VERSION])
    with locked(folder) if first else nullcontext():
        work, state = folder / WORK, folder / WORK / STATE
        if first:
            _begin(work, asked)
        try:
            replaced = _models(recipe, work, with_random_weights, asked)
            rehearsed = recipe.model_copy(
                update={"distill": recipe.distill.model_copy(update=replaced)}
            )
            tried, family = settled(small(rehearsed, steps, work))
            if first:
                _check(rehearsed, processes)
                write(tried, work / "recipe.yaml")
            planned = stages(given, tried, family, steps, work)
            if not first:
                del planned[1 + max(n for n, stage in enumerate(planned) if stage.together) :]
            for number, stage in enumerate(planned):
                _run(stage, number, tried, work, asked)
        except BaseException as error:
            if first:
                _fail(state, error)
            raise
        if first:
            _report(recipe, rehearsed, RehearsalState.read(state, ""), folder, processes)


def _begin(work: Path, asked: str) -> None:
    """Of another recipe nothing is kept; a failure of the same one is forgotten."""
    state = work / STATE
    if state.is_file():
        try:
            found = RehearsalState.read(state, "it is made again")
        except DataError as error:
            print(one_line(error), file=sys.stderr)
        else:
            if found.asked == asked:
                RehearsalState(asked=asked, stages=found.stages).write(state)
                return
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    RehearsalState(asked=asked, stages=[]).write(state)


def _models(recipe: Recipe, work: Path, wanted: bool, asked: str) -> dict[str, ModelName]:
    """The settings of `distill` that stand for models with random weights; none without."""
    if not wanted:
        return {}
    made = random_weights.folders(recipe, work / "models")
    stage = Stage("random weights", "models of the published sizes", [])
    if signals.rank():
        _wait(work / STATE, asked, stage.name)
    elif _recorded(work / STATE, stage.name) is None:
        started = time.monotonic()
        random_weights.make(recipe, made)
        _record(work / STATE, stage, child.Ended(time.monotonic() - started, None))
    return {part: ModelName(path) for part, path in made.items()}


def _check(recipe: Recipe, processes: int) -> None:
    found = checks.problems(recipe, processes)
    for problem in found:
        print(f"missing: {problem}", file=sys.stderr)
    if found:
        more = f" (and {len(found) - 1} more, above)" if len(found) > 1 else ""
        raise DataError(f"{found[0]}{more}")


def _run(stage: Stage, number: int, recipe: Recipe, work: Path, asked: str) -> None:
    state, first = work / STATE, signals.rank() == 0
    if _recorded(state, stage.name) is not None:
        return
    if first:
        print(f"--- {stage.name}: {stage.shows}", file=sys.stderr)
    if stage.together:
        ended = child.run(stage.words, child.together(number), stage.until)
    elif first:
        ended = child.run(stage.words, child.alone())
    if first:
        _record(state, stage, ended, recipe)
    elif not stage.together:
        _wait(state, asked, stage.name)


def _recorded(state: Path, name: str) -> StageRecord | None:
    if not state.is_file():
        return None
    found = RehearsalState.read(state, "run the same command again")
    return next((one for one in found.stages if one.name == name), None)


def _record(state: Path, stage: Stage, ended: child.Ended, recipe: Recipe | None = None) -> None:
    found = RehearsalState.read(state, "run the same command again")
    speed, gpu, process = None, None, 0
    if stage.together and recipe is not None:
        path = recipe.run_dir / "distill" / "metrics.jsonl"
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        speed = _after_the_first(rows, recipe.distill.batch_size)
        gpu, process = (
            max((int(row.get(f"memory/{name}", 0)) for row in rows), default=0)
            for name in ("gpu_peak", "process")
        )
    record = StageRecord(
        name=stage.name,
        shows=stage.shows,
        seconds=ended.seconds,
        peak_bytes=ended.peak_bytes,
        gpu_peak_bytes=gpu or None,
        process_bytes=process,
        pairs_per_second=speed,
    )
    RehearsalState(asked=found.asked, stages=[*found.stages, record]).write(state)


def _after_the_first(rows: list[dict[str, float]], batch: int) -> float | None:
    """Pairs a second without the first step, which warms up; None of a single row."""
    times = [row["step"] * batch / row["pairs_per_second"] for row in (rows[0], rows[-1])]
    steps = rows[-1]["step"] - rows[0]["step"]
    return steps * batch / (times[1] - times[0]) if times[1] > times[0] else None


def _fail(state: Path, error: BaseException) -> None:
    """Tells the other processes. The stages that are done stay."""
    if state.is_file():
        found = RehearsalState.read(state, "run the same command again")
        message = (outcome(error) or (1, type(error).__name__))[1]
        RehearsalState(
            asked=found.asked, stages=found.stages, failure=message, failed_at=time.time()
        ).write(state)


def _wait(state: Path, asked: str, name: str) -> None:
    """Until rank 0 has recorded the stage. Raises SetupError where rank 0 has failed."""
    while True:
        if state.is_file():
            found = RehearsalState.read(state, "run the same command again")
            if found.asked == asked and any(one.name == name for one in found.stages):
                return
            if found.asked == asked and found.failure and found.failed_at > STARTED:
                raise SetupError(f"rank 0 failed: {found.failure}")
        time.sleep(POLL_SECONDS)


def _report(
    recipe: Recipe, rehearsed: Recipe, state: RehearsalState, folder: Path, processes: int
) -> None:
    """The table, `report.json` and `report.html`; what the stages made is deleted."""
    counted = estimate.count(rehearsed, processes)
    found = report.summary(recipe, counted, [one.model_dump() for one in state.stages])
    report.write(folder, found)
    print("\n".join(report.lines(found)))
    print(f"report: {folder / 'report.html'}")
    shutil.rmtree(folder / WORK)
