"""Several runs side by side: the table that says which objective to train with.

    python -m eval.compare_runs runs/toyworld_position runs/toyworld

In:  `config.yaml` of each run's distillation, `summary.json`, `eval/compare_hidden_states.json`.
Out: a Markdown table in the terminal.
"""

import argparse
from pathlib import Path

from configs import command, schema
from eval import results

SUMMARISE, COMPARE = "python -m eval.summary RECIPE", "python -m eval.compare_hidden_states RECIPE"
COLUMNS = ("objective", "steps", "scene accuracy", "of the English teacher's", "noise-prediction gap", "content nMSE, clip_l", "pooled nMSE")


def row(run: Path) -> list[str]:
    """One run's cells. Raises DataError for a run that is not finished."""
    distill = schema.load(run / "distill" / "config.yaml").distill
    summary = results.read(run / "summary.json", SUMMARISE)
    states = results.read(run / "eval" / "compare_hidden_states.json", COMPARE)["rows"]["japanese_student"]["states"]
    accuracy = summary["scene_accuracy"]
    right = [f"{accuracy['japanese_student']:.3f}", f"{accuracy['japanese_student'] / accuracy['english_teacher']:.3f}"] if accuracy else ["-", "-"]
    errors = [f"{summary['noise_gap']:.4f}", f"{states['clip_l']['content']['nmse']:.3f}", f"{states['pooled']['pooled']['nmse']:.3f}"]
    return [f"`{distill.objective}`", str(distill.steps), *right, *errors]


def table(runs: list[Path]) -> str:
    lines = [list(COLUMNS), ["---"] * len(COLUMNS), *map(row, runs)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m eval.compare_runs", description="Prints finished runs as a Markdown table.", allow_abbrev=False)
    parser.add_argument("runs", nargs="+", type=Path, help="run folders such as runs/toyworld")
    arguments = parser.parse_args(argv)
    return command.guard("eval.compare_runs", lambda: print(table(arguments.runs)))


if __name__ == "__main__":
    raise SystemExit(main())
