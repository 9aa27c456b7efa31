"""Fuzzed inputs: recipes, overrides, corpora files of every format, our own JSON files, prompts and
pictures with settings.

Every input must be accepted, or raise one of our errors with one printable line, within
LIMIT_SECONDS.
"""

import argparse
import json
import random
from functools import partial
from pathlib import Path

from tests.faults.case import Case, Outcome, failed, passed
from tests.faults.client import Slot
from tests.faults.fuzz_inputs import KINDS
from tests.faults.world import World

LIMIT_SECONDS = 20
CHUNK = {"json": 25}  # inputs of one process: its commands read a whole run; else DEFAULT_CHUNK
DEFAULT_CHUNK = 100
MEMORY_BYTES = 10 << 30  # of address space: an input must not take the machine's memory
SHARES = {"recipe": 0.35, "override": 0.2, "corpus": 0.28, "json": 0.05, "prompt": 0.12}


def cases(made: World, slot: Slot, asked: argparse.Namespace) -> list[Case]:
    assert set(SHARES) == set(KINDS)
    result = []
    for kind, share in SHARES.items():
        wanted = max(1, round(asked.inputs * share))
        for number, first in enumerate(range(0, wanted, CHUNK.get(kind, DEFAULT_CHUNK))):
            count = min(CHUNK.get(kind, DEFAULT_CHUNK), wanted - first)
            result.append(Case(f"fuzz/{kind}/{number:03d}", partial(chunk, made, kind, count)))
    return result


def chunk(
    made: World, kind: str, count: int, folder: Path, rng: random.Random, slot: Slot
) -> Outcome:
    """`count` inputs in one process; the first one that is not treated well decides."""
    if kind == "json":
        made.copy("finished", folder, slot)
    arguments = [kind, str(rng.getrandbits(32)), str(count), str(LIMIT_SECONDS)]
    ended = slot.call(
        "tests.faults.fuzz_inputs",
        folder,
        arguments,
        memory_bytes=MEMORY_BYTES,
        limit=LIMIT_SECONDS * 20.0,
    )
    found = [
        json.loads(line)
        for line in (folder / "problems.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    if found:
        return failed(
            found[0]["problem"],
            f"{len(found)} of {count} inputs; number {found[0]['number']}: {found[0]['detail']}",
            count,
        )
    if ended.code or ended.timed_out:
        at = (folder / "at").read_text(encoding="utf-8")
        return failed(
            "hung" if ended.timed_out else "process died",
            f"at input {at}, exit {ended.code}: {ended.text[-300:]}",
            count,
        )
    return passed("accepted or refused in one line", count)
