"""The outcome of all cases: a table for the terminal, the same in Markdown, and JSON with every
failure and the command that repeats it.
"""

import json
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, NamedTuple

from tests.faults.case import Case, Outcome

COLUMNS = ("part", "cases", "injected", "passed", "failed", "skipped", "what happened")


class Done(NamedTuple):
    case: Case
    outcome: Outcome
    seconds: float


def rows(done: list[Done]) -> list[tuple[str, ...]]:
    """A row for every group of cases, and one for all; `injected` counts kills, damages or
    inputs.
    """
    groups: dict[str, list[Outcome]] = defaultdict(list)
    for one in done:
        groups[one.case.group].append(one.outcome)
    table = [_row(group, outcomes) for group, outcomes in sorted(groups.items())]
    return (
        [*table, (*_row("all", [one.outcome for one in done])[:-1], "")]
        if len(table) > 1
        else table
    )


def _row(group: str, outcomes: list[Outcome]) -> tuple[str, ...]:
    ran = [one for one in outcomes if one.passed is not None]
    verdicts: Counter[str] = Counter()
    for one in outcomes:
        verdicts[one.verdict] += 1
    counts = (
        len(outcomes),
        sum(one.counted for one in ran),
        sum(one.passed is True for one in ran),
        sum(one.passed is False for one in ran),
    )
    what = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.most_common())
    return (group, *(f"{count:,}" for count in counts), str(len(outcomes) - len(ran)), what)


def text(done: list[Done]) -> str:
    table = [COLUMNS, *rows(done)]
    widths = [max(len(row[i]) for row in table) for i in range(len(COLUMNS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    )


def markdown(done: list[Done]) -> str:
    lines = [f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows(done))]) + "\n"


def failures(done: list[Done], seed: int) -> str:
    lines = []
    for one in done:
        if one.outcome.passed is False:
            lines.append(f"{one.case.name}: {one.outcome.verdict}: {one.outcome.detail}")
            lines.append(f"    again: python -m tests.faults --only {one.case.name} --seed {seed}")
    return "\n".join(lines)


def write(folder: Path, done: list[Done], options: dict[str, Any], seconds: float) -> None:
    """`report.json` and `report.md`."""
    cases = [
        {
            "case": one.case.name,
            "passed": one.outcome.passed,
            "verdict": one.outcome.verdict,
            "injected": one.outcome.counted,
            "detail": one.outcome.detail,
            "seconds": round(one.seconds, 2),
        }
        for one in done
    ]
    record = {
        "options": options,
        "made": time.strftime("%Y-%m-%d %H:%M"),
        "seconds": round(seconds),
        "cases": cases,
    }
    (folder / "report.json").write_text(
        json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    said = " ".join(f"--{name} {value}" for name, value in options.items() if value is not None)
    (folder / "report.md").write_text(
        f"`{said}`, {seconds / 60:.0f} minutes\n\n{markdown(done)}", encoding="utf-8"
    )
