"""Several runs side by side: which objective to train with, and which cheap number tells what the pictures will be like.

    python -m eval.compare_runs runs/toyworld_position runs/toyworld
    python -m eval.compare_runs runs/* --out runs/comparison.md

In:  of each run `distill/config.yaml`, `summary.json`, `eval/compare_hidden_states.json`.
Out: Markdown in the terminal; with `--out FILE` also FILE (Markdown) and FILE with the ending `.json` (all numbers).

Over four runs or more: Spearman's rank correlation of every cheap number of the student (those of `--fail-under`, no picture needed) with the
scene accuracy and with the noise-prediction gap. Errors should fall as accuracy rises, so a good error has -1 with accuracy and 1 with the gap.
"""

import argparse
from pathlib import Path
from typing import Any

from configs import command, schema
from configs.command import DataError
from eval import results
from eval.states import bounds

SUMMARISE, COMPARE = "python -m eval.summary RECIPE", "python -m eval.compare_hidden_states RECIPE"
DESCRIPTION = "Prints finished runs as a Markdown table, and which cheap numbers go with scene accuracy and noise gap."
ENOUGH = 4  # runs: with three, one in three random orders is a perfect correlation
SHOWN = 12  # correlations in the Markdown; the JSON has all
TARGETS = ("scene_accuracy", "noise_gap")
COLUMNS = {
    "objective": "{objective}",
    "steps": "{steps}",
    "seed": "{seed}",
    "scene accuracy": "{scene_accuracy:.3f}",
    "of the English teacher's": "{of_the_teacher:.3f}",
    "noise-prediction gap": "{noise_gap:.4f}",
    "content nMSE, clip_l": "{clip_l_content_nmse:.3f}",
    "pooled nMSE": "{pooled_nmse:.3f}",
    "pooled recall@1 ja→en": "{pooled_recall_at_1_ja_en:.3f}",
}


def read(run: Path) -> dict[str, Any]:
    """One run's settings and numbers by name; a number it does not have is left out. Raises DataError for a run that is not finished."""
    config = run / "distill" / "config.yaml"
    if not config.is_file():
        raise DataError(f"{config}: not there; {run} is no trained run, give run folders such as runs/toyworld")
    distill = schema.load(config).distill
    accuracy = results.read(run / "summary.json", SUMMARISE)["scene_accuracy"]
    path = run / "eval" / "compare_hidden_states.json"
    try:
        numbers: dict[str, Any] = dict(bounds.student_numbers(results.read(path, COMPARE)))
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: not as this version writes it ({error}); delete it and run: {COMPARE}") from None
    if accuracy:
        student, teacher = accuracy["japanese_student"], accuracy["english_teacher"]
        numbers |= {"scene_accuracy": student} | ({"of_the_teacher": student / teacher} if teacher else {})
    return {"run": run.name, "objective": f"`{distill.objective}`", "steps": distill.steps, "seed": distill.seed, **numbers}


def correlations(runs: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """`{target: {number: Spearman's rho}}`, over the numbers that all runs have and that are not the same in all of them."""
    from scipy.stats import spearmanr

    common = [name for name in ("scene_accuracy", *bounds.NAMES) if all(name in run for run in runs) and len({run[name] for run in runs}) > 1]
    return {
        target: {name: float(spearmanr([run[name] for run in runs], [run[target] for run in runs]).statistic) for name in common if name != target}
        for target in TARGETS
        if target in common
    }


def markdown(runs: list[dict[str, Any]], found: dict[str, dict[str, float]] | None) -> str:
    lines = [list(COLUMNS), ["---"] * len(COLUMNS), *([_cell(form, run) for form in COLUMNS.values()] for run in runs)]
    text = _table(lines)
    if found is None:
        return f"{text}\n\nCorrelations need at least {ENOUGH} runs, {len(runs)} given."
    for target, values in found.items():
        best = sorted(values.items(), key=lambda item: -abs(item[1]))[:SHOWN]
        title = f"Spearman's rank correlation with {target.replace('_', ' ')} over {len(runs)} runs, the strongest {len(best)}:"
        text += f"\n\n{title}\n\n{_table([['number', 'rho'], ['---', '---'], *([f'`{name}`', f'{rho:.2f}'] for name, rho in best)])}"
    return text


def compare(runs: list[Path], out: Path | None) -> None:
    """Prints the table and, where asked, writes both files. Raises DataError."""
    rows = [read(run) for run in runs]
    found = correlations(rows) if len(rows) >= ENOUGH else None
    text = markdown(rows, found)
    print(text)
    if out is not None:
        results.write(out.with_suffix(".json"), {"runs": rows, "spearman": found})
        results.write_bytes(out, f"{text}\n".encode())


def _cell(form: str, run: dict[str, Any]) -> str:
    try:
        return form.format(**run)
    except KeyError:
        return "-"


def _table(lines: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m eval.compare_runs", description=DESCRIPTION, allow_abbrev=False)
    parser.add_argument("runs", nargs="+", type=Path, help="run folders such as runs/toyworld")
    parser.add_argument("--out", type=Path, metavar="FILE", help="a Markdown file to write, with a JSON file of all numbers beside it")
    arguments = parser.parse_args(argv)
    if arguments.out is not None and arguments.out.suffix == ".json":
        parser.error(f"--out {arguments.out}: give the Markdown file; the JSON is written beside it")
    return command.guard("eval.compare_runs", lambda: compare(arguments.runs, arguments.out))


if __name__ == "__main__":
    raise SystemExit(main())
