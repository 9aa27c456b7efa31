"""The captions' data card: the same page as the pairs', with other stages.

In:  the tasks' records of dropped rows, the rows dropped by `choose`, the finished shards.
Out: `samples.json`, `data_card.html` and `README.md` beside the shards.
"""

from collections import Counter
from heapq import nsmallest
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from configs.files import write_json
from configs.schema.captions import Captions
from corpora import assemble, dropped
from corpora.captions.choose import Rows
from corpora.captions.clean import Cleaned
from corpora.card import data_card
from corpora.card.histograms import Histograms
from corpora.filters.deduplicate import digest
from corpora.pair import Pair, PairsManifest, read_batches


def write(
    captions: Captions,
    records: list[dropped.DroppedRecord],
    cleaned: Cleaned,
    lost: dict[str, Rows],
    manifest: PairsManifest,
    histograms: Histograms,
    folder: Path,
) -> None:
    shown = data_card.merged(record.samples for record in records)
    digests = cleaned.column("text_digest")
    for stage, reasons in lost.items():
        for reason, rows in reasons.items():
            chosen = np.sort(assemble.lowest(digests, rows, dropped.SAMPLES))
            if len(chosen):
                found = cleaned.take(chosen, ["id", "text"]).to_pylist()
                shown.setdefault(stage, {})[reason] = [
                    [row["id"], dropped.shortened(row["text"]), ""] for row in found
                ]
    # rows in other languages and unreadable rows have no samples
    every = {
        stage.name: {reason: shown.get(stage.name, {}).get(reason, []) for reason in stage.dropped}
        for stage in manifest.stages
    }
    counts = {"rows_in": manifest.stages[0].rows_in, "train": manifest.rows("train"), "held_out": 0}
    licences, kept = _look(folder)
    named = ", ".join(f"{licence} ({count:,})" for licence, count in licences.most_common(5))
    source = {
        "name": captions.source.name,
        "kind": "laion",
        "licence": named,
        **counts,
        "kept": kept,
    }
    write_json(folder / data_card.SAMPLES, {"sources": [source], "dropped": every})
    data_card.render(folder, histograms)


def _look(folder: Path) -> tuple[Counter[str], list[dict[str, Any]]]:
    """How many rows have each licence, and the pairs of the lowest digests as samples."""
    licences: Counter[str] = Counter()
    kept: list[tuple[int, dict[str, Any]]] = []
    for batch in read_batches(folder, "train", list(Pair._fields)):
        licences.update(batch.column("licence").to_pylist())
        kept += [(digest(row["text"], row["en"]), row) for row in batch.to_pylist()]
        kept = nsmallest(data_card.KEPT_SAMPLES, kept, key=itemgetter(0))
    return licences, [
        {**row, "text": dropped.shortened(row["text"]), "en": dropped.shortened(row["en"])}
        for _, row in kept
    ]
