"""Rows in, rows kept and drop reasons of each source.

In:  `<run>/pairs`: `samples.json` (rows of each source) and `dropped.parquet`.
Out: one `Yield` per source, in the recipe's order, whose counts add up; a warning for each source
     that kept less than half of its rows.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from configs.errors import DataError
from configs.files import read_json
from corpora import dropped
from corpora.card.data_card import SAMPLES
from corpora.pair import REMEDY, SPLITS

LEAST = 0.5
REASONS_NAMED = 4


@dataclass(frozen=True)
class Yield:
    """`dropped` counts rows by (stage, reason)."""

    source: str
    rows_in: int
    kept: int
    dropped: Counter[tuple[str, str]]

    @property
    def warning(self) -> str | None:
        """One line if the source kept less than half of its rows, else None."""
        if self.rows_in and self.kept >= LEAST * self.rows_in:
            return None
        named = [
            f"{count:,} {stage}: {reason}"
            for (stage, reason), count in self.dropped.most_common(REASONS_NAMED)
        ]
        why = f"dropped were {', '.join(named)}" if named else "it has no rows"
        example = "; python -m corpora.audit RECIPE shows some of them" if named else ""
        return (
            f"warning: source {self.source!r} gave {self.kept:,} of {self.rows_in:,} rows; "
            f"{why}{example}"
        )


def of_pairs(folder: Path) -> list[Yield]:
    """Raises DataError where the files are missing or do not add up."""
    try:
        recorded_sources = read_json(folder / SAMPLES)["sources"]
    except OSError:
        raise DataError(f"{folder / SAMPLES}: cannot be read; {REMEDY}") from None
    drops_by_source = dropped.by_source(folder / dropped.FILE)
    result = []
    for one in recorded_sources:
        kept = sum(one[split] for split in SPLITS)
        reasons = drops_by_source.pop(one["name"], Counter())
        if one["rows_in"] != kept + reasons.total():
            raise DataError(
                f"{folder}: of source {one['name']!r} came {one['rows_in']} rows, but {kept} kept "
                "and"
                f" {reasons.total()} dropped ones are on record; {REMEDY}"
            )
        result.append(Yield(one["name"], one["rows_in"], kept, reasons))
    return result


def warnings(folder: Path) -> list[str]:
    return [one.warning for one in of_pairs(folder) if one.warning]
