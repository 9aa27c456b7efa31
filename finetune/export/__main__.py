"""Turns the newest checkpoint of a stage into a pipeline that unmodified diffusers loads, or into
a LoRA file.

In:  `<run>/finetune/<stage>/`: its newest checkpoint and `config.yaml`; what the stage started
     from; the folder of `distill.base`.
Out: `<run>/finetune/<stage>/export/`: a whole pipeline; what was not trained is hard links. With
     `--lora`: `<run>/finetune/<stage>/lora/`: the LoRA file, and `encoders/` with the changes
     merged. Each with a card (`README.md`). A folder appears whole or not at all.

    python -m finetune.export configs/toyworld_kamon.yaml
    python -m finetune.export RECIPE --stage pictures --lora kohya

The same command does nothing where it is done; a newer checkpoint is exported in place of the old.
"""

from configs import command
from configs.schema.load import load_recipe

DESCRIPTION = "Writes a stage's pipeline, or its LoRA file, from the newest checkpoint."
FORMATS = ("diffusers", "kohya")


def main(argv: list[str] | None = None) -> int:
    def body() -> None:
        parser = command.parser("finetune.export", DESCRIPTION)
        parser.add_argument("--stage", help="without it, the last one that has a checkpoint")
        parser.add_argument(
            "--lora",
            choices=FORMATS,
            help="the changes of a stage with lora as a file in this format, not a pipeline",
        )
        arguments = parser.parse_intermixed_args(argv)
        recipe = load_recipe(arguments.recipe, arguments.overrides)
        from finetune.export import exporting, lora, trained

        found = trained.find(recipe, arguments.stage)
        name = lora.FOLDER if arguments.lora else exporting.FOLDER
        writes = f"finetune/{found.name}/{name}"
        with command.at_work(recipe.run_dir, "finetune.export", writes=writes):
            if arguments.lora:
                lora.export(found, arguments.lora)
            else:
                exporting.export(found)

    return command.guard("finetune.export", body)


if __name__ == "__main__":
    raise SystemExit(main())
