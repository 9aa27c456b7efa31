"""Entry: captioned pictures to buckets and cached latents, for learning with the diffusion model.

In:  the recipe's `pictures` section, and the VAE of `distill.base`.
Out: `<run>/pictures/`: `rows.parquet`, `latents-*.safetensors`, `manifest.json`; a table of what
     each source gave and why pictures were dropped.

    python -m finetune.pictures RECIPE pictures.resolution=512

The same command goes on where it stopped, and encodes only what has changed.
"""

from configs import command
from configs.schema.recipe import Recipe


def stage(recipe: Recipe) -> None:
    from finetune.pictures import pipeline, report  # torch and diffusers take seconds

    made = pipeline.make(recipe)
    folder, count = recipe.run_dir / pipeline.FOLDER, sum(made.details.pictures.values())
    if not made.is_new:
        print(f"{folder}: already made of these pictures ({count:,}); nothing to do")
        return
    cached = sum(sum(one.values()) for one in made.details.rows.values()) - made.encoded
    print(f"{folder}: {count:,} pictures; {made.encoded:,} crops encoded, {cached:,} found cached")
    print(report.tables(made.details))


def main(argv: list[str] | None = None) -> int:
    return command.run(
        "finetune.pictures",
        "Sorts captioned pictures into buckets and caches their latents.",
        stage,
        argv,
        writes="pictures",
    )


if __name__ == "__main__":
    raise SystemExit(main())
