"""Turns the newest checkpoint into encoders that stand alone and pipelines that unmodified
diffusers loads.

In:  `<run>/distill/latest` and the checkpoint it names, `<run>/initial_student/tokenizer/`, and the
     folders (or hub names) of `distill.base` and `distill.refiner`, or any other with
     `--assemble`.
Out: `<run>/export/encoders` (fp32, and the `export.variants`), `<run>/export/base`,
     `<run>/export/refiner`: hard links to the encoders and to the rest of each pipeline; each with
     a model card (`README.md`) and `verification.json`. A folder appears whole or not at all.
     With `--single-file` also `base.safetensors` and `refiner.safetensors` beside them.

    python -m distill.export configs/toyworld.yaml
    python -m distill.export configs/sdxl_jp.yaml --assemble someone/finetuned-sdxl \
        --push my-organisation/japanese-finetuned
"""

from configs import command
from configs.schema.load import load_recipe

DESCRIPTION = (
    "Writes encoders and pipelines that unmodified diffusers loads, from the newest checkpoint."
)


def main(argv: list[str] | None = None) -> int:
    def body() -> None:
        parser = command.parser("distill.export", DESCRIPTION)
        parser.add_argument(
            "--assemble",
            metavar="SDXL",
            help="put the encoders into this SDXL (a folder, a hub name or a single file) instead "
            "of the recipe's own",
        )
        parser.add_argument(
            "--push",
            metavar="ORG/NAME",
            help="upload what was exported; -base and -refiner are added where there are several",
        )
        parser.add_argument(
            "--public", action="store_true", help="make a new repository public; private otherwise"
        )
        parser.add_argument(
            "--single-file",
            action="store_true",
            help="write each pipeline into one .safetensors too, in the names of the original code",
        )
        arguments = parser.parse_intermixed_args(argv)
        recipe = load_recipe(arguments.recipe, arguments.overrides)
        from distill.export.exporting import export, publish

        with command.at_work(recipe.run_dir, "distill.export", writes="export"):
            folders = export(recipe, arguments.assemble, arguments.single_file)
        for folder in folders if arguments.push else []:
            publish(
                folder,
                recipe,
                arguments.push if len(folders) == 1 else f"{arguments.push}-{folder.name}",
                arguments.public,
            )

    return command.guard("distill.export", body)


if __name__ == "__main__":
    raise SystemExit(main())
