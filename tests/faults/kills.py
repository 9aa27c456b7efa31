"""SIGKILL at random moments and before every file operation; the same command is then repeated
until it finishes.

The files on disk must then equal those of an undisturbed run. After every kill, the checkpoints
that were complete before must still exist, or newer complete ones.
"""

import argparse
import random
from functools import partial
from pathlib import Path

from tests.faults import compare, world
from tests.faults.case import Case, Outcome, evenly, failed, passed, wanted
from tests.faults.client import Ended, Slot
from tests.faults.world import World

KILLS_A_CASE = 4
TRIES = 3  # of the last, undisturbed command: a Slurm job would be queued again as often
# From which state a stage starts, how often of ten random kills it is the one, and what of the
# results is its own.
STAGES = {
    "corpora.prepare": ("prepared", 1, ("pairs/",)),
    "vocab_init": ("prepared", 1, ("initial_student/",)),
    "distill.train": ("prepared", 6, ("distill/",)),
    "distill.export": ("trained", 1, ("export/",)),
    "eval.generate": ("finished", 1, ("eval/pictures",)),
    "finetune.pictures": ("trained", 1, ("pictures/",)),
    "finetune.train": (
        "pictured",
        2,
        tuple(f"{world.TUNED}/{name}" for name in ("checkpoints/", "metrics", "validation/")),
    ),
    "finetune.export": ("tuned", 1, (f"{world.TUNED}/export/",)),
}
MADE = {
    "corpora.prepare": ["pairs"],
    "vocab_init": ["initial_student", "piece_vectors"],
    "eval.generate": ["eval"],
}
PAIR_SHARE = 0.2  # of the random kills of training: two processes, killed together or one alone


def cases(made: World, slot: Slot, asked: argparse.Namespace) -> list[Case]:
    """`asked.kills` random kills; every kill point of every stage, or `asked.points` of each."""
    result = []
    for entry, (_, tenths, _) in STAGES.items():
        some = max(1, round(asked.kills * tenths / 10 / KILLS_A_CASE + 0.01))
        pairs = round(some * PAIR_SHARE) if entry == world.TRAIN else 0
        for kind, processes, count in ((entry, 1, some - pairs), ("two-processes", 2, pairs)):
            run = partial(random_kills, made, entry, processes)
            result += [Case(f"kills/random-{kind}/{n:03d}", run) for n in range(count)]
    for entry in STAGES:
        if wanted(asked.only, group := f"kills/point-{entry}"):
            numbers: list[int] = list(range(1, len(operations(made, slot, entry)) + 1))
            named = [number for number in numbers if f"{group}/{number:04d}" in asked.only]
            chosen = named or (numbers if asked.points is None else evenly(numbers, asked.points))
            result += [
                Case(f"{group}/{n:04d}", partial(kill_point, made, entry, n)) for n in chosen
            ]
    return result


def operations(made: World, slot: Slot, entry: str) -> list[str]:
    """The file operations of the stage from a state where its own output is missing."""
    return made.operations(start_state(entry), entry, slot, MADE.get(entry, []))


def start_state(entry: str) -> str:
    return STAGES[entry][0]


def begin(made: World, entry: str, folder: Path, slot: Slot) -> None:
    made.copy_without(start_state(entry), folder, slot, MADE.get(entry, []))


def random_kills(
    made: World, entry: str, processes: int, folder: Path, rng: random.Random, slot: Slot
) -> Outcome:
    """KILLS_A_CASE kills of one stage; a stage that ends before the last of them begins again in an
    empty folder.
    """
    keep = _keep(entry, rng.choice([1, 2]))
    longest = made.seconds(start_state(entry), entry, slot, MADE.get(entry, [])) * (
        1.3 if processes > 1 else 0.9
    )
    victims = [0] if processes == 1 else rng.choice([[0, 1], [0, 1], [0], [1]])
    killed = 0
    for attempt in range(KILLS_A_CASE):
        run = folder / f"attempt_{attempt}"
        run.mkdir()
        begin(made, entry, run, slot)
        while killed < KILLS_A_CASE:
            whole = _whole(run, entry)
            ended = slot.run(
                entry,
                run,
                keep,
                processes=processes,
                victims=victims,
                kill_after=rng.uniform(0.02, longest),
            )
            if not ended.killed:
                break
            killed += 1
            if lost := _lost(whole, _whole(run, entry)):
                return failed("checkpoint lost", lost, killed)
        outcome = finish(made, entry, processes, run, slot, keep, killed)
        if not outcome.passed or killed == KILLS_A_CASE:
            return outcome
    return outcome


def kill_point(
    made: World, entry: str, number: int, folder: Path, rng: random.Random, slot: Slot
) -> Outcome:
    begin(made, entry, folder, slot)
    ended = slot.run(entry, folder, hook={"kill_at": number})
    if ended.code not in (0, -9):
        return failed(_kind(ended), _last(ended))
    killed_at = _whole(folder, entry)
    outcome = finish(made, entry, 1, folder, slot, _keep(entry, 2), 1)
    if outcome.passed and (lost := _lost(killed_at, _whole(folder, entry))):
        return failed("checkpoint lost", lost)
    return outcome


def finish(
    made: World, entry: str, processes: int, folder: Path, slot: Slot, keep: str, killed: int
) -> Outcome:
    """Gives the command again, undisturbed, and compares what is there with an undisturbed
    run's.
    """
    settings = [keep] if entry in (world.TRAIN, *world.PACE) else []
    ended = slot.run(entry, folder, *settings, processes=processes)
    if ended.code:
        return failed(_kind(ended), _last(ended), killed)
    end = "refined" if entry in world.FINETUNE else "finished"
    reference = made.state("pair" if processes > 1 else end, slot)
    own = STAGES[entry][2]
    found, expected = (
        compare.made_by(compare.results(run / "run"), *own) for run in (folder, reference)
    )
    if differs := compare.difference(found, expected):
        return failed("other results", differs, killed)
    left = [
        path.name
        for path in (folder / "run").rglob("*")
        if ".partial" in path.name or ".incomplete" in path.name or "unfinished" in path.name
    ]
    if left:
        return failed("leftovers", f"after the end there are still {', '.join(left[:3])}", killed)
    return passed("bit-equal", killed)


def _keep(entry: str, count: int) -> str:
    return f"{world.PACE.get(entry, 'distill')}.keep_checkpoints={count}"


def _whole(folder: Path, entry: str) -> list[int]:
    return compare.whole_checkpoints(folder / "run", world.CHECKPOINTS.get(entry, "distill"))


def _lost(before: list[int], after: list[int]) -> str:
    """Which whole checkpoint should still be there. The newest one may only give way to a newer
    one, and their number may not fall.
    """
    if before and (not after or after[-1] < before[-1]):
        return f"whole before: {before}, after: {after}"
    return ""


def _kind(ended: Ended) -> str:
    if ended.timed_out:
        return "hung"
    if "Traceback (most recent call last)" in ended.text or ended.code == 1:
        return "traceback"
    return "refused"


def _last(ended: Ended) -> str:
    lines = [line for line in ended.text.splitlines() if line.strip()]
    return f"exit {ended.code}: {lines[-1][:400] if lines else ''}"
