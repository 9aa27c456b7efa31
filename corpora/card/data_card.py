"""The data card: where the pairs come from, what was dropped and why, what the kept ones are like.

In:  of `gather`: what the pipeline knows when it ends. Of `render`: `manifest.json` and
     `samples.json` of `<run>/pairs/`, and what was counted while the shards were written.
Out: `<run>/pairs/samples.json`: rows by source, and texts to look at; `<run>/pairs/data_card.html`,
     which holds all it shows; `README.md`, the same numbers as the Hugging Face Hub shows them
     above a data set. Which texts are shown depends on the texts alone: those of the lowest
     digests.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from configs import pages
from configs.files import read_json, whole, write_json
from configs.languages import LANGUAGES
from configs.schema.corpora import Corpora
from corpora import assemble, dropped, sources
from corpora.card.histograms import Histograms
from corpora.clean import PartRecord
from corpora.pair import SPLITS, Pair, read_manifest

SAMPLES, PAGE, README = "samples.json", "data_card.html", "README.md"
KEPT_SAMPLES = 5  # a source
SPECIAL = re.compile(
    r"[\\`*\[\]<>#|~&$]|(?<![0-9A-Za-z])_|_(?![0-9A-Za-z])"
)  # Markdown's; an underscore inside a name means nothing to it


def gather(
    corpora: Corpora,
    parts: list[sources.Part],
    records: list[PartRecord],
    part_files: list[Path],
    fates: assemble.Fates,
    folder: Path,
) -> None:
    """Writes `samples.json`."""
    listed = []
    for number, source in enumerate(corpora.sources):
        own = [rank for rank, part in enumerate(parts) if part.source == number]
        rows = np.concatenate(
            [np.arange(0), *(np.arange(*fates.starts[rank : rank + 2]) for rank in own)]
        )
        one: dict[str, Any] = {
            "name": sources.name(source),
            "kind": source.kind,
            "licence": sources.licence(source),
        }
        one["rows_in"] = sum(parts[rank].rows for rank in own)
        for split, place in assemble.PLACES.items():
            one[split] = int((fates.places[rows] == place).sum())
        one["kept"] = _kept(part_files, fates, rows[fates.places[rows] == assemble.TRAIN])
        listed.append(one)
    shown = merged([record.samples for record in records])
    for code, (stage, reason) in assemble.REASONS.items():
        found = _with_others(
            part_files,
            fates,
            assemble.lowest(fates.digests, np.flatnonzero(fates.places == code), dropped.SAMPLES),
        )
        if found:
            shown.setdefault(stage, {})[reason] = found
    write_json(folder / SAMPLES, {"sources": listed, "dropped": shown})


def merged(
    of_parts: Iterable[dict[str, dict[str, dict[str, list[str]]]]],
) -> dict[str, dict[str, list[list[str]]]]:
    """The samples of all parts, as they were read from disk: of each stage and reason, those of the
    lowest digests.
    """
    samples: dropped.Samples = {}
    for part in of_parts:
        for stage, by_reason in part.items():
            for reason, some in by_reason.items():
                for digest, fields in some.items():
                    dropped.keep_sample(samples, stage, reason, int(digest), fields)
    return {
        stage: {
            reason: [some[digest] for digest in sorted(some)] for reason, some in reasons.items()
        }
        for stage, reasons in samples.items()
    }


def _kept(part_files: list[Path], fates: assemble.Fates, rows: np.ndarray) -> list[dict[str, Any]]:
    numbers = np.sort(assemble.lowest(fates.digests, rows, KEPT_SAMPLES))
    rows_in_full = assemble.rows_in_full(part_files, fates, numbers, list(Pair._fields))
    pairs = [Pair(*row) for row in rows_in_full]  # type: ignore[arg-type]
    return [
        one._replace(text=dropped.shortened(one.text), en=dropped.shortened(one.en))._asdict()
        for one in pairs
    ]


def _with_others(
    part_files: list[Path], fates: assemble.Fates, rows: np.ndarray
) -> list[list[str]]:
    """Id and both texts of each row, and the same of the row kept instead, where there is
    one.
    """
    others = fates.others[rows]
    numbers = np.unique(np.concatenate([rows, others[others >= 0]]))
    found = assemble.rows_in_full(part_files, fates, numbers, ["id", "text", "en"])
    texts = {
        number: [dropped.shortened(one) for one in row]
        for number, row in zip(numbers.tolist(), found, strict=True)
    }
    return [
        texts[row] + texts.get(other, [])
        for row, other in zip(rows.tolist(), others.tolist(), strict=True)
    ]


def render(folder: Path, numbers: Histograms) -> None:
    """Writes both cards. Raises DataError when the pairs or `samples.json` cannot be read."""
    manifest, known = read_manifest(folder), read_json(folder / SAMPLES)
    reasons = [
        (stage.name, reason, count)
        for stage in manifest.stages
        for reason, count in _costliest_first(stage.dropped)
    ]
    environment = pages.environment(
        Path(__file__).parent, autoescape=lambda name: name is not None and ".html" in name
    )
    environment.filters["thousands"] = lambda value: f"{value:,}"
    environment.filters["cell"] = lambda value: SPECIAL.sub(
        r"\\\g<0>", " ".join(str(value).split())
    )  # of a Markdown table
    for template, name in (("data_card.html.jinja", PAGE), ("data_card.md.jinja", README)):
        page = environment.get_template(template).render(
            manifest=manifest,
            known=known,
            reasons=reasons,
            numbers=numbers,
            splits=SPLITS,
            total=manifest.stages[0].rows_in,
            language=LANGUAGES[str(manifest.settings.get("language", "ja"))],
        )
        with whole(folder / name) as temporary:
            temporary.write_text(page + "\n", encoding="utf-8")


def _costliest_first(counts: dict[str, int]) -> list[tuple[str, int]]:
    return sorted(
        ((reason, count) for reason, count in counts.items() if count),
        key=lambda item: (-item[1], item[0]),
    )
