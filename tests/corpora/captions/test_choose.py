"""The captions that are kept: the best of equal ones, and of these the best `keep`."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from corpora.captions import choose

# few values, so that ties are everywhere; both zeros, the ends of the scale and none
VALUES = [0.0, -0.0, 0.25, -0.25, 1e-45, float("inf"), float("-inf"), float("nan")]


@given(
    st.lists(st.tuples(st.sampled_from(VALUES), st.integers(0, 9)), max_size=40),
    st.one_of(st.none(), st.integers(1, 45)),
)
def test_choose_is_a_full_sort(rows: list[tuple[float, int]], keep: int | None) -> None:
    values = np.array([value for value, _ in rows], np.float32)
    digests = np.array([digest for _, digest in rows], np.uint64)
    ranked = sorted(np.flatnonzero(~np.isnan(values)), key=lambda row: (-values[row], row))
    distinct = [
        row for i, row in enumerate(ranked) if digests[row] not in digests[ranked[:i]].tolist()
    ]
    kept, lost = choose.choose(values, {}, digests, keep)
    assert kept.tolist() == sorted(distinct[:keep])
    assert lost["rank"]["not_among_the_best"].tolist() == sorted(distinct[len(kept) :])
    assert lost["deduplicate"]["equal_caption"].tolist() == sorted(set(ranked) - set(distinct))
