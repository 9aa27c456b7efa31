"""Entry: makes the pairs that all later stages read.

In:  the recipe's `corpora` section: any of the sources of configs/schema/sources.py.
Out: `<run>/pairs/`: parquet shards of both splits and `manifest.json`; prints the rows dropped by
     each reason.

    python -m corpora.prepare configs/toyworld.yaml corpora.shard_rows=500
"""

import sys

from configs import command
from configs.schema.recipe import Recipe
from configs.schema.sources import WorldSource
from corpora.pair import SPLITS

NO_HELD_OUT = (
    "corpora.held_out_pairs is 0, so no pair is held out and eval will have nothing to compare "
    "after the training; "
    "stop and set it, to 1000 for example"
)


def stage(recipe: Recipe) -> None:
    from corpora import pipeline, yields  # datatrove takes more than a second

    if not recipe.corpora.held_out_pairs and all(
        not isinstance(source, WorldSource) for source in recipe.corpora.sources
    ):
        print(f"corpora.prepare: warning: {NO_HELD_OUT}", file=sys.stderr)
    manifest, is_new = pipeline.prepare(recipe)
    folder = recipe.run_dir / "pairs"
    counts = ", ".join(f"{manifest.rows(split)} {split}" for split in SPLITS)
    print(
        f"{folder}: {counts} pairs written"
        if is_new
        else f"{folder}: already prepared for these settings ({counts} pairs); nothing to do"
    )
    if is_new:
        print(manifest.funnel())
        for warning in yields.warnings(folder):
            print(warning, file=sys.stderr)


def main(argv: list[str] | None = None) -> int:
    return command.run(
        "corpora.prepare",
        "Makes clean pairs with English out of the recipe's sources.",
        stage,
        argv,
        writes="pairs",
    )


if __name__ == "__main__":
    raise SystemExit(main())
