"""Full disks, quotas, read-only folders and limits on a file's size: one line and exit code 4; once
there is room, the same command finishes.

An audit hook makes every file operation from the n-th on fail (no privileges needed). Files written
by C++ and Rust are tested on a small file system in memory, which only root may mount, and with a
limit on file size.
"""

import argparse
import errno
import os
import random
import subprocess
from functools import partial
from pathlib import Path

from tests.faults import compare, kills, verdict, world
from tests.faults.case import Case, Outcome, evenly, failed, passed, skipped, wanted
from tests.faults.client import Ended, Slot
from tests.faults.world import World

POINTS = 8
FILE_BYTES = (2_000, 40_000, 200_000)
SHARES = (0.1, 0.25, 0.4, 0.55, 0.7, 0.85)
NO_SPARE = {
    "configs.files:SPARE": 0
}  # else the check before a save refuses any disk as small as ours
ROAD = (*world.MAKE, world.TRAIN, world.EXPORT, "eval.generate")
ENOUGH = "512m"


def cases(made: World, slot: Slot, asked: argparse.Namespace) -> list[Case]:
    result = []
    for entry in ROAD:
        runs = [
            *(
                (f"file-size-{entry}/{size}", partial(file_size, made, entry, size))
                for size in FILE_BYTES
            ),
            (f"read-only-{entry}/hook", partial(fails_at, made, entry, errno.EROFS, 1)),
            (f"read-only-{entry}/mounted", partial(read_only, made, entry)),
        ]
        if wanted(asked.only, f"disk/full-{entry}") or wanted(asked.only, f"disk/quota-{entry}"):
            points = evenly(range(1, len(kills.operations(made, slot, entry)) + 1), POINTS)
            full = [
                (f"full-{entry}/{n:04d}", partial(fails_at, made, entry, errno.ENOSPC, n))
                for n in points
            ]
            quota = [
                (f"quota-{entry}/{n:04d}", partial(fails_at, made, entry, errno.EDQUOT, n))
                for n in points[2:5:2]
            ]
            runs += [*full, *quota]
        result += [Case(f"disk/{name}", run) for name, run in runs]
    small_ones = [(share, how) for share in SHARES for how in ("checked", "unchecked")]
    return result + [
        Case(f"disk/small-file-system/{share}-{how}", partial(small, made, share, how))
        for share, how in small_ones
    ]


def fails_at(
    made: World, entry: str, number: int, at: int, folder: Path, rng: random.Random, slot: Slot
) -> Outcome:
    kills.begin(made, entry, folder, slot)
    ended = slot.run(entry, folder, hook={"fail_at": at, "number": number})
    return _refused_then_done(made, entry, folder, slot, ended)


def file_size(
    made: World, entry: str, size: int, folder: Path, rng: random.Random, slot: Slot
) -> Outcome:
    kills.begin(made, entry, folder, slot)
    ended = slot.run(entry, folder, file_bytes=size)
    return _refused_then_done(made, entry, folder, slot, ended)


def _refused_then_done(made: World, entry: str, folder: Path, slot: Slot, ended: Ended) -> Outcome:
    unhurt, problem = ended.code == 0, verdict.problem(ended, (4,))
    if problem and not unhurt:
        return failed(problem, f"{entry}: {verdict.last_line(ended.text)[:400]}")
    outcome = kills.finish(made, entry, 1, folder, slot, "distill.keep_checkpoints=2", 1)
    if not outcome.passed:
        return outcome
    return passed("ended before it mattered" if unhurt else "one line, exit 4, then bit-equal")


def read_only(made: World, entry: str, folder: Path, rng: random.Random, slot: Slot) -> Outcome:
    kills.begin(made, entry, folder, slot)
    run = folder / "run"
    run.mkdir(exist_ok=True)
    if why := _mount(["--bind", str(run), str(run)]):
        return skipped(why)
    try:
        if why := _mount(["-o", "remount,bind,ro", str(run)]):
            return skipped(why)
        ended = slot.run(entry, folder)
    finally:
        _unmount(run)
    return _refused_then_done(made, entry, folder, slot, ended)


def small(
    made: World, share: float, how: str, folder: Path, rng: random.Random, slot: Slot
) -> Outcome:
    """The whole road on a file system that holds `share` of what it needs; then the file system
    grows.
    """
    finished = made.state("finished", slot)
    needed = sum(
        path.stat().st_blocks * 512 for path in (finished / "run").rglob("*") if path.is_file()
    )
    made.copy("prepared", folder, slot)
    run = folder / "run"
    kept = folder / "kept"
    run.rename(kept)
    run.mkdir()
    if why := _mount(["-t", "tmpfs", "-o", f"size={int(share * needed)}", "tmpfs", str(run)]):
        return skipped(why)
    try:
        refused = False
        for entry in ROAD:
            ended = slot.run(entry, folder, patches=NO_SPARE if how == "unchecked" else {})
            if ended.code == 0 and not ended.timed_out:
                continue
            if problem := verdict.problem(ended, (4,)):
                return failed(problem, f"{entry}: {verdict.last_line(ended.text)[:400]}")
            refused, whole = True, compare.whole_checkpoints(run)
            if why := _mount(["-o", f"remount,size={ENOUGH}", str(run)]):
                return skipped(why)
            ended = slot.run(entry, folder)
            if ended.code:
                return failed("not continued", f"{entry}: {verdict.last_line(ended.text)[:400]}")
            if whole and compare.whole_checkpoints(run)[-1:] < whole[-1:]:
                return failed("checkpoint lost", f"{whole} before")
        parts = ("pairs/", "initial_student/", "distill/", "export/", "eval/pictures/")
        both = (compare.made_by(compare.results(one), *parts) for one in (run, finished / "run"))
        differs = compare.difference(*both)
        return (
            failed("other results", differs)
            if differs
            else passed("one line, exit 4, then bit-equal" if refused else "there was room")
        )
    finally:
        _unmount(run)


def _mount(arguments: list[str]) -> str:
    """Why the system refused; empty where it did not."""
    if os.geteuid():
        return "only root may mount"
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True)
    return f"mount refused: {done.stderr.strip()[:100]}" if done.returncode else ""


def _unmount(folder: Path) -> None:
    subprocess.run(["umount", "--lazy", str(folder)], capture_output=True)


def unmount_below(folder: Path) -> None:
    """Takes away what an interrupted case has left mounted."""
    for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines():
        place = line.split(" ")[1].encode().decode("unicode_escape")
        if place.startswith(f"{folder}{os.sep}"):
            _unmount(Path(place))
