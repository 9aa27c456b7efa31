"""Several runs side by side: which objective to train with, and which cheap number tells what the
pictures will be like.

    python -m eval.compare_runs runs/toyworld_position runs/toyworld
    python -m eval.compare_runs runs/* --out runs/comparison.md

In:  of each run `distill/config.yaml`, `summary.json`, `eval/compare_hidden_states.json`,
     `eval/pictures.json`.
Out: Markdown in the terminal; with `--out FILE` also FILE (Markdown) and FILE with the endings
     `.json` (all numbers) and `.png` (scene accuracy and gap, a dot a seed).

Runs that differ in their seed alone share a line: means, with the smallest and the largest.
Over four runs or more: Spearman's rank correlation of every cheap number of the student (no picture
needed) with the scene accuracy and with the noise-prediction gap. Errors should fall as accuracy
rises, so a good error has -1 with accuracy and 1 with the gap.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from configs import command
from configs.errors import DataError, one_line
from distill.run import run_folder
from eval import results
from eval.compare_hidden_states import bounds
from eval.pictures.word_frequency import BUCKETS
from eval.report import plots
from eval.rows import STUDENT, STUDENT_ENGLISH, TEACHER

SUMMARISE, COMPARE, GENERATE = (
    f"python -m eval.{stage} RECIPE" for stage in ("summary", "compare_hidden_states", "generate")
)
DESCRIPTION = (
    "Prints finished runs as a Markdown table, and which cheap numbers go with scene "
    "accuracy and noise gap."
)
ENOUGH = 4  # runs: with three, one in three random orders is a perfect correlation
SHOWN = 12  # correlations in the Markdown; the JSON has all
TARGETS = ("scene_accuracy", "noise_gap")
GAPS = ("noise_gap", "refiner_noise_gap")
CHEAP = ("states.", "collapse.", "word_order.")  # how the names of the other cheap numbers begin
THINGS = "things of pairs "  # how the names of things by frequency begin
FREQUENT = 100  # training pairs
COLUMNS = {  # by title: the number, and its decimals
    "scene accuracy": ("scene_accuracy", 3),
    "of the English teacher's": ("of_the_teacher", 3),
    "relative clauses": ("scene_accuracy_relative", 3),
    **{f"things, pairs: {bucket}": (THINGS + bucket, 3) for bucket in BUCKETS},
    f"things of {FREQUENT} pairs or more, of the teacher's": ("frequent_things_of_the_teacher", 3),
    "prompts with commas": ("scene_accuracy_prompt", 3),
    "role-swapped": ("scene_accuracy_role_swapped", 3),
    "English through the student": ("scene_accuracy_student_english", 3),
    "noise-prediction gap": ("noise_gap", 4),
    "refiner's gap": ("refiner_noise_gap", 4),
    "content nMSE, clip_l": ("states.clip_l.content.nmse", 3),
    "content nMSE, clip": ("states.clip.content.nmse", 3),
    "pooled nMSE": ("states.pooled.pooled.nmse", 3),
    "pooled recall@1 to English": ("states.pooled.pooled.recall_at_1_text_en", 3),
}


def read(run: Path) -> dict[str, Any]:
    """One run's settings and numbers by name; a number it does not have is left out.

    Raises DataError for a run that is not finished.
    """
    config = run / "distill" / run_folder.CONFIG
    if not config.is_file():
        raise DataError(
            f"{config}: not there; {run} is no trained run, give run folders such as runs/toyworld"
        )
    recipe = run_folder.read_config(config.parent)
    distill = recipe.distill
    painted = results.read(run / "summary.json", SUMMARISE)["scene_accuracy"]
    path = run / "eval" / "compare_hidden_states.json"
    try:
        numbers: dict[str, Any] = dict(cheap_numbers(results.read(path, COMPARE)))
        if painted:
            path = run / "eval" / "pictures.json"
            rows = results.read(path, GENERATE)["rows"]
            accuracy = {row: of_row["scene_accuracy"]["value"] for row, of_row in rows.items()}
            student, teacher = accuracy[STUDENT], accuracy[TEACHER]
            numbers |= {"scene_accuracy": student} | (
                {"of_the_teacher": student / teacher} if teacher else {}
            )
            parts = rows[STUDENT]["scene_accuracy_by_source"]
            for source, part in parts.items():
                phrasing = source.partition("_")[2]  # behind the name of the world
                numbers[f"scene_accuracy_{phrasing}"] = part["value"]
            things = rows[STUDENT].get("things_by_frequency", {})
            if len(things) > 1:
                numbers |= {THINGS + bucket: part["value"] for bucket, part in things.items()}
                frequent = {row: _frequent(rows[row]) for row in (STUDENT, TEACHER)}
                if frequent[TEACHER]:
                    ratio = frequent[STUDENT] / frequent[TEACHER]
                    numbers["frequent_things_of_the_teacher"] = ratio
            if STUDENT_ENGLISH in accuracy:
                numbers["scene_accuracy_student_english"] = accuracy[STUDENT_ENGLISH]
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: not as this version writes it ({error}); delete it and run what makes it "
            "again"
        ) from None
    other = {"seed", *run_folder.PACE}  # these change no number
    same = distill.model_dump(mode="json", exclude=other) | {"start": recipe.vocab_init.method}
    return {
        "run": run.name,
        "objective": str(distill.objective),
        "steps": distill.steps,
        "seed": distill.seed,
        "settings": json.dumps(same),
        **numbers,
    }


def _frequent(row: dict[str, Any]) -> int:
    """How many things of `FREQUENT` training pairs or more are painted right."""
    things = row["things_by_frequency"]
    return sum(part["right"] for name, part in things.items() if BUCKETS[name] >= FREQUENT)


def cheap_numbers(result: dict[str, Any]) -> dict[str, float]:
    """The student's gaps by name, its other numbers over all pairs by their paths."""
    row = result["rows"][STUDENT]
    found = {name: row[name]["value"] for name in GAPS if name in row}
    found |= {"states": row["states"], "collapse": row["collapse"]}
    named = bounds.numbers(found | {"word_order": result["word_order"]})
    return {name: number for name, number in named.items() if not name.endswith(".pairs")}


