"""Has the student collapsed, so that different prompts give almost the same states? A small error
can hide it: the mean has nMSE 1 everywhere.

In and out: numbers of rows in memory; nothing on disk.
"""

from typing import Any

from eval.rows import STUDENT
from eval.states import metrics
from eval.states.pair_numbers import POOLED, Place, RowNumbers

SMALLEST_RATIO = 0.5


def measure(row: RowNumbers, teacher: RowNumbers) -> dict[str, dict[str, Any]]:
    """By place: `effective_rank` of the prompts' vectors, its `effective_rank_ratio` to the
    teacher's, `mean_pairwise_cosine`.

    Only pairs that have the region are looked at; a place with fewer than two is left out.
    """
    places: dict[str, Place] = {"pooled": POOLED} if POOLED in row.at else {}
    places |= {f"{encoder}_content": (encoder, "content") for encoder in row.encoders}
    found = {}
    for name, place in places.items():
        present_B = row.at[place].positions_B > 0
        if present_B.sum() >= 2:
            vectors_BD, teacher_BD = (
                row.at[place].vector_BD[present_B],
                teacher.at[place].vector_BD[present_B],
            )
            rank, teacher_rank = (
                metrics.effective_rank(vectors_BD),
                metrics.effective_rank(teacher_BD),
            )
            found[name] = {
                "effective_rank": rank,
                "effective_rank_ratio": rank / teacher_rank if teacher_rank > 0 else None,
                "mean_pairwise_cosine": metrics.mean_pairwise_cosine(
                    vectors_BD, teacher_BD.mean(dim=0)
                ),
            }
    return found


def warnings(rows: dict[str, dict[str, Any]]) -> list[str]:
    """A line for each place at which the student spreads over less than half as many directions as
    the teacher.
    """
    return [
        f"collapse: the student's {place} vectors spread over "
        f"{numbers['effective_rank_ratio']:.2f} times the teacher's directions"
        for place, numbers in rows[STUDENT]["collapse"].items()
        if numbers["effective_rank_ratio"] is not None
        and numbers["effective_rank_ratio"] < SMALLEST_RATIO
    ]
