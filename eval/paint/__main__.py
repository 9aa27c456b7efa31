"""Your own prompts to pictures, through any SDXL repository: text to image, image to image, base
and refiner.

    python -m eval.paint runs/toyworld/export/base --prompt "白い背景に大きな赤い丸" --out outputs
    python -m eval.paint runs/toyworld/export/base --refiner runs/toyworld/export/refiner \
        --from-file prompts.txt --n-samples 4
    python -m eval.paint --show outputs/0000.png

In:  a repository in diffusers layout (a folder or hub name), prompts, for image to image a picture.
Out: `<out>/0000.png`..., numbered on after what is there, each with the settings it was made with
     inside; and for every batch of several pictures `<out>/grid-0000.png`... A picture is made
     again by its own seed alone, whatever batch it came from.
"""

from pathlib import Path

from configs import command
from configs.errors import DataError
from eval.paint import request, schedulers
from eval.paint.request import Request

DESCRIPTION = (
    "Paints prompts with an SDXL repository, or shows the settings inside a picture it painted."
)


def parser() -> command.Parser:
    result = command.Parser("eval.paint", DESCRIPTION)
    add = result.add_argument
    add("repository", nargs="?", help="an SDXL base in diffusers layout: a folder or a hub name")
    add("--refiner", metavar="REPOSITORY", help="an SDXL refiner that paints the last steps")
    add("--prompt", action="append", default=[], help="what to paint; may be repeated")
    add(
        "--from-file",
        type=Path,
        metavar="FILE",
        help="a UTF-8 file with one prompt a line; blank lines are skipped",
    )
    add("--negative-prompt", help="what to keep out of the pictures")
    add("--steps", type=int, default=50, help="inference steps (default: 50)")
    add("--guidance", "--scale", type=float, default=5.0, help="guidance scale (default: 5)")
    add(
        "--scheduler",
        metavar="NAME",
        help=f"{', '.join(schedulers.SCHEDULERS)} (default: the repository's own)",
    )
    add(
        "--seed",
        type=int,
        default=0,
        help="of each prompt's first picture, the next ones count on from it (default: 0)",
    )
    add("--height", type=int, help="in pixels, a multiple of 8 (default: the repository's own)")
    add("--width", type=int, help="likewise")
    add(
        "--n-samples",
        type=int,
        default=1,
        help="pictures in a batch: painted at once, and shown in one grid (default: 1)",
    )
    add("--n-iter", type=int, default=1, help="batches for each prompt (default: 1)")
    add("--n-rows", type=int, help="pictures in a row of the grid (default: all of the batch)")
    add("--init-image", type=Path, metavar="FILE", help="the picture to start from: image to image")
    add(
        "--strength",
        type=float,
        help=f"how much of it to repaint, up to 1 (default: {request.STRENGTH})",
    )
    add(
        "--denoising-end",
        type=float,
        help="the share of the steps after which the refiner takes over (default: "
        f"{request.DENOISING_END})",
    )
    add(
        "--safety-checker",
        metavar="MODEL",
        help="blacken what this StableDiffusionSafetyChecker flags; SDXL comes with none (default: "
        "none)",
    )
    add(
        "--no-watermark",
        action="store_true",
        help="without the invisible watermark that diffusers adds where invisible-watermark is "
        "installed",
    )
    add(
        "--out",
        type=command.output_folder,
        default=Path("outputs"),
        metavar="FOLDER",
        help="where the pictures go (default: outputs)",
    )
    add(
        "--show",
        type=Path,
        metavar="FILE.png",
        help="print the settings inside a picture, and paint nothing",
    )
    return result


def main(argv: list[str] | None = None) -> int:
    def body() -> None:
        arguments = parser().parse_args(argv)
        from eval.paint.paint import paint, show

        if arguments.show:
            return show(arguments.show)
        if arguments.repository is None:
            raise DataError(
                "no repository; give an SDXL base in diffusers layout, or --show FILE.png"
            )
        prompts = list(arguments.prompt)
        if arguments.from_file:
            read, blank = request.read_prompts(arguments.from_file)
            prompts += read
            print(f"{arguments.from_file}: {len(read)} prompts, {blank} blank lines skipped")
        asked = Request(
            repository=arguments.repository,
            prompts=tuple(prompts),
            refiner=arguments.refiner,
            negative_prompt=arguments.negative_prompt,
            steps=arguments.steps,
            guidance_scale=arguments.guidance,
            seed=arguments.seed,
            height=arguments.height,
            width=arguments.width,
            n_iter=arguments.n_iter,
            n_samples=arguments.n_samples,
            n_rows=arguments.n_rows,
            init_image=arguments.init_image,
            strength=arguments.strength,
            scheduler=arguments.scheduler,
            denoising_end=arguments.denoising_end,
            watermark=not arguments.no_watermark,
            safety_checker=arguments.safety_checker,
        )
        paint(asked, arguments.out)

    return command.guard("eval.paint", body)


if __name__ == "__main__":
    raise SystemExit(main())