def seeds_together(runs: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Runs of the same settings but for the seed, in the order of their first."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        groups.setdefault(run["settings"], []).append(run)
    return list(groups.values())


def correlations(runs: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """`{target: {number: Spearman's rho}}`, over the numbers that all runs have and that are not
    the same in all of them.
    """
    from scipy.stats import spearmanr

    common = [
        name
        for name in runs[0]
        if name.startswith(CHEAP) or name in ("scene_accuracy", *GAPS)
        if all(name in run for run in runs) and len({run[name] for run in runs}) > 1
    ]
    return {
        target: {
            name: float(
                spearmanr([run[name] for run in runs], [run[target] for run in runs]).statistic
            )
            for name in common
            if name != target
        }
        for target in TARGETS
        if target in common
    }


def differing(settings: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """By the names of the settings that are not the same in all runs, their values; objective and
    steps have columns of their own.
    """
    asked = {
        name: [one[name] for one in settings]
        for name in settings[0]
        if name not in ("objective", "steps", "warmup_steps")
    }
    return {
        name: values
        for name, values in asked.items()
        if any(value != values[0] for value in values)
    }


def markdown(runs: list[dict[str, Any]], found: dict[str, dict[str, float]] | None) -> str:
    shown = {
        title: column for title, column in COLUMNS.items() if any(column[0] in run for run in runs)
    }
    groups = seeds_together(runs)
    settings = differing([json.loads(group[0]["settings"]) for group in groups])
    head = ["objective", "steps", *settings, "seeds", *shown]
    lines = [head, ["---"] * len(head)]
    for i, group in enumerate(groups):
        differs = [str(values[i]) for values in settings.values()]
        name, steps = f"`{group[0]['objective']}`", str(group[0]["steps"])
        lines.append(
            [
                name,
                steps,
                *differs,
                str(len(group)),
                *(_cell(group, *column) for column in shown.values()),
            ]
        )
    text = _table(lines)
    if found is None:
        return f"{text}\n\nCorrelations need at least {ENOUGH} runs, {len(runs)} given."
    for target, values in found.items():
        best = sorted(values.items(), key=lambda item: -abs(item[1]))[:SHOWN]
        title = (
            f"Spearman's rank correlation with {target.replace('_', ' ')} over {len(runs)} "
            f"runs, the strongest {len(best)}:"
        )
        rows = [[f"`{name}`", f"{rho:.2f}"] for name, rho in best]
        text += f"\n\n{title}\n\n{_table([['number', 'rho'], ['---', '---'], *rows])}"
    return text


def figure(runs: list[dict[str, Any]]) -> bytes:
    """A PNG of the targets, a line for every group of runs that differ in their seed alone, named
    by its objective and what few other groups share.
    """
    groups = seeds_together(runs)
    settings = differing([json.loads(group[0]["settings"]) for group in groups])
    settings["steps"] = [group[0]["steps"] for group in groups]
    common = {
        name: Counter(map(str, values)).most_common(1)[0][0] for name, values in settings.items()
    }
    names = [
        ", ".join(
            [group[0]["objective"]]
            + [
                f"{name} {values[i]}"
                for name, values in settings.items()
                if str(values[i]) != common[name]
            ]
        )
        for i, group in enumerate(groups)
    ]
    shown = [target for target in TARGETS if any(target in run for run in runs)]
    panels = {
        target.replace("_", " "): [
            [run[target] for run in group if target in run] for group in groups
        ]
        for target in shown
    }
    return plots.runs_side_by_side(names, panels)


def compare(runs: list[Path], out: Path | None) -> None:
    """Prints the table and, where asked, writes both files. Raises DataError."""
    rows = [read(run) for run in runs]
    found = correlations(rows) if len(rows) >= ENOUGH else None
    text = markdown(rows, found)
    print(
        "\n".join(one_line(line, 20_000) for line in text.split("\n"))
    )  # names come from the runs
    if out is not None:
        results.write(out.with_suffix(".json"), {"runs": rows, "spearman": found})
        results.write_bytes(out, f"{text}\n".encode())
        results.write_bytes(out.with_suffix(".png"), figure(rows))


def _cell(group: list[dict[str, Any]], number: str, decimals: int) -> str:
    values = [run[number] for run in group if number in run]
    if not values:
        return "-"
    spread = (
        f" ({min(values):.{decimals}f} to {max(values):.{decimals}f})" if len(values) > 1 else ""
    )
    return f"{sum(values) / len(values):.{decimals}f}{spread}"


def _table(lines: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def main(argv: list[str] | None = None) -> int:
    def body() -> None:
        parser = command.Parser("eval.compare_runs", DESCRIPTION)
        parser.add_argument("runs", nargs="+", type=Path, help="run folders such as runs/toyworld")
        parser.add_argument(
            "--out",
            type=command.output_file,
            metavar="FILE",
            help="a Markdown file to write, with a JSON file of all numbers beside it",
        )
        arguments = parser.parse_args(argv)
        if arguments.out is not None and arguments.out.suffix == ".json":
            what = "give the Markdown file; the JSON is written beside it"
            parser.error(f"--out {arguments.out}: {what}")
        compare(arguments.runs, arguments.out)

    return command.guard("eval.compare_runs", body)


if __name__ == "__main__":
    raise SystemExit(main())
