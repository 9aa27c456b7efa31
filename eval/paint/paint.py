"""Your own prompts to pictures, through any SDXL or SD repository: text to image, image to image,
base and refiner.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

from PIL import Image
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
    """Paints all batches into `out`; the paths of the pictures that are kept.

    Raises RecipeError and DataError, and only before the first is painted.
    """
    request.check(asked)
    loaded = painter.load(asked)
    for notice in loaded.notices:
        print(f"eval.paint: {notice}", file=sys.stderr)
    for prompt in dict.fromkeys((*asked.prompts, asked.negative_prompt or "")):
        if cut := painter.not_read(loaded, prompt):
            what = (
                f"{one_line(prompt, SHOWN_OF_CUT)}: over 77 tokens, not read: "
                f"{one_line(cut, SHOWN)}"
            )
            print(f"eval.paint: {what}", file=sys.stderr)
    made, count, last = [], 0, None
    jobs = [(iteration, prompt) for iteration in range(asked.n_iter) for prompt in asked.prompts]
    for iteration, prompt in tqdm(jobs, desc="pictures", unit="batch", disable=len(jobs) == 1):
        batch = painter.paint(loaded, prompt, asked.seeds(iteration))
        for last in batch:
            path = next_path(out, "")
            if not asked.skip_save:
                _write(path, last.picture, last.made_with)
                made.append(path)
            name = f"seed {last.made_with['seed']}" if asked.skip_save else path
            flagged = last.made_with[painter.FLAGGED]
            black = "  (black: flagged by the safety checker)" if flagged else ""
            tqdm.write(f"{name}  {one_line(prompt, SHOWN)}{black}")
        count += len(batch)
        if not asked.skip_grid and (len(batch) > 1 or asked.skip_save):
            _write_grid(loaded, batch, out)
    assert last is not None
    kept = " (not kept)" if asked.skip_save else ""
    print(
        f"{count} pictures of {len(asked.prompts)} prompts{kept}; invisible watermark: "
        f"{last.made_with['watermark']}"
    )
    return made


def _write_grid(loaded: painter.Painter, batch: list[painter.Painted], out: Path) -> None:
    """One batch side by side; in a family whose pipelines write no watermark it has its own."""
    columns = loaded.request.n_rows or len(batch)
    sheet = painting.sheet([one.picture for one in batch], columns)
    settings = batch[0].made_with | {"seeds": [one.made_with["seed"] for one in batch]}
    if loaded.family.watermark is not None:
        settings["watermark"] = painter.mark(loaded, sheet)
    _write(next_path(out, "grid-"), painter.marked(loaded, sheet), settings)


def _write(path: Path, picture: Image.Image, made_with: dict[str, Any]) -> None:
    results.write_bytes(path, painting.png(picture, picture_text.texts(made_with)))


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
