"""The comparison for a terminal of 120 columns: the main numbers of every row; all others are in
the JSON and the report.

In:  a result of eval/compare_hidden_states/compare.py.
Out: text.
"""

import textwrap
from typing import Any

from distill.encoders.family import Family
from eval.states.pair_numbers import whole_text

WIDTH = 120
COLUMNS = (
    ("nMSE", "nmse"),
    ("cosine", "centred_cosine"),
    ("R@1 to en", "recall_at_1_text_en"),
    ("from en", "recall_at_1_en_text"),
)


def table(result: dict[str, Any], family: Family) -> str:
    """One line a row, then the student's probes and warnings."""
    with_refiner = any("refiner_noise_gap" in row for row in result["rows"].values())
    refiner = "refiner" if with_refiner else ""
    place = whole_text(family)
    groups = (
        f"{'':<33}{'noise-prediction gap':>28}{refiner:>8}{place[1]:>9}{'':>29}{'content nMSE':>11}"
    )
    parts = {name: f"-{part.label.removeprefix('CLIP-')}" for name, part in family.parts.items()}
    heads = f"{'row':<33}{'(95 % interval)':>28}{'gap' if with_refiner else '':>8}" + "".join(
        f"{head:>{9 if i < 2 else 10}}" for i, (head, _) in enumerate(COLUMNS)
    )
    heads += "".join(f"{head:>{6 + i}}" for i, head in enumerate(parts.values()))
    lines = [groups.rstrip(), heads.rstrip()]
    for name, row in result["rows"].items():
        gap, pooled, shown = (
            row["noise_gap"],
            row["states"][place[0]][place[1]],
            name if len(name) <= 32 else f"{name[:31]}…",
        )
        refiner = (
            f"{_short(row['refiner_noise_gap']['value']):>8}"
            if "refiner_noise_gap" in row
            else " " * 8
        )
        cells = "".join(
            f"{pooled[key]:>{9 if i < 2 else 10}.3f}" for i, (_, key) in enumerate(COLUMNS)
        )
        content = "".join(
            f"{row['states'][encoder]['content']['nmse']:>{width}.2f}"
            if "content" in row["states"][encoder]
            else f"{'-':>{width}}"
            for width, encoder in enumerate(parts, 6)
        )
        interval = f"({_short(gap['low'])} to {_short(gap['high'])})"
        lines.append(f"{shown:<33}{_short(gap['value']):>9}{interval:>19}{refiner}{cells}{content}")
    lines.append(
        f"{result['pairs']} pairs, gaps over {result['gap_pairs']}; nMSE and gap: 0 is equal, 1 is "
        "the teacher's mean, or an empty prompt"
    )
    for probe, numbers in result["word_order"].items():
        cells = ", ".join(
            f"{kind} {numbers[kind]:.2f}"
            for kind in ("pooled", "states", "noise")
            if numbers[kind] is not None
        )
        lines.append(
            f"{probe.replace('_', ' ')}: the student moves {cells} times as far as the teacher (0: "
            "a bag of words)"
        )
    if forms := result.get("forms"):
        gaps = (f"{form} {_short(one['noise_gap']['value'])}" for form, one in forms.items())
        lines += textwrap.wrap(f"gap by form of the prompt: {', '.join(gaps)}", WIDTH)
    if weight := result.get("weight_response"):
        cosine, size = (
            f"{weight[key]['value']:.3f} ({weight[key]['low']:.3f} to {weight[key]['high']:.3f})"
            for key in ("cosine", "size")
        )
        lines.append(
            f"a word of weight {weight['weight']}: moves the prediction as in English by a cosine "
            f"of {cosine}, {size} times as far"
        )
    return "\n".join([*lines, *(f"warning: {line}" for line in result["warnings"])])


def _short(value: float) -> str:
    """Six characters, also for a row with a very large gap."""
    return f"{value:.4f}"[:6]
