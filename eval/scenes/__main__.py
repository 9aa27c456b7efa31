"""How often pipelines paint toyworld's held-out scenes right: for any folders, with or without a
recipe of their own.

    python -m eval.scenes teacher=toyworld:sd student=runs/toyworld_kamon/export/base \
        pictures=runs/toyworld_kamon/finetune/pictures/export --out runs/toyworld_kamon/scenes

In:  folders in diffusers layout (or `toyworld:NAME`), each with a name of your own.
Out: `<out>/scenes.json`, `<out>/scenes.png` (the first pictures of each), the pictures under
     `<out>/<name>/<captions>/`; a table in the terminal.
"""

import re

from configs import command
from configs.errors import RecipeError
from configs.references import ModelName
from configs.schema.recipe import Eval
from corpora.toyworld.renderer import STYLES

DESCRIPTION = "Paints toyworld's held-out captions with pipelines and reads the pictures back."
OF_STYLE = (
    "also count the pictures that are nearer to their scene rendered in this style than in the "
    "plain one"
)


def main(argv: list[str] | None = None) -> int:
    def body() -> None:
        parser = command.Parser("eval.scenes", DESCRIPTION)
        parser.add_argument("pipelines", nargs="+", metavar="NAME=FOLDER")
        parser.add_argument("--out", type=command.output_folder, required=True)
        parser.add_argument("--prompts", type=int, default=200, help="of each kind of captions")
        parser.add_argument("--seed", type=int, default=0, help="of the noise (default: 0)")
        parser.add_argument("--style", choices=STYLES, default="plain", help=OF_STYLE)
        arguments = parser.parse_args(argv)
        if arguments.prompts < 1:
            raise RecipeError(f"--prompts: {arguments.prompts} is below 1")
        settings = Eval(
            prompts=arguments.prompts,
            seed=arguments.seed,
            inference_steps=20,
            guidance_scale=2.0,
            denoising_end=1.0,
            batch_size=25,
        )
        from eval.scenes import accuracy

        pipelines = dict(_named(one) for one in arguments.pipelines)
        accuracy.measure(pipelines, arguments.out, settings, arguments.style)

    return command.guard("eval.scenes", body)


def _named(argument: str) -> tuple[str, str]:
    """`NAME=FOLDER`; the name is a folder's. Raises RecipeError."""
    name, _, folder = argument.partition("=")
    if not folder or not re.fullmatch(r"[A-Za-z0-9][\w-]*", name, re.ASCII):
        raise RecipeError(
            f"{argument}: give NAME=FOLDER; the name has letters, digits, _ and - only"
        )
    return name, ModelName(folder).path


if __name__ == "__main__":
    raise SystemExit(main())
