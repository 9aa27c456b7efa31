"""Your own prompts to pictures, through any SDXL repository: text to image, image to image, base and refiner.

    python -m eval.paint runs/toyworld/export/base --prompt "白い背景に大きな赤い丸" --out outputs
    python -m eval.paint runs/toyworld/export/base --refiner runs/toyworld/export/refiner --from-file prompts.txt --n-samples 4
    python -m eval.paint --show outputs/0000.png

In:  a repository in diffusers layout (a folder or hub name), prompts, for image to image a picture.
Out: `<out>/0000.png`..., numbered on after what is there, each with the settings it was made with inside; and for every batch of several
     pictures `<out>/grid-0000.png`... A picture is made again by its own seed alone, whatever batch it came from.
"""

import json
import re
import sys
from pathlib import Path

from tqdm import tqdm

from configs import command
from configs.errors import DataError, one_line
from eval import results
from eval.painting import picture_text, request, schedulers
from eval.painting.request import Request

SHOWN_OF_CUT = 40
SHOWN, LONGEST_SHOWN = 500, 20_000  # characters of a prompt on its line, and of a line inside a picture
DESCRIPTION = "Paints prompts with an SDXL repository, or shows the settings inside a picture it painted."


def paint(asked: Request, out: Path) -> list[Path]:
    """Paints all batches into `out`; the pictures' paths. Raises DataError, and only before the first is painted."""
    from eval.painting import painter, pictures

    request.check(asked)
    loaded = painter.load(asked)
    for prompt in dict.fromkeys((*asked.prompts, asked.negative_prompt or "")):
        if cut := painter.not_read(loaded, prompt):
            what = f"{one_line(prompt, SHOWN_OF_CUT)}: over 77 tokens, not read: {one_line(cut, SHOWN)}"
            print(f"eval.paint: {what}", file=sys.stderr)
    made, last = [], None
    jobs = [(iteration, prompt) for iteration in range(asked.n_iter) for prompt in asked.prompts]
    for iteration, prompt in tqdm(jobs, desc="pictures", unit="batch", disable=len(jobs) == 1):
        batch = painter.paint(loaded, prompt, asked.seeds(iteration))
        for last in batch:
            path = next_path(out, "")
            results.write_bytes(path, pictures.png(last.picture, picture_text.texts(last.made_with)))
            made.append(path)
            black = "  (black: flagged by the safety checker)" if last.made_with["flagged_by_safety_checker"] else ""
            tqdm.write(f"{path}  {one_line(prompt, SHOWN)}{black}")
        if len(batch) > 1:
            sheet = pictures.sheet([one.picture for one in batch], asked.n_rows or len(batch))
            settings = batch[0].made_with | {"seeds": [one.made_with["seed"] for one in batch]}
            results.write_bytes(next_path(out, "grid-"), pictures.png(sheet, picture_text.texts(settings)))
    assert last is not None
    print(f"{len(made)} pictures of {len(asked.prompts)} prompts; invisible watermark: {last.made_with['watermark']}")
    return made


def next_path(folder: Path, prefix: str) -> Path:
    """The file after the highest number there is."""
    names = (re.fullmatch(rf"{prefix}(\d+)\.png", path.name) for path in folder.glob(f"{prefix}*.png"))
    return folder / f"{prefix}{1 + max((int(name[1]) for name in names if name), default=-1):04d}.png"


def show(path: Path) -> None:
    """Prints what a picture was made with, in both forms. Raises DataError."""
    parameters, made_with = picture_text.read(path)
    shown = [*parameters.split("\n"), "", *json.dumps(made_with, ensure_ascii=False, indent=1).split("\n")]
    print("\n".join(one_line(line, LONGEST_SHOWN) for line in shown))  # a stranger's picture may hold anything


def parser() -> command.Parser:
    result = command.Parser("eval.paint", DESCRIPTION)
    add = result.add_argument
    add("repository", nargs="?", help="an SDXL base in diffusers layout: a folder or a hub name")
    add("--refiner", metavar="REPOSITORY", help="an SDXL refiner that paints the last steps")
    add("--prompt", action="append", default=[], help="what to paint; may be repeated")
    add("--from-file", type=Path, metavar="FILE", help="a UTF-8 file with one prompt a line; blank lines are skipped")
    add("--negative-prompt", help="what to keep out of the pictures")
    add("--steps", type=int, default=50, help="inference steps (default: 50)")
    add("--guidance", "--scale", type=float, default=5.0, help="guidance scale (default: 5)")
    add("--scheduler", metavar="NAME", help=f"{', '.join(schedulers.SCHEDULERS)} (default: the repository's own)")
    add("--seed", type=int, default=0, help="of each prompt's first picture, the next ones count on from it (default: 0)")
    add("--height", type=int, help="in pixels, a multiple of 8 (default: the repository's own)")
    add("--width", type=int, help="likewise")
    add("--n-samples", type=int, default=1, help="pictures in a batch: painted at once, and shown in one grid (default: 1)")
    add("--n-iter", type=int, default=1, help="batches for each prompt (default: 1)")
    add("--n-rows", type=int, help="pictures in a row of the grid (default: all of the batch)")
    add("--init-image", type=Path, metavar="FILE", help="the picture to start from: image to image")
    add("--strength", type=float, help=f"how much of it to paint anew, up to 1 (default: {request.STRENGTH})")
    add("--denoising-end", type=float, help=f"the share of the steps after which the refiner takes over (default: {request.DENOISING_END})")
    add("--safety-checker", metavar="MODEL", help="blacken what this StableDiffusionSafetyChecker flags; SDXL comes with none (default: none)")
    add("--no-watermark", action="store_true", help="without the invisible watermark that diffusers adds where invisible-watermark is installed")
    add("--out", type=command.output_folder, default=Path("outputs"), metavar="FOLDER", help="where the pictures go (default: outputs)")
    add("--show", type=Path, metavar="FILE.png", help="print the settings inside a picture, and paint nothing")
    return result


def main(argv: list[str] | None = None) -> int:
    def body() -> None:
        arguments = parser().parse_args(argv)
        if arguments.show:
            return show(arguments.show)
        if arguments.repository is None:
            raise DataError("no repository; give an SDXL base in diffusers layout, or --show FILE.png")
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
