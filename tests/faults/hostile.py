"""Artefacts made to harm (tests/hostile_files.py makes them): no code of theirs runs, nothing
outside is read, the refusal is one line.

That module offers `CASES`: by name, a function that writes the artefact into a folder and returns
the command line (after `python`) of the one who opens it, and `harm(folder)`: what it managed to do
there, empty where nothing.
"""

import argparse
import importlib
import random
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

from tests.faults import verdict
from tests.faults.case import Case, Outcome, failed, passed, skipped
from tests.faults.client import ROOT, Ended, Slot, environment
from tests.faults.world import World

LIMIT_SECONDS = 120


def cases(made: World, slot: Slot, asked: argparse.Namespace) -> list[Case]:
    try:
        sys.path.insert(0, str(ROOT / "tests"))
        makers = importlib.import_module("hostile_files")
    except ImportError:
        return [
            Case(
                "hostile/files/all",
                lambda folder, rng, slot: skipped("tests/hostile_files.py is not there"),
            )
        ]
    if not hasattr(makers, "CASES"):
        return [
            Case(
                "hostile/files/all",
                lambda folder, rng, slot: skipped("tests/hostile_files.py has no CASES"),
            )
        ]
    return [Case(f"hostile/files/{name}", partial(open_it, makers, name)) for name in makers.CASES]


def open_it(makers: Any, name: str, folder: Path, rng: random.Random, slot: Slot) -> Outcome:
    words = makers.CASES[name](folder)
    settings = environment(slot.canary) | {"FAULTS_CASE": str(folder)}
    try:
        done = subprocess.run(
            [sys.executable, *words],
            cwd=ROOT,
            env=settings,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LIMIT_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return failed("hung", f"over {LIMIT_SECONDS} s")
    if harm := makers.harm(folder):
        return failed("harm done", str(harm))
    ended = Ended(done.returncode, False, False, 0.0, done.stdout + done.stderr)
    problem = verdict.problem(ended)
    return (
        failed(problem, verdict.last_line(ended.text)[:400])
        if problem
        else passed("refused in one line")
    )
