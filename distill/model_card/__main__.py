"""The model card of an exported repository: what it is, how it is used, how it was made, what was
measured, what it cannot do.

In:  an exported folder (`model_index.json` or encoders alone, `verification.json`),
     `<run>/pairs/manifest.json`, `<run>/distill/config.yaml` and, once they are there,
     `<run>/eval/compare_hidden_states.json`, `<run>/eval/pictures.json` and `<run>/eval/grid.png`.
Out: `README.md` and `images/grid.png` in the folder. The export writes the first card; the entry
     writes those of all exported folders of a run again, for the evaluation comes after the export.

Everything is read from the run, and no path of this machine is written: sources go by their names,
models by their hub names or the end of their paths.

    python -m distill.model_card configs/toyworld.yaml
"""

from configs import command
from configs.schema.recipe import Recipe

DESCRIPTION = (
    "Writes the model cards of a run's exported folders again, with what has been measured since."
)


def stage(recipe: Recipe) -> None:
    from distill.model_card.model_card import write_all

    write_all(recipe)


def main(argv: list[str] | None = None) -> int:
    return command.run("distill.model_card", DESCRIPTION, stage, argv, writes="export")


if __name__ == "__main__":
    raise SystemExit(main())
