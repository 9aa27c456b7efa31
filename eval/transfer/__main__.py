"""Does the student serve UNets it never saw: fine-tuned ones, LoRAs, others' SDXLs that kept the
text encoders?

    python -m eval.transfer configs/toyworld.yaml 'eval.unets={style: runs/other_unets/style}'

In:  `<run>/export/base`, `<run>/pairs/`, the teacher, and the SDXL folders (or hub names) of
     `eval.unets`: base or refiner.
Out: `<run>/eval/transfer.json`: by UNet, the recipe's own (`trained_with`) first, the
     noise-prediction gap and, in toyworld, the scene accuracy of English through the teacher's
     encoders and of Japanese through the student's; a table in the terminal.
"""

from configs import command
from configs.schema.recipe import Recipe


def stage(recipe: Recipe) -> None:
    from eval.transfer.unseen_unets import transfer

    transfer(recipe)


def main(argv: list[str] | None = None) -> int:
    return command.run(
        "eval.transfer",
        "Measures the student before UNets it was not trained with.",
        stage,
        argv,
        writes="eval",
    )


if __name__ == "__main__":
    raise SystemExit(main())
