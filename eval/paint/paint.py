"""Your own prompts to pictures, through any SDXL repository: text to image, image to image, base
and refiner.
"""

import json
import re
import sys
from pathlib import Path

from tqdm import tqdm

from configs.errors import one_line
from eval import results
from eval.paint import painter, picture_text, request
from eval.paint.request import Request
from eval.pictures import painting

SHOWN_OF_CUT = 40
SHOWN, LONGEST_SHOWN = (
    500,
    20_000,
)  # characters of a prompt on its line, and of a line inside a picture


def paint(asked: Request, out: Path) -> list[Path]:
    """Paints all batches into `out`; the pictures' paths.

    Raises DataError, and only before the first is painted.
    """
    request.check(asked)
    loaded = painter.load(asked)
    for prompt in dict.fromkeys((*asked.prompts, asked.negative_prompt or "")):
        if cut := painter.not_read(loaded, prompt):
            what = (
                f"{one_line(prompt, SHOWN_OF_CUT)}: over 77 tokens, not read: "
                f"{one_line(cut, SHOWN)}"
            )
            print(f"eval.paint: {what}", file=sys.stderr)
    made, last = [], None
    jobs = [(iteration, prompt) for iteration in range(asked.n_iter) for prompt in asked.prompts]
    for iteration, prompt in tqdm(jobs, desc="pictures", unit="batch", disable=len(jobs) == 1):
        batch = painter.paint(loaded, prompt, asked.seeds(iteration))
        for last in batch:
            path = next_path(out, "")
            results.write_bytes(
                path, painting.png(last.picture, picture_text.texts(last.made_with))
            )
            made.append(path)
            black = (
                "  (black: flagged by the safety checker)"
                if last.made_with["flagged_by_safety_checker"]
                else ""
            )
            tqdm.write(f"{path}  {one_line(prompt, SHOWN)}{black}")
        if len(batch) > 1:
            sheet = painting.sheet([one.picture for one in batch], asked.n_rows or len(batch))
            settings = batch[0].made_with | {"seeds": [one.made_with["seed"] for one in batch]}
            results.write_bytes(
                next_path(out, "grid-"), painting.png(sheet, picture_text.texts(settings))
            )
    assert last is not None
    print(
        f"{len(made)} pictures of {len(asked.prompts)} prompts; invisible watermark: "
        f"{last.made_with['watermark']}"
    )
    return made


def next_path(folder: Path, prefix: str) -> Path:
    """The file after the highest number there is."""
    names = (
        re.fullmatch(rf"{prefix}(\d+)\.png", path.name) for path in folder.glob(f"{prefix}*.png")
    )
    return (
        folder / f"{prefix}{1 + max((int(name[1]) for name in names if name), default=-1):04d}.png"
    )


def show(path: Path) -> None:
    """Prints what a picture was made with, in both forms. Raises DataError."""
    parameters, made_with = picture_text.read(path)
    shown = [
        *parameters.split("\n"),
        "",
        *json.dumps(made_with, ensure_ascii=False, indent=1).split("\n"),
    ]
    print(
        "\n".join(one_line(line, LONGEST_SHOWN) for line in shown)
    )  # a stranger's picture may hold anything
