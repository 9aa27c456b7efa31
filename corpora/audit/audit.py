"""The work of corpora.audit: row counts by source and reason, the sheet to judge, its rates."""

from pathlib import Path

from configs.errors import RecipeError
from configs.schema.recipe import Recipe
from corpora import dropped, pipeline, yields
from corpora.audit import audit_rates, audit_sheet
from corpora.pair import read_manifest
from corpora.yields import Yield


def audit(recipe: Recipe, rows: int, seed: int) -> None:
    """Prints the row counts and writes the sheet. Raises DataError and RecipeError."""
    folder = recipe.run_dir / "audit"
    pairs = _pairs(recipe)
    found = yields.of_pairs(pairs)
    print(table(found))
    for one in found:
        if one.warning:
            print(one.warning)
    sheet = audit_sheet.draw(recipe.corpora, pairs, rows, seed)
    folder.mkdir(parents=True, exist_ok=True)
    audit_sheet.write(folder, sheet, recipe.corpora.text_language)
    print(
        f"{folder / audit_sheet.TSV}: {len(sheet)} rows; write good or bad into its first column, "
        "then give it back with --judged"
    )


def judge(recipe: Recipe, path: Path) -> None:
    """Prints the rates of a filled sheet. Raises DataError."""
    pairs = _pairs(recipe)
    sheet = audit_sheet.read(path, pairs)
    print(audit_rates.table(audit_rates.rates(sheet, yields.of_pairs(pairs))))


def _pairs(recipe: Recipe) -> Path:
    folder = recipe.run_dir / "pairs"
    manifest = read_manifest(folder)
    if not (folder / dropped.FILE).is_file():
        raise RecipeError(
            f"{folder}: does not say what was dropped; move it away and run: python -m "
            "corpora.prepare RECIPE"
        )
    if manifest.settings != pipeline.recorded_settings(recipe.corpora):
        raise RecipeError(
            f"{folder}: made by other settings of `corpora`; give the recipe that made it"
        )
    return folder


def table(found: list[Yield]) -> str:
    """Of each source, rows in, kept, and dropped by reason (most rows first), as text."""
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
