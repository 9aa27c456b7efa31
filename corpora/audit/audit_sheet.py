"""The sheet of corpora.audit: random rows of each reason, and kept ones, to judge by eye.

In:  `<run>/pairs` and the sources it was made from; or a filled sheet.
Out: `sheet.tsv` (UTF-8, one row per line, for any spreadsheet) and `sheet.html` (to read).
"""

from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path

import numpy as np

from configs import pages
from configs.errors import DataError
from configs.files import whole
from configs.languages import Language
from configs.schema.corpora import Corpora
from corpora import dropped
from corpora.inspect import history
from corpora.pair import SPLITS, read_batches

TSV, HTML = "sheet.tsv", "sheet.html"
KEPT = "kept"
JUDGEMENTS = ("good", "bad", "")


@dataclass(frozen=True)
class Line:
    """One row. `judgement`: good (a pair to keep), bad, or empty. `stage` and `reason` of a kept
    row are "kept".
    """

    judgement: str
    stage: str
    reason: str
    id: str
    text: str = ""
    en: str = ""
    other_id: str = ""  # the row kept instead of a duplicate
    other_text: str = ""
    other_en: str = ""


COLUMNS = [field.name for field in fields(Line)]


def draw(corpora: Corpora, pairs: Path, rows: int, seed: int) -> list[Line]:
    """At most `rows` random rows of each reason and of the kept ones, with their texts as in the
    sources. Raises DataError.
    """
    rng = np.random.default_rng(seed)
    drawn = _Drawn(rows)
    for batch in dropped.batches(pairs / dropped.FILE):
        drawn.add(batch.to_pylist(), rng.random(batch.num_rows))
    for split in SPLITS:
        for batch in read_batches(pairs, split, columns=["id"]):
            ids = batch.column("id").to_pylist()
            drawn.add(
                [{"stage": KEPT, "reason": KEPT, "id": id} for id in ids], rng.random(len(ids))
            )
    lines = [
        Line("", row["stage"], row["reason"], row["id"], other_id=row.get("other_id") or "")
        for row in drawn.rows()
    ]
    texts = history.read_rows(
        corpora, dict.fromkeys(id for line in lines for id in (line.id, line.other_id) if id)
    )
    result = []
    for line in lines:
        own, other = texts[line.id], texts.get(line.other_id, history.SourceRow(""))
        result.append(
            replace(line, text=own.text, en=own.en, other_text=other.text, other_en=other.en)
        )
    return result


class _Drawn:
    """Keeps the rows with the lowest random numbers of each group: sampling without replacement, in
    one pass.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._groups: dict[tuple[str, str], list[tuple[float, dict[str, str]]]] = {}

    def add(self, rows: list[dict[str, str]], numbers: np.ndarray) -> None:
        for row, number in zip(rows, numbers.tolist(), strict=True):
            group = self._groups.setdefault((row["stage"], row["reason"]), [])
            if len(group) < self._count:
                group.append((number, row))
                group.sort(key=lambda one: one[0])
            elif number < group[-1][0]:
                group[-1] = (number, row)
                group.sort(key=lambda one: one[0])

    def rows(self) -> list[dict[str, str]]:
        return [row for group in self._groups.values() for _, row in group]


def write(folder: Path, lines: list[Line], language: Language) -> None:
    with whole(folder / TSV) as temporary:
        text = "".join("\t".join(map(_cell, row)) + "\n" for row in [COLUMNS, *map(astuple, lines)])
        temporary.write_text(text, encoding="utf-8")
    environment = pages.environment(Path(__file__).parent)
    groups: dict[tuple[str, str], list[Line]] = {}
    for line in lines:
        groups.setdefault((line.stage, line.reason), []).append(line)
    with whole(folder / HTML) as temporary:
        template = environment.get_template("audit_sheet.html.jinja")
        page = template.render(groups=groups, language=language)
        temporary.write_text(page + "\n", encoding="utf-8")


def _cell(text: str) -> str:
    """The text as one field, without tabs and line breaks."""
    return " ".join(text.split())


def read(path: Path, pairs: Path) -> list[Line]:
    """A filled sheet. Raises DataError, also if a dropped row is not one of these pairs'."""
    try:
        text = path.read_text(encoding="utf-8-sig")  # spreadsheets put a byte-order mark in front
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: cannot be read ({error}); give the sheet.tsv that corpora.audit wrote, as "
            "UTF-8"
        ) from None
    header, *rows = [
        line.rstrip("\r").split("\t") for line in text.split("\n") if line.strip()
    ] or [[]]
    if header[:4] != COLUMNS[:4]:
        raise DataError(
            f"{path}: its first line is not {' '.join(COLUMNS[:4])} …; give the sheet.tsv that "
            "corpora.audit wrote"
        )
    lines = []
    for number, row in enumerate(rows, 2):
        line = Line(row[0].strip().lower(), *row[1 : len(COLUMNS)]) if len(row) >= 4 else None
        if line is None or line.judgement not in JUDGEMENTS:
            raise DataError(
                f"{path}: line {number}: the judgement is {row[0]!r}; write good, bad or nothing"
            )
        lines.append(line)
    lost = dropped.find(pairs / dropped.FILE, [line.id for line in lines if line.stage != KEPT])
    for line in lines:
        found = lost.get(line.id)
        if line.stage != KEPT and (
            found is None or (found["stage"], found["reason"]) != (line.stage, line.reason)
        ):
            raise DataError(
                f"{path}: {line.id} was not dropped by {line.stage}: {line.reason} in {pairs}; "
                "judge a sheet of these pairs"
            )
    return lines
