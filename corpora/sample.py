"""The first rows of every source, as one small source: to try a recipe out before the real corpora
are read.

In:  the sources of the recipe's `corpora` section.
Out: a Parquet file with the columns `text` and `en`, whole or not at all.

    python -m corpora.sample configs/sdxl_jp.yaml --rows 2000 --out sample.parquet
"""

from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from configs import command
from configs.errors import DataError, RecipeError
from configs.files import whole
from configs.schema.load import load_recipe
from configs.schema.recipe import Recipe
from corpora import sources

DESCRIPTION = "Writes the first rows of every source of a recipe into one Parquet file."


def write(recipe: Recipe, rows: int, path: Path) -> dict[str, int]:
    """Readable rows by source, at most `rows` of each. Raises DataError and RecipeError."""
    corpora = recipe.corpora
    counts: dict[str, int] = {}
    columns: dict[str, list[str]] = {"text": [], "en": []}
    for number, source in enumerate(tqdm(corpora.sources, desc="sample", unit="source")):
        alone = corpora.model_copy(update={"sources": [source]})
        parts = [part for part in sources.plan(alone) if part.split != "held_out"]
        pairs = (
            pair
            for part in parts
            for batch in sources.read(source, part)
            for pair in zip(batch.text, batch.en, strict=True)
        )
        found = list(islice(pairs, rows))
        counts[f"{number} {sources.name(source)}"] = len(found)
        columns["text"] += [text for text, _ in found]
        columns["en"] += [en for _, en in found]
    if not columns["text"]:
        raise DataError("no row of any source can be read; correct corpora.sources")
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as temporary:
        pq.write_table(pa.table(columns), temporary)
    return counts


def main(argv: list[str] | None = None) -> int:
    def body() -> None:
        parser = command.parser("corpora.sample", DESCRIPTION)
        parser.add_argument("--rows", type=int, default=2000, help="of each source")
        parser.add_argument("--out", type=command.output_file, required=True, metavar="FILE")
        arguments = parser.parse_intermixed_args(argv)
        if arguments.rows < 1:
            raise RecipeError(f"--rows: {arguments.rows} is below 1")
        counts = write(
            load_recipe(arguments.recipe, arguments.overrides), arguments.rows, arguments.out
        )
        for source, count in counts.items():
            print(f"{count:>8,}  {source}")
        print(f"{arguments.out}: {sum(counts.values()):,} rows")

    return command.guard("corpora.sample", body)


if __name__ == "__main__":
    raise SystemExit(main())
