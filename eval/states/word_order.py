"""Is the student sensitive to word order? With a bag of words, "red on blue" and "blue on red" give
the same picture.

In and out: numbers and prediction distances of rows in memory; nothing on disk.

Two probes, each with three numbers, all a ratio: how far the student moves when its Japanese prompt
is reordered, over how far the teacher moves when the English one is reordered alike. 1: as
sensitive as the teacher; 0: a bag of words. Squared distances, summed over pairs.
- `role_swap` (toyworld): the two things of the scene exchanged, not a word changed; `scrambled`
  (any corpus): the words in a random order.
- `pooled`: the pooled vector where there is one, over the teacher's variance per dimension;
  `states`: the mean state of the prompt, in which a mere permutation of the states does not show;
  `noise`: the base UNet's prediction, what a picture feels of it.
"""

from typing import Any

import torch

from eval.rows import (
    STUDENT,
    STUDENT_SCRAMBLED,
    STUDENT_SWAPPED,
    TEACHER,
    TEACHER_SCRAMBLED,
    TEACHER_SWAPPED,
)
from eval.states.noise_gap import Distances
from eval.states.pair_numbers import POOLED, RowNumbers

PROBES = {
    "role_swap": (STUDENT_SWAPPED, TEACHER_SWAPPED),
    "scrambled": (STUDENT_SCRAMBLED, TEACHER_SCRAMBLED),
}


def comparisons(names: list[str]) -> list[tuple[str, str]]:
    """What `noise_gap.distances` must compare for the probes whose rows are in `names`."""
    return [
        couple
        for student, teacher in PROBES.values()
        if student in names
        for couple in ((student, STUDENT), (teacher, TEACHER))
    ]


def measure(rows: dict[str, RowNumbers], base: Distances) -> dict[str, dict[str, Any]]:
    """`{probe: {"pooled", "states", "noise", "pairs"}}`; `pairs` are those the probe reorders, a
    number is None where the teacher does not move.
    """
    found = {}
    for probe, (student, teacher) in PROBES.items():
        if student in rows:
            moved = [_moved(rows[student], rows[STUDENT]), _moved(rows[teacher], rows[TEACHER])]
            noise = [
                float(base.squared[names].sum())
                for names in ((student, STUDENT), (teacher, TEACHER))
            ]
            found[probe] = {
                kind: _ratio(*(side[kind] for side in moved)) for kind in ("pooled", "states")
            }
            found[probe] |= {"noise": _ratio(*noise), "pairs": int(moved[1]["pairs"])}
    return found


def _moved(reordered: RowNumbers, row: RowNumbers) -> dict[str, float]:
    states_B = (reordered.whole_prompt() - row.whole_prompt()).square().mean(dim=1)
    pooled_B = torch.zeros_like(states_B)
    if POOLED in row.at:
        difference_BP = reordered.at[POOLED].vector_BD - row.at[POOLED].vector_BD
        pooled_B = (difference_BP.double().square() / row.moments.variance(POOLED)).mean(dim=1)
    return {
        "pooled": pooled_B.sum().item(),
        "states": states_B.sum().item(),
        "pairs": float((pooled_B if POOLED in row.at else states_B).count_nonzero()),
    }


def _ratio(student: float, teacher: float) -> float | None:
    return student / teacher if teacher > 0 else None
