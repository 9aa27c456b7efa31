"""What the evaluation hands to the model card: tables that are ready to print, typed.

In:  `<run>/eval/compare_hidden_states.json` and `<run>/eval/pictures.json`, which hold it under
     "card".
Out: records; None for a result that is missing or measured another export.
"""

from typing import TypeVar

from pydantic import ValidationError

from configs.errors import DataError
from configs.files import file_sha256
from configs.records import Record, read_with_sha256
from configs.schema.recipe import Recipe
from distill.verify.record import VERIFICATION, Verification

COMPARE, GENERATE = "python -m eval.compare_hidden_states RECIPE", "python -m eval.generate RECIPE"


class Table(Record):
    """`rows`: the cells by the row's label."""

    columns: list[str]
    rows: dict[str, list[str]]


class States(Record):
    """Of the hidden states; the noise-prediction gap was measured on `gap_pairs` of the `pairs`.
    `gap` and `recall_at_1` (to English) are the student's, None where they were not measured.
    """

    pairs: int
    gap_pairs: int
    gap: float | None
    recall_at_1: float | None
    table: Table


class PaintedExample(Record):
    """Caption `number` of the grid of pictures, from 1; `picture`: the student's, in the folder of
    the results.
    """

    number: int
    picture: str
    text: str
    en: str


class Pictures(Record):
    """`table`: the scene accuracy, `accuracy` the student's; None where no scene can be read from a
    picture.
    """

    prompts: int
    accuracy: float | None
    table: Table | None
    examples: list[PaintedExample]


Result = TypeVar("Result", bound=Record)


def states(recipe: Recipe, made_from: dict[str, str]) -> States | None:
    """Raises DataError for a result that is damaged or of another version."""
    return _read(recipe, made_from, "compare_hidden_states.json", COMPARE, States)


def pictures(recipe: Recipe, made_from: dict[str, str]) -> Pictures | None:
    """Raises DataError for a result that is damaged or of another version."""
    if not (recipe.run_dir / "eval" / "grid.png").is_file():
        return None
    return _read(recipe, made_from, "pictures.json", GENERATE, Pictures)


def _read(
    recipe: Recipe, made_from: dict[str, str], name: str, made_by: str, kind: type[Result]
) -> Result | None:
    """A result names the export it read by the digest of its `verification.json`. It counts for
    every folder exported from the same checkpoint.
    """
    path, read = recipe.run_dir / "eval" / name, recipe.run_dir / "export" / "base" / VERIFICATION
    if not (path.is_file() and read.is_file()):
        return None
    exported = Verification.read(read, "run distill.export again").made_from
    if exported.get("manifest_sha256") != made_from["manifest_sha256"]:
        return None
    result = read_with_sha256(path, f"delete it and run: {made_by}")
    if result.get("recipe") != recipe.name or result.get("export_sha256") != file_sha256(read):
        return None
    try:
        return kind.model_validate(result.get("card"))
    except ValidationError as error:
        where = ".".join(map(str, ("card", *error.errors()[0]["loc"])))
        raise DataError(
            f"{path}: {where} is not as this version writes it; delete it and run: {made_by}"
        ) from None
