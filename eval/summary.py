"""The run in a few numbers: scene accuracy, noise-prediction gap, seconds by stage.

    python -m eval.summary configs/toyworld.yaml

In:  `<run>/stages.jsonl`, `<run>/eval/compare_hidden_states.json`, `<run>/eval/pictures.json`.
Out: `<run>/summary.json`: `scene_accuracy` (by row; null where no scenes can be read), `noise_gap`
     (of the student), `forms` (its gap by form of the prompt), `weight_response` (the cosine; null
     where it was not measured), `seconds` (by stage, and their `total`; a stage run twice counts
     with both).
"""

from pathlib import Path
from typing import Any

from configs import command, stage_times
from configs.errors import DataError
from configs.schema.load import load_recipe
from configs.schema.recipe import Recipe
from eval import results
from eval.rows import STUDENT, label

COMPARE, GENERATE = "python -m eval.compare_hidden_states RECIPE", "python -m eval.generate RECIPE"


def summarise(recipe: Recipe) -> dict[str, Any]:
    """The summary of a run. Raises DataError naming the command that makes what is missing."""
    comparison = _of_this_recipe(recipe, "compare_hidden_states.json", COMPARE)
    pictures = _of_this_recipe(recipe, "pictures.json", GENERATE)
    weight = comparison.get("weight_response")
    accuracies = {
        row: numbers["scene_accuracy"]["value"]
        for row, numbers in pictures["rows"].items()
        if "scene_accuracy" in numbers
    }
    return {
        "scene_accuracy": accuracies or None,
        "noise_gap": comparison["rows"][STUDENT]["noise_gap"]["value"],
        "forms": {
            form: one["noise_gap"]["value"] for form, one in comparison.get("forms", {}).items()
        },
        "weight_response": weight["cosine"]["value"] if weight else None,
        "seconds": stage_seconds(recipe.run_dir / "stages.jsonl"),
    }


def stage_seconds(path: Path) -> dict[str, float]:
    """Seconds by stage in the order they first ran, and `total`. Raises DataError."""
    if not path.is_file():
        raise DataError(
            f"{path}: no stage is on record; run the stages first, beginning with: python -m "
            "corpora.prepare RECIPE"
        )
    seconds = stage_times.read(path)
    return {**seconds, "total": round(sum(seconds.values()), 2)}


def report(recipe: Recipe) -> None:
    """The stage: writes `summary.json` and prints it in words."""
    summary = summarise(recipe)
    results.write(recipe.run_dir / "summary.json", summary)
    print(f"{recipe.name}: summary written to {recipe.run_dir / 'summary.json'}\n")
    for row, accuracy in (summary["scene_accuracy"] or {}).items():
        print(f"  the right scene, {label(row, recipe.text_language.name):<34}{accuracy:>8.1%}")
    print(f"  {'noise-prediction gap of the student (0 is best)':<51}{summary['noise_gap']:>8.4f}")
    if forms := summary["forms"]:
        worst = max(forms, key=forms.__getitem__)
        print(f"  {f'the largest gap of a form of prompts, {worst}':<51}{forms[worst]:>8.4f}")
    if summary["weight_response"] is not None:
        title = "a word's weight does what it does in English (1)"
        print(f"  {title:<51}{summary['weight_response']:>8.4f}")
    for stage, seconds in summary["seconds"].items():
        print(f"  {stage:<51}{duration(seconds):>8}")
    print(
        f"\nreport:   {recipe.run_dir / 'eval' / 'report.html'}\npictures: "
        f"{recipe.run_dir / 'eval' / 'grid.png'}"
    )


def duration(seconds: float) -> str:
    """`42 s`, `3:05` (minutes) or `2:03:05` (hours)."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _of_this_recipe(recipe: Recipe, name: str, made_by: str) -> dict[str, Any]:
    path = recipe.run_dir / "eval" / name
    result = results.read(path, made_by)
    if result.get("recipe") != recipe.name:
        raise DataError(
            f"{path}: made by the recipe {result.get('recipe')!r}, this one is {recipe.name!r}; "
            f"make it with: {made_by}"
        )
    return result


def main(argv: list[str] | None = None) -> int:
    def body() -> None:
        description = "Writes the run's summary and prints it."
        arguments = command.parser("eval.summary", description).parse_args(argv)
        report(load_recipe(arguments.recipe, arguments.overrides))

    # not through `command.run`: the summary's own moment is no stage of the road, and would change
    # the sum it has just written
    return command.guard("eval.summary", body)


if __name__ == "__main__":
    raise SystemExit(main())
