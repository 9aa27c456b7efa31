"""How close the student's hidden states are to the teacher's, and how much the UNet's prediction
changes because of the difference.

    python -m eval.compare_hidden_states configs/toyworld.yaml
    python -m eval.compare_hidden_states configs/toyworld.yaml --fail-under \
        rows.student.noise_gap.value=0.05 rows.student.states.pooled.pooled.recall_at_1_text_en=0.9

In:  `<run>/pairs/held_out-*.parquet`, `<run>/export/base`, `<run>/initial_student/`, the teacher's
     SDXL folders, `eval.repositories` and `eval.translator` where they are given.
Out: `<run>/eval/compare_hidden_states.json`, `<run>/eval/report.html`, a table in the terminal. A
     broken `--fail-under` ends with code 3.

The student is compared with the other rows of eval/rows.py. Prompts are
encoded batch by batch, the teacher's again beside each pair of encoders: two pairs of encoders, a
batch of states and each pair's mean vectors are in memory, and whole states of `gap_pairs` alone.
"""

from configs import command
from configs.schema.load import load_recipe
from eval import results
from eval.compare_hidden_states import bounds

DESCRIPTION = "Compares the student with its English teacher on held-out pairs."


def main(argv: list[str] | None = None) -> int:
    parser = command.parser("eval.compare_hidden_states", DESCRIPTION)
    parser.add_argument(
        "--fail-under",
        nargs="+",
        action="extend",
        default=[],
        metavar="PATH=VALUE",
        help=bounds.HELP,
    )
    arguments = parser.parse_intermixed_args(argv)

    def body() -> None:
        wanted = bounds.parse(arguments.fail_under)
        recipe = load_recipe(arguments.recipe, arguments.overrides)
        from eval.compare_hidden_states.compare import COMMAND, compare

        with command.at_work(recipe.run_dir, "eval.compare_hidden_states", writes="eval"):
            compare(recipe)
        bounds.check(
            results.read(recipe.run_dir / "eval" / "compare_hidden_states.json", COMMAND), wanted
        )

    return command.guard("eval.compare_hidden_states", body)


if __name__ == "__main__":
    raise SystemExit(main())
