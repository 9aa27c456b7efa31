"""Artefacts made to harm (tests/hostile_files.py makes them): no code of theirs runs, nothing
outside is read, the refusal is one line. Each is opened in a process of its own, with bounded
memory.
"""

import argparse
import importlib
import random
import re
import sys
from functools import partial
from pathlib import Path

from tests.faults import verdict
from tests.faults.case import Case, Outcome, failed, passed, skipped
from tests.faults.client import ROOT, Slot
from tests.faults.world import World

LIMIT_SECONDS = 60.0
MEMORY_BYTES = 10 << 30  # of address space


def cases(made: World, slot: Slot, asked: argparse.Namespace) -> list[Case]:
    sys.path.insert(0, str(ROOT / "tests"))
    try:
        names = importlib.import_module("hostile_files").CASES
    except ImportError:
        return [Case("hostile/files/all", partial(_missing))]
    return [Case(f"hostile/files/{_slug(name)}", partial(open_it, name)) for name in names]


def _missing(folder: Path, rng: random.Random, slot: Slot) -> Outcome:
    return skipped("tests/hostile_files.py is not there")


def _slug(name: str) -> str:
    return re.sub(r"\W+", "-", name).strip("-")


def open_it(name: str, folder: Path, rng: random.Random, slot: Slot) -> Outcome:
    ended = slot.call(
        "tests.faults.hostile_use",
        folder,
        [name],
        limit=LIMIT_SECONDS,
        memory_bytes=MEMORY_BYTES,
    )
    if (folder / "ran").exists():
        return failed("code was run", verdict.last_line(ended.text)[:400])
    if (folder / "read_outside").exists():
        return failed("read outside", verdict.last_line(ended.text)[:400])
    problem = verdict.problem(ended)
    line = verdict.last_line(ended.text)[:400]
    return failed(problem, line) if problem else passed("refused in one line")
