"""Entry: makes pairs from Japanese captions of pictures: cleaned, ranked by how well they fit,
translated.

In:  the recipe's `captions` section: LAION's metadata, pictures if a model is to rank, a
     translation model.
Out: `<run>/captions/`: parquet shards and `manifest.json`. List them in `corpora.sources`, and
     corpora.prepare reads them like any pairs.

    python -m corpora.captions configs/sdxl_jp.yaml captions.keep=1000000
"""

from configs import command
from configs.schema.recipe import Recipe


def stage(recipe: Recipe) -> None:
    from corpora.captions import pipeline  # datatrove takes more than a second

    manifest, is_new = pipeline.make(recipe)
    folder = recipe.run_dir / pipeline.FOLDER
    count = manifest.rows("train")
    print(
        f"{folder}: {count} pairs written"
        if is_new
        else f"{folder}: already made for these settings ({count} pairs); nothing to do"
    )
    if is_new:
        print(manifest.funnel())


def main(argv: list[str] | None = None) -> int:
    description = "Makes pairs with English of pictures' captions: cleaned, ranked, translated."
    return command.run("corpora.captions", description, stage, argv, writes="captions")


if __name__ == "__main__":
    raise SystemExit(main())
