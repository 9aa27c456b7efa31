"""Bounds on the student's numbers, for CI: names, which side of a bound is good, and which bounds
are broken.

In:  `NAME=VALUE` words, and a result of eval/compare_hidden_states/compare.py.
Out: one DataError line that names each broken bound. No torch is imported here: `--help` lists the
     names.
"""

from typing import Any

from configs.errors import DataError, RecipeError

STUDENT = "japanese_student"
PLACES = {
    f"{encoder}_{region}": (encoder, region)
    for encoder in ("clip_l", "clip_bigg")
    for region in ("bos", "content", "eos", "pads")
} | {"pooled": ("pooled", "pooled")}
RECALLS = tuple(f"recall_at_{k}_{direction}" for direction in ("ja_en", "en_ja") for k in (1, 10))
METRICS = ("nmse", "centred_cosine", *RECALLS, "linear_cka")
COLLAPSE = ("pooled", "clip_l_content", "clip_bigg_content")
ERRORS = (
    "noise_gap",
    "nmse",
    "relative_squared_error",
)  # a name that ends so is better when smaller; every other when larger

NAMES = (
    "noise_gap",
    "refiner_noise_gap",
    *(f"{place}_{metric}" for place in PLACES if not place.endswith("bos") for metric in METRICS),
    *(f"{place}_relative_squared_error" for place in PLACES if place.endswith("bos")),
    *(f"{place}_effective_rank_ratio" for place in COLLAPSE),
    *(
        f"{probe}_{kind}"
        for probe in ("role_swap", "scrambled")
        for kind in ("pooled", "states", "noise")
    ),
)
HELP = (
    "end with code 3 when a number of the student is worse than VALUE, after the results are "
    "written: errors and gaps above it, all others "
    "below it. Names: noise_gap, refiner_noise_gap; PLACE_METRIC of the places pooled and "
    "clip_l_/clip_bigg_ with content, eos, pads, and the "
    f"metrics {', '.join(METRICS)}; clip_l_bos_ and clip_bigg_bos_relative_squared_error; "
    f"{', '.join(COLLAPSE)} with _effective_rank_ratio; "
    "role_swap_ and scrambled_ with pooled, states, noise. Example: --fail-under noise_gap=0.05 "
    "pooled_recall_at_1_ja_en=0.9"
)


def student_numbers(result: dict[str, Any]) -> dict[str, float]:
    """Every number of the student's row by its name in `NAMES`; those the run does not have are
    left out.
    """
    row = result["rows"][STUDENT]
    found: dict[str, Any] = {
        name: row[name]["value"] for name in ("noise_gap", "refiner_noise_gap") if name in row
    }
    for place, (encoder, region) in PLACES.items():
        found |= {
            f"{place}_{metric}": value
            for metric, value in row["states"].get(encoder, {}).get(region, {}).items()
        }
    found |= {
        f"{place}_effective_rank_ratio": numbers["effective_rank_ratio"]
        for place, numbers in row["collapse"].items()
    }
    for probe, numbers in result["word_order"].items():
        found |= {f"{probe}_{kind}": numbers[kind] for kind in ("pooled", "states", "noise")}
    return {name: found[name] for name in NAMES if found.get(name) is not None}


def smaller_is_better(name: str) -> bool:
    return name.endswith(ERRORS)


def parse(words: list[str]) -> dict[str, float]:
    """`NAME=VALUE` words. Raises RecipeError (a usage error)."""
    bounds = {}
    for word in words:
        name, _, value = word.partition("=")
        if name not in NAMES:
            raise RecipeError(
                f"--fail-under {word!r}: there is no number called {name!r}; --help lists the names"
            )
        try:
            bounds[name] = float(value)
        except ValueError:
            raise RecipeError(
                f"--fail-under {word!r}: {value!r} is no number; write it as {name}=0.05"
            ) from None
        if bounds[name] != bounds[name]:
            raise RecipeError(
                f"--fail-under {word!r}: nothing is above or below NaN; write it as {name}=0.05"
            )
    return bounds


def check(result: dict[str, Any], bounds: dict[str, float]) -> None:
    """Raises DataError when a bound is broken, or speaks of a number that this run does not
    have.
    """
    found, broken = student_numbers(result) if bounds else {}, []
    for name, bound in bounds.items():
        if name not in found:
            broken.append(f"{name} was not measured in this run")
        elif found[name] > bound if smaller_is_better(name) else found[name] < bound:
            broken.append(
                f"{name} is {found[name]:.4g}, {'above' if smaller_is_better(name) else 'below'} "
                f"its bound {bound:g}"
            )
    if broken:
        raise DataError(f"{'; '.join(broken)}: train longer, or change the bound")
