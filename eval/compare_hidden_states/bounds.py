"""Bounds on the numbers of a comparison, for CI.

In:  `PATH=VALUE` words, and a result of eval/compare_hidden_states/compare.py. PATH is where the
     number stands in compare_hidden_states.json: the keys, joined by dots.
Out: one DataError line that names each broken bound.
"""

import difflib
from typing import Any

from configs.errors import DataError, RecipeError

SMALLER_IS_BETTER = {
    "noise_gap",
    "refiner_noise_gap",
    "nmse",
    "relative_squared_error",
    "mean_pairwise_cosine",
}
PARTS = ("rows.", "word_order.", "forms.", "weight_response.")
EXAMPLE = "rows.student.noise_gap.value=0.05"
HELP = (
    "end with code 3 when a number is worse than VALUE, after the results are written. PATH: the "
    "keys of compare_hidden_states.json, joined by dots. VALUE is the largest allowed for paths "
    f"with {', '.join(sorted(SMALLER_IS_BETTER))}, the smallest allowed for all others. Example: "
    f"--fail-under {EXAMPLE} rows.student.states.pooled.pooled.recall_at_1_text_en=0.9"
)


def numbers(value: Any, path: str = "") -> dict[str, float]:
    """Every number of a JSON object by its path; lists, texts and nulls are left out."""
    if isinstance(value, dict):
        prefix = f"{path}." if path else ""
        parts = [numbers(one, f"{prefix}{key}") for key, one in value.items()]
        return {name: number for part in parts for name, number in part.items()}
    return {path: value} if isinstance(value, (int, float)) else {}


def smaller_is_better(path: str) -> bool:
    return not SMALLER_IS_BETTER.isdisjoint(path.split("."))


def parse(words: list[str]) -> dict[str, float]:
    """`PATH=VALUE` words. Raises RecipeError (a usage error)."""
    bounds = {}
    for word in words:
        path, _, value = word.rpartition("=")
        if not path.startswith(PARTS):
            problem = f"a path begins with {', '.join(PARTS[:-1])} or {PARTS[-1]}"
        else:
            try:
                bounds[path] = float(value)
                problem = "NaN is no bound" if bounds[path] != bounds[path] else ""
            except ValueError:
                problem = f"{value!r} is no number"
        if problem:
            raise RecipeError(f"--fail-under {word!r}: {problem}; for example {EXAMPLE}")
    return bounds


def check(result: dict[str, Any], bounds: dict[str, float]) -> None:
    """Raises DataError when a bound is broken, or its path does not exist in the result."""
    found, broken = numbers(result) if bounds else {}, []
    for path, bound in bounds.items():
        if path not in found:
            close = ", ".join(difflib.get_close_matches(path, found, cutoff=0.5)) or "none"
            broken.append(f"{path} was not measured in this run (similar paths: {close})")
        elif found[path] > bound if smaller_is_better(path) else found[path] < bound:
            side = "above" if smaller_is_better(path) else "below"
            broken.append(f"{path} is {found[path]:.4g}, {side} its bound {bound:g}")
    if broken:
        raise DataError(f"{'; '.join(broken)}: train longer, or change the bound")
