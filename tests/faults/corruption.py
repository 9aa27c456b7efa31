"""Every file of a run and of its teacher, damaged in five ways; then the stages that may read it
run again.

Allowed: an error in one line (exit 2, 3 or 4); a file that is made again with bit-equal results,
reported in one line; a file that is not read; a file without influence on results, listed as
advisory. Forbidden: a traceback, other results, a damaged file that is read without a message.
"""

import argparse
import os
import random
import re
import shutil
from functools import partial
from pathlib import Path

from tests.faults import compare, verdict, world
from tests.faults.case import Case, Outcome, evenly, failed, passed
from tests.faults.client import Slot
from tests.faults.world import World

DAMAGES = ("flipped", "truncated", "emptied", "removed", "swapped")
VERIFY = "distill.verify"
# By state: the commands that follow.
CHAINS = {
    "half": (*world.MAKE, world.TRAIN, world.EXPORT),
    "trained": (*world.MAKE, world.TRAIN, world.EXPORT),
    "finished": (VERIFY, world.EXPORT, *world.AFTER_EXPORT),
    "tuned_half": world.FINETUNE,
    "tuned": world.FINETUNE,
    "refined": (VERIFY, world.FINETUNE[2]),
}
# By state: the undisturbed run, and which of its results must be the same.
ENDS = {
    **dict.fromkeys(
        ("half", "trained"), ("finished", ("pairs/", "initial_student/", "distill/", "export/"))
    ),
    "finished": ("finished", ("pairs/", "distill/", "export/", "eval/")),
    **dict.fromkeys(("tuned_half", "tuned", "refined"), ("refined", ("pictures/", "finetune/"))),
}
# Files that no result depends on: what they say is for people, or only a hint that is checked.
ADVISORY = re.compile(
    r"(distill|finetune/\w+)/(latest|status\.json|metrics\.jsonl|tensorboard/.*|validation/.*)$"
    r"|stages\.jsonl$|\.lock$"
    r"|README\.md$|\.html$|texts\.tsv$|grid\.png$"
)
IGNORED = re.compile(r"recipe\.yaml$|^log_|/\.[^/]*\.lock$")


def cases(made: World, slot: Slot, asked: argparse.Namespace) -> list[Case]:
    """`asked.corruptions` of all combinations of file and damage, evenly over the files."""
    every = []
    for state in CHAINS:
        folder = made.state(state, slot)
        names = sorted(
            path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
        )
        every += [(state, name) for name in names if _belongs(state, name)]
    rng = random.Random(0)
    combinations = [(state, name, damage) for state, name in every for damage in DAMAGES]
    rng.shuffle(combinations)
    chosen = sorted(evenly(combinations, asked.corruptions))
    return [
        Case(
            f"corruption/{_kind(name)}-{damage}/{state}.{_flat(name)}",
            partial(damage_one, made, state, name, damage),
        )
        for state, name, damage in chosen
    ]


def _belongs(state: str, name: str) -> bool:
    """Exports and evaluations are damaged in a finished run, what training reads halfway, its own
    files also when it has ended.
    """
    if IGNORED.search(name):
        return False
    if state in ("tuned_half", "tuned", "refined"):
        exported = name.startswith(f"run/{world.TUNED}/export")
        own = name.startswith(("run/finetune", "run/pictures"))
        return exported if state == "refined" else own and not exported
    after = name.startswith(("run/export", "run/eval", "run/summary"))
    return (
        after
        if state == "finished"
        else not after and (state == "half" or name.startswith("run/distill"))
    )


def _kind(name: str) -> str:
    parts = name.split("/")
    return parts[0] if parts[0] != "run" else parts[1].partition(".")[0]


def _flat(name: str) -> str:
    return name.replace("/", "+")


def damage_one(
    made: World, state: str, name: str, damage: str, folder: Path, rng: random.Random, slot: Slot
) -> Outcome:
    made.copy(state, folder, slot)
    path = folder / name
    original = path.read_bytes()
    if not _damage(path, damage, original, name, made, rng, slot):
        return Outcome(None, "skipped", "this damage changes nothing in this file")
    damaged = path.read_bytes() if path.exists() else None
    if damaged is not None:
        os.utime(path, ns=(1, path.stat().st_mtime_ns))  # reading it sets the time of access anew
    new: set[str] = set()
    for entry in CHAINS[state]:
        ended = (
            slot.call(VERIFY, folder, [made.exported(state)])
            if entry == VERIFY
            else slot.run(entry, folder)
        )
        new |= verdict.said(ended.text) - usual(made, state, slot)
        if ended.code or ended.timed_out:
            problem = verdict.problem(ended)
            detail = f"{entry}: {verdict.last_line(ended.text)[:400]}"
            return failed(problem, detail) if problem else passed("refused in one line")
    read = damaged is None or not path.exists() or path.stat().st_atime_ns != 1
    own = name.removeprefix("run/")
    there = path.read_bytes() if path.exists() else None
    still_damaged = there == damaged
    end, parts = ENDS[state]
    expected = compare.results(made.state(end, slot) / "run")
    found = compare.results(folder / "run")
    aside = [own] if still_damaged else []
    if ADVISORY.search(name):
        aside += ["distill/metrics.jsonl", f"{world.TUNED}/metrics.jsonl"]
    if differs := compare.difference(
        compare.made_by(found, *parts), compare.made_by(expected, *parts), aside
    ):
        return failed("other results", differs)
    if new:
        return passed("made again, with a line" if not still_damaged else "reported, bit-equal")
    if ADVISORY.search(name):
        return passed("advisory, bit-equal")
    if not still_damaged:
        return passed("written again, bit-equal")
    return (
        failed("used without a word", f"{name} was {damage}, read, and nothing said")
        if read and damaged is not None
        else passed("not read")
    )


def usual(made: World, state: str, slot: Slot) -> set[str]:
    """What the chain of a state prints when nothing is damaged."""
    folder = made.clean(state, CHAINS[state], slot)
    return verdict.said(
        "\n".join(
            path.read_text(encoding="utf-8", errors="replace")
            for path in sorted(folder.glob("log_*.txt"))
        )
    )


def _damage(
    path: Path, damage: str, original: bytes, name: str, made: World, rng: random.Random, slot: Slot
) -> bool:
    """Whether the file is another one now."""
    if damage == "removed":
        path.unlink()
        return True
    if damage == "emptied":
        content = b""
    elif damage == "truncated":
        content = original[: rng.randrange(max(1, len(original)))]
    elif damage == "flipped":
        if not original:
            return False
        place = rng.randrange(len(original))
        content = (
            original[:place]
            + bytes([original[place] ^ 1 << rng.randrange(8)])
            + original[place + 1 :]
        )
    else:
        content = _another(path, name, original, made, rng, slot)
    path.write_bytes(content)
    return content != original


def _another(
    path: Path, name: str, original: bytes, made: World, rng: random.Random, slot: Slot
) -> bytes:
    """The same file of another seed's run; where there is none or it is equal, another file of the
    same ending.
    """
    other = made.state("other", slot) / name
    if other.is_file() and other.read_bytes() != original:
        return other.read_bytes()
    alike = sorted(
        one
        for one in path.parent.parent.rglob(f"*{path.suffix}")
        if one.is_file() and one.suffix == path.suffix and one != path
    )
    alike = [one for one in alike if one.read_bytes() != original]
    return shutil.copyfile(rng.choice(alike), path).read_bytes() if alike else original
