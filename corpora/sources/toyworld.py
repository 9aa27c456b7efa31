"""Toyworld's scenes described in both languages; the splits' scenes are disjoint by
construction.
"""

from collections.abc import Iterator
from itertools import islice

from configs.schema.sources import ToyworldSource
from corpora.pair import SPLITS
from corpora.sources.part import BATCH_ROWS, Part, RowBatch
from corpora.toyworld import captions


def plan(source: ToyworldSource, number: int) -> list[Part]:
    return [
        Part(number, (), (0,), (source.held_out_pairs,), 0, source.held_out_pairs, "held_out"),
        Part(number, (), (0,), (source.pairs,), 0, source.pairs, "train"),
    ]


def read(source: ToyworldSource, part: Part) -> Iterator[RowBatch]:
    assert part.split in SPLITS
    captioned = captions.pairs(part.rows, part.split, source.seed)
    for start in range(0, part.rows, BATCH_ROWS):
        found = list(islice(captioned, BATCH_ROWS))
        ids = [f"toyworld:{part.split}:{row:06d}" for row in range(start, start + len(found))]
        yield RowBatch(
            ids,
            [f"toyworld_{one.phrasing}" for one in found],
            [one.ja for one in found],
            [one.en for one in found],
        )
