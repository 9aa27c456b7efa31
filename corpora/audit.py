"""Entry: are the right rows dropped? What each reason took of each source, and rows to judge by eye.

In:  a recipe whose pairs are prepared, and its sources; later the sheet, filled in.
Out: on the screen, by source: rows in, kept, dropped by reason. In `<run>/audit/`: `sheet.tsv` and
     `sheet.html`, random rows of each reason and of the kept ones. With the column `judgement`
     filled in (good, bad, or empty for not judged) and given back: the rate of good pairs of each
     reason, and of bad pairs among the kept, with 95 % intervals.

    python -m corpora.audit configs/toyworld.yaml
    python -m corpora.audit configs/toyworld.yaml --judged runs/toyworld/audit/sheet.tsv
"""

from pathlib import Path
from typing import TYPE_CHECKING

from configs import command, schema
from configs.errors import RecipeError

if TYPE_CHECKING:  # --help answers without what this imports
    from corpora.yields import Yield

ROWS = 50


def audit(recipe: schema.Recipe, rows: int, seed: int) -> None:
    """Prints the rates and writes the sheet. Raises DataError and RecipeError."""
    from corpora import audit_sheet, yields

    folder = recipe.run_dir / "audit"
    pairs = _pairs(recipe)
    found = yields.of_pairs(pairs)
    print(table(found))
    for one in found:
        if one.warning:
            print(one.warning)
    sheet = audit_sheet.draw(recipe.corpora, pairs, rows, seed)
    folder.mkdir(parents=True, exist_ok=True)
    audit_sheet.write(folder, sheet)
    print(
        f"{folder / audit_sheet.TSV}: {len(sheet)} rows; write good or bad into its first column, then give it back with --judged"
    )


def judge(recipe: schema.Recipe, path: Path) -> None:
    """Prints the rates that a filled sheet tells. Raises DataError."""
    from corpora import audit_rates, audit_sheet, yields

    pairs = _pairs(recipe)
    sheet = audit_sheet.read(path, pairs)
    print(audit_rates.table(audit_rates.rates(sheet, yields.of_pairs(pairs))))


def _pairs(recipe: schema.Recipe) -> Path:
    from corpora import dropped, pipeline
    from corpora.pair import read_manifest

    folder = recipe.run_dir / "pairs"
    manifest = read_manifest(folder)
    if not (folder / dropped.FILE).is_file():
        raise RecipeError(
            f"{folder}: does not say what was dropped; move it away and run: python -m corpora.prepare RECIPE"
        )
    if manifest.settings != pipeline.recorded_settings(recipe.corpora):
        raise RecipeError(
            f"{folder}: made by other settings of `corpora`; give the recipe that made it"
        )
    return folder


def table(found: "list[Yield]") -> str:
    """Rows in, kept, and dropped by reason, the costliest first, of each source, as text."""
    lines = []
    for one in found:
        share = max(1, one.rows_in)
        rows = [("rows in", one.rows_in), ("kept", one.kept)]
        rows += [
            (f"{stage}: {reason}", -count) for (stage, reason), count in one.dropped.most_common()
        ]
        lines += [
            one.source,
            *(f"  {name:<44} {count:>13,} {abs(count) / share:>8.2%}" for name, count in rows),
        ]
    return "\n".join(lines)


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
        recipe = schema.load(arguments.recipe, arguments.overrides)
        if arguments.judged:
            judge(recipe, arguments.judged)
            return
        with command.at_work(recipe.run_dir, "corpora.audit", "audit"):
            audit(recipe, arguments.rows, arguments.seed)

    return command.guard("corpora.audit", body)


if __name__ == "__main__":
    raise SystemExit(main())
