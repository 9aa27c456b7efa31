"""The cost of a distillation before it is spent: parameters, FLOP, memory, hours and disk. Reads a
few JSON files, runs no model.

In:  the recipe, the `config.json` files of `distill.base` and `distill.refiner`, the size of the
     Japanese vocabulary, and `<run>/tokens/` where it is there: then the work is counted at the
     texts' real lengths, else as if every pair ran all 77 positions.
Out: a few lines on the terminal; nothing on disk.

    python -m distill.plan configs/sdxl_jp.yaml --gpus 8
"""

import argparse
from typing import Any

from configs import command
from configs.schema.load import load_recipe
from distill.plan.cost import H200_TFLOPS


def _above_zero(kind: type) -> Any:
    def convert(text: str) -> Any:
        value = kind(text)
        if not 0 < value < float("inf"):
            raise argparse.ArgumentTypeError(f"must be above zero, not {text}")
        return value

    convert.__name__ = kind.__name__
    return convert


def add_rates(parser: argparse.ArgumentParser) -> None:
    """The arguments that turn FLOP into hours."""
    parser.add_argument(
        "--gpus", type=_above_zero(int), default=1, help="how many share the batch (default 1)"
    )
    parser.add_argument(
        "--tflops",
        type=_above_zero(float),
        default=H200_TFLOPS,
        help="what one can multiply (default %(default)s, an H200)",
    )
    parser.add_argument(
        "--utilisation",
        type=_above_zero(float),
        default=0.5,
        help="share of that rate training reaches (default %(default)s)",
    )


def main(argv: list[str] | None = None) -> int:
    def body() -> None:
        parser = command.parser(
            "distill.plan", "Counts what a distillation costs, before it is spent."
        )
        add_rates(parser)
        arguments = parser.parse_intermixed_args(argv)
        recipe = load_recipe(arguments.recipe, arguments.overrides)
        from distill.plan.estimate import report

        print("\n".join(report(recipe, arguments.gpus, arguments.tflops, arguments.utilisation)))

    return command.guard("distill.plan", body)


if __name__ == "__main__":
    raise SystemExit(main())
