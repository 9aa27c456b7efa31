"""Scenes of our own worlds described in both languages; the splits' scenes are disjoint by
construction.
"""

from collections.abc import Iterator
from itertools import islice

from configs.schema.sources import WorldSource
from corpora import worlds
from corpora.pair import SPLITS
from corpora.sources.part import BATCH_ROWS, Part, RowBatch


def plan(source: WorldSource, number: int) -> list[Part]:
    return [
        Part(number, (), (0,), (source.held_out_pairs,), 0, source.held_out_pairs, "held_out"),
        Part(number, (), (0,), (source.pairs,), 0, source.pairs, "train"),
    ]


def read(source: WorldSource, part: Part) -> Iterator[RowBatch]:
    assert part.split in SPLITS
    captioned = worlds.of_source(source).pairs(part.rows, part.split, source.seed)
    for start in range(0, part.rows, BATCH_ROWS):
        found = list(islice(captioned, BATCH_ROWS))
        ids = [f"{source.kind}:{part.split}:{row:06d}" for row in range(start, start + len(found))]
        yield RowBatch(
            ids,
            [f"{source.kind}_{one.phrasing}" for one in found],
            [one.text for one in found],
            [one.en for one in found],
        )
