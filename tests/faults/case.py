"""A case of the harness (a name, a function, its own random generator) and its outcome."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Outcome:
    """`passed` is None for a case that could not run here. `counted`: the number of kills,
    damages or inputs in the case.
    """

    passed: bool | None
    verdict: str
    detail: str = ""
    counted: int = 1


@dataclass(frozen=True)
class Case:
    """`name` is part/kind/number. `run` gets the case's own empty folder, its generator and the
    slot it runs in.
    """

    name: str
    run: Callable[[Path, random.Random, Any], Outcome] = field(repr=False)

    @property
    def group(self) -> str:
        return self.name.rpartition("/")[0]


def passed(verdict: str, counted: int = 1) -> Outcome:
    return Outcome(True, verdict, "", counted)


def failed(verdict: str, detail: str, counted: int = 1) -> Outcome:
    return Outcome(False, verdict, detail, counted)


def skipped(why: str) -> Outcome:
    return Outcome(None, "skipped", why)


def evenly(cases: Sequence[Any], count: int) -> list[Any]:
    """`count` of the cases, taken evenly over all of them, with the first and the last."""
    if count >= len(cases):
        return list(cases)
    if count <= 1:
        return list(cases[len(cases) // 2 :][:count])
    return [cases[round(i * (len(cases) - 1) / (count - 1))] for i in range(count)]


def wanted(only: Sequence[str], group: str) -> bool:
    """Whether `--only` asks for any case whose name starts with `group`; without `--only` all are
    wanted.
    """
    return not only or any(
        one.startswith(group) or f"{group}/".startswith(f"{one}/") for one in only
    )
