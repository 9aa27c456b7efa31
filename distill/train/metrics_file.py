"""`metrics.jsonl`, the log of a training: an object of numbers a line, one of them its `step`.

In/out: `<run>/distill/metrics.jsonl`. The last line may be cut off (the process was killed while
        writing it). Any other damaged line is reported by its number; when a run is resumed, such
        lines move to `metrics.damaged.jsonl`.
"""

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

from configs.errors import one_line
from configs.files import whole

DAMAGED = "metrics.damaged.jsonl"
Row = dict[str, Any]


class _Line(NamedTuple):
    """A line of the file; `row` is None where it is damaged."""

    number: int
    raw: bytes
    row: Row | None


def read(path: Path) -> list[Row]:
    """The whole rows in the order of the file; [] without a file.

    Prints which lines are damaged.
    """
    lines = _lines(path)
    _report(path, lines, "left out")
    return [line.row for line in lines if line.row is not None]


def resume(path: Path, start: int, log_every_steps: int) -> None:
    """Leaves the rows of steps 1 to `start`: those after it are made again.

    Damaged lines are kept in a file of their own.
    """
    lines = _lines(path)
    damaged = [line.raw + b"\n" for line in lines if line.row is None]
    if damaged:
        with open(path.with_name(DAMAGED), "ab") as file:
            file.writelines(damaged)
        _report(path, lines, f"moved to {DAMAGED}")
    kept = [line for line in lines if line.row is not None and line.row["step"] <= start]
    last = max((line.row["step"] for line in kept if line.row is not None), default=0)
    if start - last > log_every_steps:
        _say(f"{path}: holds no row of steps {last + 1} to {start}, which are done")
    with whole(path) as temporary:
        temporary.write_bytes(b"".join(line.raw + b"\n" for line in kept))


def _lines(path: Path) -> list[_Line]:
    """All lines that are not empty, without a last one that was cut off."""
    parts = path.read_bytes().split(b"\n") if path.is_file() else []
    lines = [_Line(number, raw, _row(raw)) for number, raw in enumerate(parts, start=1) if raw]
    if lines and lines[-1].number == len(parts) and lines[-1].row is None:
        lines.pop()
    return lines


def _row(raw: bytes) -> Row | None:
    try:
        row = json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or type(row.get("step")) is not int:
        return None
    return row if all(type(value) in (int, float) for value in row.values()) else None


def _report(path: Path, lines: list[_Line], what: str) -> None:
    numbers = [line.number for line in lines if line.row is None]
    if numbers:
        more = f" and {len(numbers) - 1} more" if len(numbers) > 1 else ""
        _say(f"{path}: line {numbers[0]}{more} damaged, {what}")


def _say(text: str) -> None:
    print(one_line(text), file=sys.stderr)
