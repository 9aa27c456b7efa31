"""A page in the browser that paints Japanese prompts beside English ones: the exported encoders and
their English teacher, same seed, same UNet.

    python -m demo runs/toyworld/export
    python -m demo ORG/NAME-base --refiner ORG/NAME-refiner
    python -m demo ORG/NAME-base --space FOLDER

In:  an exported folder, or any base in diffusers layout; the teacher, by default the one that the
     export names.
Out: a server on this machine alone, until it is interrupted; with `--space` a folder that
     Hugging Face runs as a Space.
"""

from importlib.util import find_spec

from configs import command
from configs.errors import SetupError

DESCRIPTION = "Opens a page that paints Japanese prompts beside English ones."


def parser() -> command.Parser:
    result = command.Parser("demo", DESCRIPTION)
    result.add_argument(
        "export", help="an export's folder, or a base in diffusers layout: a folder or a hub name"
    )
    result.add_argument(
        "--teacher",
        metavar="REPOSITORY",
        help="whose English text encoders to show beside (default: those the export was made from)",
    )
    result.add_argument(
        "--refiner",
        metavar="REPOSITORY",
        help="an SDXL refiner that the page can switch on (default: the export's own)",
    )
    result.add_argument(
        "--report",
        metavar="PAGE",
        help="a page to link to, a file or an address (default: the report of the export's run)",
    )
    result.add_argument(
        "--space",
        type=command.output_folder,
        metavar="FOLDER",
        help="write a Hugging Face Space of this demo there, and open nothing",
    )
    return result


def main(argv: list[str] | None = None) -> int:
    def body() -> None:
        arguments = parser().parse_args(argv)
        if find_spec("gradio") is None:
            raise SetupError(
                "the package gradio is not installed; install it with: pip install -e '.[demo]'"
            )
        from demo import page, space

        if arguments.space:
            names = (arguments.export, arguments.teacher, arguments.refiner, arguments.report)
            return space.write(arguments.space, *names, page.GRADIO_VERSION)
        page.serve(arguments.export, arguments.teacher, arguments.refiner, arguments.report)

    return command.guard("demo", body)


if __name__ == "__main__":
    raise SystemExit(main())
