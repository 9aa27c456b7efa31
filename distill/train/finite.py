"""Explains in one line why a step's numbers were not finite: which tensors, which pairs, and what
to do about it.

A step is a pure function of (seed, step) and the weights, and a skipped step has changed no weight.
So the step is computed again here, and its intermediate results are checked.
"""

from typing import Any, NamedTuple

import numpy as np
import torch

from configs.schema.distill import Distill
from distill.encoders.teacher import Encoding
from distill.parallel.engine import in_all
from distill.tokens.batches import EMPTY_PROMPT
from distill.train.work import Work

NAMED_AT_MOST = 10  # pairs or tensors of a message
KEPT = "checkpoints made so far are kept"


class Found(NamedTuple):
    """What is not finite: `teacher` and `student` are the pairs (rows of the training pairs) whose
    states are not, `terms` the loss's terms, `gradients` the parameters whose gradient is not, and
    `gradients_of` the pairs of the micro-batch that gave it.
    """

    teacher: list[int]
    student: list[int]
    terms: list[str]
    gradients: list[str]
    gradients_of: list[int]


def explain(work: Work, settings: Distill, step: int) -> str:
    """Which numbers of this step (counted from 0) are not finite, and what can be done about it."""
    weights = work.engine.not_finite()
    everywhere = in_all(lambda: _look(work, step))
    merged: list[Any] = [
        [item for one in everywhere for item in one[i]] for i in range(len(Found._fields))
    ]
    found = Found(*merged)
    narrow = " or set distill.precision=fp32" if settings.precision == "bf16" else ""
    slower = f"start another run folder with a lower distill.learning_rate{narrow} ({KEPT})"
    if found.teacher:
        remedy = f"the teacher's weights are damaged or overflow: fetch them again{narrow}"
        return f"the teacher's states are not finite for {_pairs(found.teacher)}; {remedy}"
    if weights:
        return f"{_listed(weights)} not finite; {slower}"
    if found.student:
        where = f"the student's states are not finite for {_pairs(found.student)}"
        return f"{where}, though its weights are: they have grown too large; {slower}"
    if found.terms:
        files = "teacher_statistics, query_bank or random_attention.safetensors"
        remedy = f"{files} in the run's distill folder is damaged: remove them to have them remade"
        return f"all states are finite, but {_listed(found.terms)} not; {remedy}"
    if found.gradients:
        where = f"the gradient of {_listed(found.gradients)} not finite, though the loss is"
        return f"{where}, with {_pairs(found.gradients_of)}; {slower}"
    return f"every number is finite but the gradient's norm; {slower}"


def _look(work: Work, step: int) -> Found:
    """Checks this process's micro-batches of the step. Gradients are computed until one is not
    finite.
    """
    found = Found([], [], [], [], [])
    counts, micro_batches = work.of_step(work.batches, step)
    names = [name for name, parameter in work.student.named_parameters() if parameter.requires_grad]
    trained = [work.student.get_parameter(name) for name in names]
    for micro_rows, batch in micro_batches:
        sides = work.sides(work.student, batch)
        bad_teacher_B, bad_student_B = _bad_rows(sides.teacher), _bad_rows(sides.student)
        found.teacher.extend(_numbers(micro_rows[bad_teacher_B]))
        found.student.extend(_numbers(micro_rows[bad_student_B]))
        if bad_teacher_B.any() or bad_student_B.any() or found.gradients:
            continue
        terms = work.loss.terms(sides, counts, step)
        found.terms.extend(name for name, term in terms.items() if not torch.isfinite(term))
        if not found.terms:
            gradients = torch.autograd.grad(terms["loss/total"], trained, allow_unused=True)
            bad = [
                name
                for name, one in zip(names, gradients, strict=True)
                if one is not None and not one.isfinite().all()
            ]
            found.gradients.extend(bad)
            found.gradients_of.extend(_numbers(micro_rows) if bad else [])
    return found


def _bad_rows(encoding: Encoding) -> np.ndarray:
    """(B,) whether anything computed of a prompt is not finite."""
    finite_TB = [tensor.isfinite().flatten(1).all(dim=1) for tensor in encoding.named().values()]
    return ~torch.stack(finite_TB).all(dim=0).cpu().numpy()


def _numbers(rows: np.ndarray) -> list[int]:
    return [int(number) for number in rows["pair"]]


def _pairs(numbers: list[int]) -> str:
    """`pairs 3, 17 (rows of the training pairs, from 0)`."""
    names = [
        "the empty prompt" if number == EMPTY_PROMPT else f"pair {number}"
        for number in sorted(set(numbers))
    ]
    return f"{_cut(names)} (rows of the training pairs, counted from 0)"


def _listed(names: list[str]) -> str:
    return f"{_cut(sorted(set(names)))} {'is' if len(set(names)) == 1 else 'are'}"


def _cut(names: list[str]) -> str:
    more = f" and {len(names) - NAMED_AT_MOST} more" if len(names) > NAMED_AT_MOST else ""
    return ", ".join(names[:NAMED_AT_MOST]) + more
