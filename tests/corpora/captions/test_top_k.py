"""The k best rows are those of a full sort, whatever the parts and their order."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.errors import DataError
from corpora.captions import top_k as module
from corpora.captions.top_k import top_k

# few values, so that ties are everywhere; among them both zeros, the ends of the scale and two
# neighbours
VALUES = [
    0.0,
    -0.0,
    0.25,
    -0.25,
    1e-45,
    -1e-45,
    float("inf"),
    float("-inf"),
    0.3,
    float(np.nextafter(np.float32(0.3), np.float32(1))),
]


def sorted_whole(scores: np.ndarray, ids: np.ndarray, k: int) -> np.ndarray:
    return ids[np.lexsort((ids, -scores.astype(np.float64)))][:k]


@given(
    st.lists(st.sampled_from(VALUES), max_size=60),
    st.integers(0, 70),
    st.integers(1, 6),
    st.sampled_from([1, 3, 8, 100]),
    st.randoms(),
)
def test_it_is_a_full_sort(
    values: list[float], k: int, parts: int, chunk: int, rng: random.Random
) -> None:
    scores = np.array(values, dtype=np.float32)
    ids = np.array(rng.sample(range(2**32), len(values)), dtype=np.int64)
    cut = [np.arange(len(values))[start::parts] for start in range(parts)]
    rng.shuffle(cut)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK", chunk)
        found_scores, found = top_k(((scores[rows], ids[rows]) for rows in cut), k)
        by_workers = top_k([top_k([(scores[rows], ids[rows])], k) for rows in cut], k)
    assert found.tolist() == sorted_whole(scores, ids, k).tolist() == by_workers[1].tolist()
    assert np.array_equal(found_scores, scores[[ids.tolist().index(one) for one in found]])


def test_many_rows_in_many_parts_with_the_real_chunks() -> None:
    rng = np.random.default_rng(0)
    scores = (
        rng.integers(0, 1000, 3_000_000).astype(np.float32) / 1000
    )  # three thousand rows a score
    ids = rng.permutation(len(scores)).astype(np.uint32)
    wanted = sorted_whole(scores, ids, 1_234_567)
    for parts in (1, 7):
        assert np.array_equal(
            top_k(
                zip(np.array_split(scores, parts), np.array_split(ids, parts), strict=True),
                len(wanted),
            )[1],
            wanted,
        )


def test_what_is_no_score_or_no_row_number_is_one_line() -> None:
    with pytest.raises(DataError, match="score of row 8 is not a number"):
        top_k([(np.array([1, np.nan], dtype=np.float32), np.array([7, 8]))], 0)
    with pytest.raises(DataError, match="do not fit into 32 bits"):
        top_k([(np.array([1], dtype=np.float32), np.array([2**32]))], 1)
