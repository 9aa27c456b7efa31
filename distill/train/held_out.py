"""The loss on held-out pairs: the terms of training, on prompts that training never sees.

In:  `<run>/pairs/held_out-*.parquet`.
Out: `val/...` of a row of `metrics.jsonl`.

Every evaluation reads the same prompts, truncated at the same places, with the same layers and
queries: two of them differ by the weights alone. Batches and draws are pure functions of the seed,
so an evaluation changes nothing in the training.
"""

from pathlib import Path
from typing import Any

import torch

from configs.schema.distill import Distill
from corpora.pair import read_pairs
from distill.parallel.engine import all_reduce_sum
from distill.tokens import store
from distill.tokens.batches import Batches, special_ids
from distill.train.work import HeldOut, Work

PROMPTS = 256  # at least, in whole batches of the training's size


def load(settings: Distill, pairs: Path, tokenizers: dict[str, Any]) -> HeldOut | None:
    """None without held-out pairs. Raises DataError for pairs that are damaged.

    Batches are made up as in training (empty, English and full-length prompts), but for
    `source_weights`, pairs drawn more often and composed prompts.
    """
    count = -(-PROMPTS // settings.batch_size)
    found = list(read_pairs(pairs, "held_out", count * settings.batch_size))
    if not found:
        return None
    plain = settings.model_copy(
        update={"source_weights": {}, "repeat_words_below": 0, "composed_share": 0.0}
    )
    tokens = store.in_memory(found, tokenizers)
    return HeldOut(Batches(plain, tokens, special_ids(tokenizers)), count)


@torch.no_grad()
def losses(work: Work, step: int) -> dict[str, float]:
    """The mean of each term over the held-out batches, as `val/total` and so on; {} without
    held-out pairs.

    The terms' weights are those of `step` (counted from 0). The weights are the student's own, not
    their running average. Every rank must call this.
    """
    if work.held_out is None:
        return {}
    batches, count = work.held_out.batches, work.held_out.count
    sums: dict[str, torch.Tensor] = {}
    for number in range(count):
        counts, micro_batches = work.of_step(batches, number)
        for _, batch in micro_batches:
            sides = work.sides(work.student, batch)
            for name, term in work.loss.terms(sides, counts, step, draw=number).items():
                sums[name] = sums[name] + term if name in sums else term
    means = all_reduce_sum(work.stack([*sums.values()])) / count
    names = [f"val/{name.removeprefix('loss/')}" for name in sums]
    return dict(zip(names, means.tolist(), strict=True))
