"""Do both sides mean the same? Pairs that a multilingual sentence encoder finds no nearer than the rest of the text are dropped.

In:  cleaned rows of one part, in order, and the recipe's `corpora.semantic`.
Out: those whose margin is high enough. The margin (Artetxe and Schwenk 2019, "ratio") is the cosine of the two sides over the mean cosine of each
     with its nearest neighbours in the other language: it forgives an encoder that finds all texts alike, as e5 does.

Neighbours are looked for among BLOCK_ROWS rows of the part, the last block being up to half as long or half as long again: so the same rows are
compared whatever the number of workers. Cosines are floating-point sums, so another machine may judge a pair at the very threshold otherwise.
"""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa

from configs.files import file_sha256
from configs.schema import Semantic, resolve_model
from corpora.dropped import Drops
from corpora.pair import Input

BLOCK_ROWS = 4096
# Among fewer rows a text hardly meets another one like it: every pair would stand out, or none. Parts as small as that are not judged.
FEWEST_ROWS = 64


def model_files(settings: Semantic) -> list[Input]:
    """The encoder's files as inputs on record; none for a hub name, whose files are wherever its library keeps them."""
    folder = Path(resolve_model(settings.model))
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else []
    return [
        Input(source="semantic", path=f"{settings.model}/{name}", bytes=(folder / name).stat().st_size, sha256=file_sha256(folder / name))
        for name in names
    ]


@lru_cache(maxsize=1)
def load(model: str) -> Any:
    """The encoder, read once a process. Raises DataError."""
    from corpora import sentence_encoder  # loads torch

    return sentence_encoder.load(resolve_model(model), "corpora.semantic.model")


def kept(tables: Iterator[pa.Table], settings: Semantic, drops: Drops) -> Iterator[pa.Table]:
    """The rows that are near enough, in order; the others go to `drops`."""
    for block in blocks(tables):
        if block.num_rows < FEWEST_ROWS:
            yield block
            continue
        ids, ja, en = (block.column(name).to_pylist() for name in ("id", "ja", "en"))
        scores = margins(ja, en, settings)
        near = [score >= settings.min_margin for score in scores]
        for id, one, other, score, is_near in zip(ids, ja, en, scores, near, strict=True):
            if not is_near:
                drops.add("semantic", "low_margin", id, one, other, score)
        yield block.filter(pa.array(near, pa.bool_()))


def blocks(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """The same rows cut anew: BLOCK_ROWS at a time, and what is left over by itself or, if it is short, with the block before."""
    pending: pa.Table | None = None
    for table in tables:
        pending = table if pending is None else pa.concat_tables([pending, table])
        while pending.num_rows >= BLOCK_ROWS + BLOCK_ROWS // 2:
            yield pending.slice(0, BLOCK_ROWS)
            pending = pending.slice(BLOCK_ROWS)
    if pending is not None:
        yield pending


def margins(ja: list[str], en: list[str], settings: Semantic) -> list[float]:
    """The margin of each pair among all of them. Raises DataError if the encoder gives no numbers."""
    import torch

    from corpora import sentence_encoder

    encoder = load(settings.model)
    ja_RD, en_RD = (sentence_encoder.embed(encoder, texts, settings.prompt, settings.batch_size, show_progress=False) for texts in (ja, en))
    cosine_RR = ja_RD @ en_RD.T
    count = min(settings.neighbors, len(ja))
    around_R = (cosine_RR.topk(count, dim=1).values.mean(dim=1) + cosine_RR.topk(count, dim=0).values.mean(dim=0)) / 2
    # a text of unknown words has no direction: its cosines, and its neighbours', are zero
    margin_R = torch.where(around_R > 0, cosine_RR.diagonal() / around_R, 0.0)
    result: list[float] = margin_R.tolist()
    return result
