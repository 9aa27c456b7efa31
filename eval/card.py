"""The tables that the model card prints, from the results of both evaluations.

In:  a result as eval/compare_hidden_states/compare.py or eval/generate/generation.py measures it.
Out: what the result file holds under "card", as JSON values of distill/model_card/evaluation.py.
"""

from functools import reduce
from typing import Any

from distill.encoders.family import Family
from distill.model_card.evaluation import PaintedExample, Pictures, States, Table
from eval import rows
from eval.states.pair_numbers import whole_text

ROWS = (
    rows.TEACHER,
    rows.STUDENT,
    rows.STUDENT_ENGLISH,
    rows.BEFORE_TRAINING,
    rows.UNTRANSLATED,
)

GAP, RECALL = "noise-prediction gap", "recall@1 to English"


def columns(family: Family) -> dict[str, tuple[str, ...]]:
    """By title, the keys of a row's number."""
    place = whole_text(family)
    return {
        GAP: ("noise_gap", "value"),
        **{
            f"nMSE, {part.label}, content": ("states", name, "content", "nmse")
            for name, part in family.parts.items()
        },
        f"nMSE, {place[1]}": ("states", *place, "nmse"),
        RECALL: ("states", *place, "recall_at_1_text_en"),
        "recall@1 from English": ("states", *place, "recall_at_1_en_text"),
    }


def states(result: dict[str, Any], family: Family, language: str) -> dict[str, Any]:
    """A number that was not measured is a dash."""
    shown = columns(family)

    def number(row: dict[str, Any], keys: tuple[str, ...]) -> float | None:
        value = reduce(lambda found, key: found.get(key, {}), keys, row)
        return value if isinstance(value, float) else None

    def cell(row: dict[str, Any], keys: tuple[str, ...]) -> str:
        value = number(row, keys)
        return "–" if value is None else f"{value:.4f}"

    table = Table(
        columns=list(shown),
        rows={
            rows.label(row, language): [cell(result["rows"][row], keys) for keys in shown.values()]
            for row in ROWS
            if row in result["rows"]
        },
    )
    student = result["rows"].get(rows.STUDENT, {})
    card = States(
        pairs=result["pairs"],
        gap_pairs=result["gap_pairs"],
        gap=number(student, shown[GAP]),
        recall_at_1=number(student, shown[RECALL]),
        table=table,
    )
    return card.model_dump(mode="json")


def pictures(prompts: int, result: dict[str, Any], language: str) -> dict[str, Any]:
    found = {
        rows.label(row, language): result["rows"][row]["scene_accuracy"]
        for row in ROWS
        if "scene_accuracy" in result["rows"].get(row, {})
    }
    table = Table(
        columns=["right scenes", "95 % interval"],
        rows={
            label: [f"{one['value']:.4f}", f"{one['low']:.4f} to {one['high']:.4f}"]
            for label, one in found.items()
        },
    )
    examples = [
        PaintedExample(
            number=one["number"],
            picture=one["pictures"][rows.STUDENT],
            text=one["text"],
            en=one["en"],
        )
        for one in result["examples"]
    ]
    right = result["rows"].get(rows.STUDENT, {}).get("scene_accuracy", {})
    card = Pictures(
        prompts=prompts,
        accuracy=right.get("value"),
        table=table if found else None,
        examples=examples,
    )
    return card.model_dump(mode="json")
