"""Entry: are the right rows dropped? Counts by source and reason, and rows to judge by eye.

In:  a recipe whose pairs are prepared, and its sources; later the sheet, filled in.
Out: prints, by source, rows in, kept, and dropped by reason. Writes to `<run>/audit/`: `sheet.tsv`
     and `sheet.html`, random rows of each reason and of the kept ones. Given the sheet with its
     column `judgement` filled in (good, bad, or empty for not judged), prints the rate of good
     pairs of each reason, and of bad pairs among the kept, with 95 % intervals.

    python -m corpora.audit configs/toyworld.yaml
    python -m corpora.audit configs/toyworld.yaml --judged runs/toyworld/audit/sheet.tsv
"""

from pathlib import Path

from configs import command
from configs.schema.load import load_recipe

ROWS = 50


def main(argv: list[str] | None = None) -> int:
    def body() -> None:
        parser = command.parser(
            "corpora.audit",
            "Shows what each reason took of each source, with rows to judge by eye.",
        )
        parser.add_argument(
            "--rows",
            type=int,
            default=ROWS,
            help="of each reason, and of the kept ones (default %(default)s)",
        )
        parser.add_argument(
            "--seed",
            type=int,
            default=0,
            help="another seed draws other rows (default %(default)s)",
        )
        parser.add_argument(
            "--judged",
            type=Path,
            metavar="FILE",
            help="a filled sheet.tsv: print its rates, draw nothing",
        )
        arguments = parser.parse_args(argv)
        if arguments.rows < 1 or arguments.seed < 0:
            parser.error("--rows is at least 1, --seed at least 0")
        recipe = load_recipe(arguments.recipe, arguments.overrides)
        from corpora.audit.audit import audit, judge

        if arguments.judged:
            judge(recipe, arguments.judged)
            return
        with command.at_work(recipe.run_dir, "corpora.audit", "audit"):
            audit(recipe, arguments.rows, arguments.seed)

    return command.guard("corpora.audit", body)


if __name__ == "__main__":
    raise SystemExit(main())
