"""The data card: where the pairs come from, what was dropped and why, what the kept ones are like.
It is made from files alone.

In:  of `gather`: what the pipeline knows when it ends. Of `render`: `manifest.json`, `samples.json`
     and the shards of `<run>/pairs/`.
Out: `<run>/pairs/samples.json`: rows by source, and texts to look at; `<run>/pairs/data_card.html`,
     which holds all it shows; `README.md`, the same numbers as the Hugging Face Hub shows them
     above a data set. Which texts are shown depends on the texts alone: those of the lowest
     digests.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from configs.files import read_json, whole, write_json
from configs.languages import LANGUAGES
from configs.schema.corpora import Corpora
from corpora import assemble, dropped, sources
from corpora.clean import PartRecord
from corpora.pair import SPLITS, Pair, PairsManifest, read_batches, read_manifest

SAMPLES, PAGE, README = "samples.json", "data_card.html", "README.md"
KEPT_SAMPLES = 5  # a source
BINS = 20
STEPS = (
    1,
    2,
    5,
    10,
    20,
    50,
    100,
    200,
    500,
    1000,
    2000,
    5000,
    10_000,
    20_000,
    50_000,
)  # characters a bin
LONGEST = STEPS[-1] * BINS  # longer texts count as this long
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


def render(folder: Path) -> None:
    """Writes both cards. Raises DataError when the pairs or `samples.json` cannot be read."""
    manifest, known = read_manifest(folder), read_json(folder / SAMPLES)
    numbers = _Numbers(manifest, folder)
    reasons = [
        (stage.name, reason, count)
        for stage in manifest.stages
        for reason, count in _costliest_first(stage.dropped)
    ]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=lambda name: name is not None and ".html" in name,  # texts come from the web
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
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


class _Numbers:
    """Of all pairs of both splits: how long their texts are, how unlike in length, how sure the
    language identifier was.
    """

    def __init__(self, manifest: PairsManifest, folder: Path) -> None:
        lengths = {side: np.zeros(LONGEST + 1, dtype=np.int64) for side in ("text", "en")}
        ratios = np.zeros(BINS, dtype=np.int64)
        probabilities = {side: np.zeros(BINS, dtype=np.int64) for side in ("text", "en")}
        for split in SPLITS:
            for batch in read_batches(folder, split):
                columns = {name: batch.column(name) for name in batch.schema.names}
                for side in ("text", "en"):
                    characters = np.minimum(pc.utf8_length(columns[side]).to_numpy(), LONGEST)
                    lengths[side] += np.bincount(characters, minlength=LONGEST + 1)
                    found = columns[f"{side}_language_probability"].to_numpy()
                    probabilities[side] += np.bincount(
                        np.minimum((found * BINS).astype(int), BINS - 1), minlength=BINS
                    )
                text, en = (
                    pc.binary_length(columns[side].cast(pa.binary())).to_numpy()
                    for side in ("text", "en")
                )
                ratio = np.maximum(text, en) / np.maximum(np.minimum(text, en), 1)
                ratios += np.bincount(
                    np.minimum((2 * (ratio - 1)).astype(int), BINS - 1), minlength=BINS
                )
        self.lengths = {side: _length_bars(counts) for side, counts in lengths.items()}
        self.quantiles = {
            side: {share: _quantile(counts, share) for share in (0.05, 0.5, 0.95, 1.0)}
            for side, counts in lengths.items()
        }
        labels = [f"{bin / BINS:.2f} to {(bin + 1) / BINS:.2f}" for bin in range(BINS)]
        self.probabilities = {
            side: _bars(counts, labels)[::-1] for side, counts in probabilities.items()
        }
        edges = [1 + bin / 2 for bin in range(BINS)]
        self.ratios = _bars(
            ratios,
            [
                *(f"{edge:.1f} to {edge + 0.5:.1f}" for edge in edges[:-1]),
                f"{edges[-1]:.1f} and more",
            ],
        )


def _length_bars(counts: np.ndarray) -> list[tuple[str, int, float]]:
    """Twenty bins, of a width that leaves hardly a text to the last one."""
    usual = _quantile(counts, 0.995)
    step = next((step for step in STEPS if step * (BINS - 1) > usual), STEPS[-1])
    starts = np.arange(BINS) * step
    binned = np.add.reduceat(counts, starts)
    return _bars(
        binned,
        [
            *(
                str(start) if step == 1 else f"{start} to {start + step - 1}"
                for start in starts[:-1]
            ),
            f"{starts[-1]} and more",
        ],
    )


def _bars(counts: np.ndarray, labels: list[str]) -> list[tuple[str, int, float]]:
    """Label, rows, and the bar's length as a share of the longest, of the bins up to the last that
    holds a row.
    """
    filled = np.flatnonzero(counts)
    longest = max(1, int(counts.max()))
    return [
        (label, count, count / longest)
        for label, count in zip(
            labels, counts.tolist()[: filled[-1] + 1 if len(filled) else 0], strict=False
        )
    ]


def _quantile(counts: np.ndarray, share: float) -> int:
    """The smallest length that at least this share of the texts does not exceed."""
    return int(np.searchsorted(np.cumsum(counts), share * counts.sum()))
