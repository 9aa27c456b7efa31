"""Which pictures a step sees, and everything that is drawn at random for each.

Pure functions of the seed, the step and the picture's number in the batch: a resumed run sees the
same, and so does any number of processes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


class Epochs:
    """Batches of one bucket each. In an epoch every picture is seen once; a bucket's last batch is
    filled up with pictures of the same bucket.

    `rows`: by bucket the numbers of its pictures.
    """

    def __init__(self, rows: Mapping[Any, np.ndarray], batch_size: int, seed: int) -> None:
        self._rows = [rows[bucket] for bucket in sorted(rows) if len(rows[bucket])]
        assert self._rows, "no picture"
        self._batch_size, self._seed = batch_size, seed
        self.steps = sum(-(-len(one) // batch_size) for one in self._rows)

    def batch(self, step: int) -> np.ndarray:
        """(batch_size,) numbers of pictures."""
        epoch, place = divmod(step, self.steps)
        rng = np.random.default_rng([self._seed, epoch])
        batches: list[np.ndarray] = []
        for rows in self._rows:
            count = -(-len(rows) // self._batch_size) * self._batch_size
            batches += np.split(np.resize(rng.permutation(rows), count), count // self._batch_size)
        return batches[rng.permutation(len(batches))[place]]


@dataclass(frozen=True)
class Sample:
    """What is drawn for one picture of a batch.

    `caption`: a number from 0 to 1 that chooses among its captions. `empty`: whether it is seen
    without a caption; `zeros`: whether that is told by zeros (a pipeline without a negative prompt)
    or by the encoded empty prompt, where the family knows both. `timestep`: 0 to `timesteps` - 1.
    `generator`: for its latents and its noise.
    """

    caption: float
    empty: bool
    zeros: bool
    timestep: int
    generator: torch.Generator


def sample(seed: int, step: int, number: int, empty_share: float, timesteps: int) -> Sample:
    """Of picture `number` of the batch of `step`."""
    rng = np.random.default_rng([seed, step, number])
    caption, empty, zeros = rng.random(3)
    return Sample(
        caption=float(caption),
        empty=bool(empty < empty_share),
        zeros=bool(zeros < 0.5),
        timestep=int(rng.integers(timesteps)),
        generator=torch.Generator().manual_seed(int(rng.integers(2**63))),
    )
