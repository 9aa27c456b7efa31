"""Your own prompts to pictures, through any SDXL or SD repository: text to image, image to image,
base and refiner.

    python -m eval.paint runs/toyworld/export/base --prompt "白い背景に大きな赤い丸" --out outputs
    python -m eval.paint runs/toyworld/export/base --refiner runs/toyworld/export/refiner \
        --from-file prompts.txt --n-samples 4
    python -m eval.paint --show outputs/0000.png

In:  a repository in diffusers layout (a folder or hub name), prompts, for image to image a picture.
Out: `<out>/0000.png`..., numbered on after what is there, each with the settings it was made with
     inside; and for every batch of several pictures `<out>/grid-0000.png`... A picture is made
     again by its own seed alone, whatever batch it came from.
"""

import argparse
import sys
from dataclasses import fields

from configs import command
from configs.errors import RecipeError
from eval.paint import options, request
from eval.paint.request import Request


def main(argv: list[str] | None = None) -> int:
    def body() -> None:
        words = options.in_our_spelling(sys.argv[1:] if argv is None else argv)
        arguments = options.parser().parse_args(words)
        from eval.paint.paint import paint, show

        if arguments.show:
            return show(arguments.show)
        paint(_request(arguments), arguments.out)

    return command.guard("eval.paint", body)


def _request(arguments: argparse.Namespace) -> Request:
    """Raises RecipeError for arguments that contradict each other, DataError for a file of
    prompts that cannot be read.
    """
    given = vars(arguments)
    if arguments.repository is None:
        raise RecipeError("no repository; give one in diffusers layout, or --show FILE.png")
    chosen = list(dict.fromkeys(arguments.scheduler))
    if len(chosen) > 1:
        raise RecipeError(f"--scheduler: {' and '.join(chosen)} at once; give one")
    prompts = list(arguments.prompt)
    if arguments.from_file:
        read, blank = request.read_prompts(arguments.from_file)
        prompts += read
        print(f"{arguments.from_file}: {len(read)} prompts, {blank} blank lines skipped")
    # DDIM is the only sampler that eta means something to, and the old scripts' default
    given |= {"scheduler": chosen[0] if chosen else "ddim" if arguments.eta else None}
    return Request(
        prompts=tuple(prompts),
        **{one.name: given[one.name] for one in fields(Request) if one.name in given},
    )


if __name__ == "__main__":
    raise SystemExit(main())
