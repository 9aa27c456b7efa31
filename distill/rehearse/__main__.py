"""Tries a recipe out before it is paid for: every stage on a small part of the real pairs, with the
real models, batches and launcher.

    python -m distill.rehearse configs/sdxl_jp.yaml
    torchrun --nproc-per-node 8 -m distill.rehearse configs/sdxl_jp.yaml --steps 10
    python -m distill.rehearse configs/sdxl_jp.yaml --random-weights

In:  the recipe, everything it names, and its launcher's environment.
Out: `<run>/rehearsal/report.json` and `report.html`: by stage the seconds and the peak memory, and
     what the whole run will take. Until it ends well, what the stages made lies in
     `<run>/rehearsal/unfinished/`, from where the same command goes on.
"""

from configs import command
from configs.errors import RecipeError
from configs.schema.load import load_recipe

DESCRIPTION = (
    "Runs every stage of a recipe on a small part of its pairs and says what it will take."
)


def main(argv: list[str] | None = None) -> int:
    def body() -> None:
        parser = command.parser("distill.rehearse", DESCRIPTION)
        parser.add_argument("--steps", type=int, default=3, help="optimizer steps (default: 3)")
        parser.add_argument(
            "--random-weights",
            action="store_true",
            help="base and refiner of the published sizes with random weights: nothing of them is "
            "downloaded",
        )
        arguments = parser.parse_intermixed_args(command.under_a_launcher(argv))
        if arguments.steps < 2:
            raise RecipeError(f"--steps: {arguments.steps} is below 2; the first one only warms up")
        recipe = load_recipe(arguments.recipe, arguments.overrides)
        from distill.rehearse.rehearsal import rehearse

        given = [arguments.recipe, *arguments.overrides]
        rehearse(recipe, given, arguments.steps, arguments.random_weights)

    return command.guard("distill.rehearse", body)


if __name__ == "__main__":
    raise SystemExit(main())
