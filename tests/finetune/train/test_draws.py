"""What a step sees at random: every picture once an epoch, captions left out as often as asked."""

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.train.draws import Epochs, sample


@settings(max_examples=50, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=5).filter(any),
    batch_size=st.integers(1, 9),
    seed=st.integers(0, 99),
)
def test_an_epoch_shows_every_picture_in_batches_of_one_bucket(
    sizes: list[int], batch_size: int, seed: int
) -> None:
    bounds = np.cumsum([0, *sizes])
    rows = {(64, i): np.arange(bounds[i], bounds[i + 1]) for i in range(len(sizes))}
    epochs = Epochs(rows, batch_size, seed)
    for first in (0, epochs.steps):
        batches = [epochs.batch(step) for step in range(first, first + epochs.steps)]
        seen = Counter(int(row) for batch in batches for row in batch)
        assert set(seen) == set(range(sum(sizes)))
        for batch in batches:
            assert len(batch) == batch_size
            assert any(set(batch.tolist()) <= set(own.tolist()) for own in rows.values())
        for own in rows.values():  # none is seen much more often than another of its bucket
            counts = [seen[int(row)] for row in own]
            assert not counts or max(counts) - min(counts) <= 1
    assert epochs.batch(3).tolist() == Epochs(rows, batch_size, seed).batch(3).tolist()


def test_one_caption_in_ten_is_left_out_and_others_in_the_next_epoch() -> None:
    drawn = [sample(0, step, number, 0.1, 1000) for step in range(100) for number in range(100)]
    assert abs(sum(one.empty for one in drawn) / len(drawn) - 0.1) < 0.01
    without = [{number for number in range(100) if drawn[100 * s + number].empty} for s in (0, 1)]
    assert without[0] != without[1]
    assert min(one.timestep for one in drawn) == 0 and max(one.timestep for one in drawn) == 999
    again = sample(0, 7, 3, 0.1, 1000)
    assert again.timestep == drawn[703].timestep and again.caption == drawn[703].caption
    assert again.generator.initial_seed() == drawn[703].generator.initial_seed()
