"""Japanese prompts to pictures, beside what the English teacher paints; on toyworld also: is the right scene painted?

    python -m eval.generate configs/toyworld.yaml
    python -m eval.generate configs/toyworld.yaml --prompt "白い背景に大きな赤い丸"

In:  `<run>/export/base` and `<run>/export/refiner`, the teacher's SDXL folders; held-out captions (toyworld's grammar, else `<run>/pairs`).
Out: `<run>/eval/pictures/<row>/0000.png`..., `<run>/eval/grid.png` (left English, right Japanese, the same seed),
     `<run>/eval/pictures.json`, `<run>/eval/report.html`. With `--prompt` only `<run>/eval/prompts/0000.png`... (and their texts).

Rows: `english_teacher`, `japanese_student`, and on toyworld `japanese_through_english_encoder` (the teacher given Japanese).
"""

import gc
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from configs import command, schema
from configs.schema import Recipe, ToyworldSource
from corpora.toyworld import captions as toyworld_captions
from corpora.toyworld import scene_reader
from corpora.toyworld.scenes import Scene
from eval import held_out, report, results

COMMAND = "python -m eval.generate RECIPE"
ENGLISH, STUDENT, THROUGH_ENGLISH = "english_teacher", "japanese_student", "japanese_through_english_encoder"
EXAMPLES = 12
PAINTING = {"prompts", "inference_steps", "denoising_end", "guidance_scale", "seed"}  # the settings a picture depends on
TILE = 256  # pixels a picture has in the grid


class Captions(NamedTuple):
    """What is painted; `scenes` is None where no scene can be read from a picture."""

    ja: list[str]
    en: list[str]
    scenes: list[Scene] | None


def generate(recipe: Recipe) -> None:
    """The stage: paints every row, measures, draws the grid, renders the report. Raises DataError."""
    from distill.pipelines import require
    from eval import pictures

    folder = recipe.run_dir / "eval"
    digest = results.fingerprint(_settings(recipe), _sources(recipe, ENGLISH) + _sources(recipe, STUDENT))
    if results.finished(folder / "pictures.json", recipe.name, digest, COMMAND) and (folder / "grid.png").is_file():
        print(f"{folder / 'pictures.json'} is already there for these settings")
    else:
        require(*pictures.sdxl_folders(recipe, student=True), *pictures.sdxl_folders(recipe, student=False))
        captions = held_out_captions(recipe)
        rows = paint_rows(recipe, captions)
        results.write_bytes(folder / "grid.png", _png(grid([(_open(rows[ENGLISH], i), _open(rows[STUDENT], i)) for i in _examples(captions)])))
        result = {"recipe": recipe.name, "fingerprint": digest, "prompts": len(captions.ja), **measure(captions, rows)}
        results.write(folder / "pictures.json", result)
    print(table(results.read(folder / "pictures.json", COMMAND)))
    print(f"report: {report.render(recipe)}")
    print(f"pictures: {folder / 'grid.png'}")


def held_out_captions(recipe: Recipe) -> Captions:
    """Toyworld's held-out scenes where the recipe's first source is toyworld, else the held-out pairs."""
    source = recipe.corpora.sources[0]
    if isinstance(source, ToyworldSource):
        made = list(toyworld_captions.pairs(recipe.eval.prompts, "held_out", source.seed))
        return Captions([caption.ja for caption in made], [caption.en for caption in made], [caption.scene for caption in made])
    pairs = held_out.read(recipe, recipe.eval.prompts)
    return Captions([pair.ja for pair in pairs], [pair.en for pair in pairs], None)


def paint_rows(recipe: Recipe, captions: Captions) -> dict[str, Path]:
    """Paints what is not painted yet; the folder of each row. The same prompt number has the same seed in every row."""
    from distill.pipelines import load_pipelines, quiet
    from eval import pictures

    jobs = {ENGLISH: captions.en, STUDENT: captions.ja} | ({THROUGH_ENGLISH: captions.ja} if captions.scenes else {})
    quiet()
    folders = {row: recipe.run_dir / "eval" / "pictures" / row for row in jobs}
    for student in (False, True):
        pipelines = None
        for row in (row for row in jobs if (row == STUDENT) == student):
            inputs = {"recipe": recipe.name, "fingerprint": results.fingerprint(_settings(recipe) | {"prompts": jobs[row]}, _sources(recipe, row))}
            if pictures.is_painted(folders[row], len(jobs[row]), inputs):
                print(f"{folders[row]} is already painted")
                continue
            pipelines = pipelines or load_pipelines(*pictures.sdxl_folders(recipe, student))
            pictures.paint_all(pipelines, jobs[row], folders[row], inputs, recipe.eval)
        del pipelines
        gc.collect()  # the teacher's gigabytes must be gone before the student's come
    return folders


def measure(captions: Captions, rows: dict[str, Path]) -> dict[str, Any]:
    """`{"rows": {row: {"scene_accuracy", "attributes"}}, "examples"}`; the accuracies only where scenes can be read."""
    from eval.pictures import picture_path

    right: dict[str, list[bool]] = {}
    measured: dict[str, Any] = {row: {} for row in rows}
    for row, folder in rows.items():
        if captions.scenes:
            measured[row], right[row] = scene_accuracy(captions.scenes, folder)
    examples = [
        {
            "number": number + 1,
            "ja": captions.ja[i],
            "en": captions.en[i],
            "pictures": {row: str(picture_path(Path("pictures", row), i)) for row in rows},
            "right": {row: row_right[i] for row, row_right in right.items()},
        }
        for number, i in enumerate(_examples(captions))
    ]
    return {"rows": measured, "examples": examples}


def scene_accuracy(scenes: list[Scene], folder: Path) -> tuple[dict[str, Any], list[bool]]:
    """Shares of the pictures with every attribute right, and with each attribute right; and which pictures are right.

    Raises DataError when the pictures do not have toyworld's size.
    """
    from eval.metrics import share

    try:
        readings = scene_reader.read(np.stack([np.asarray(_open(folder, i)) for i in range(len(scenes))]))
    except ValueError as error:
        raise command.DataError(f"{folder}: no scenes can be read from these pictures ({error}); the recipe's base is not toyworld's") from None
    right = [scene_reader.matches(scene, reading) for scene, reading in zip(scenes, readings, strict=True)]
    attributes = [scene_reader.attribute_matches(scene, reading) for scene, reading in zip(scenes, readings, strict=True)]
    return {"scene_accuracy": share(right), "attributes": {name: share([one[name] for one in attributes]) for name in attributes[0]}}, right


def grid(couples: list[tuple[Image.Image, Image.Image]], columns: int = 3) -> Image.Image:
    """Numbered couples, English left and Japanese right; small pictures are enlarged without smoothing. The texts are in the report."""
    gap, label = 12, 26
    width, height = 2 * TILE + gap // 3 + 2 * gap, TILE + label + gap
    sheet = Image.new("RGB", (columns * width, -(-len(couples) // columns) * height + gap), "white")
    draw = ImageDraw.Draw(sheet)
    for number, couple in enumerate(couples):
        x, y = number % columns * width + gap, number // columns * height + gap
        for side, (picture, language) in enumerate(zip(couple, ("English", "Japanese"), strict=True)):
            left = x + side * (TILE + gap // 3)
            draw.text((left, y), f"{number + 1}  {language}", fill="#444444", font=ImageFont.load_default(16))
            resampling = Image.Resampling.NEAREST if picture.width < TILE else Image.Resampling.LANCZOS
            sheet.paste(picture.convert("RGB").resize((TILE, TILE), resampling), (left, y + label))
    return sheet


def table(result: dict[str, Any]) -> str:
    """Scene accuracies for a terminal, or how many pictures there are."""
    lines = [f"{result['prompts']} prompts painted"]
    for row, numbers in result["rows"].items():
        if numbers:
            accuracy = numbers["scene_accuracy"]
            parts = ", ".join(f"{name} {part['value']:.0%}" for name, part in numbers["attributes"].items())
            lines.append(f"{row:<34}{accuracy['value']:>7.1%}  (95 % interval {accuracy['low']:.1%} to {accuracy['high']:.1%})  {parts}")
    return "\n".join(lines)


def paint_prompts(recipe: Recipe, prompts: list[str]) -> None:
    """The user's own prompts, through the student alone; numbers go on after the pictures that are there. Raises DataError."""
    from distill.pipelines import load_pipelines
    from eval import pictures

    folder = recipe.run_dir / "eval" / "prompts"
    pipelines = load_pipelines(*pictures.sdxl_folders(recipe, student=True))
    folder.mkdir(parents=True, exist_ok=True)
    first = 1 + max((int(path.stem) for path in folder.glob("*.png") if path.stem.isdigit()), default=-1)
    made = []
    for start in tqdm(range(0, len(prompts), recipe.eval.batch_size), desc="pictures", unit="batch"):
        batch = prompts[start : start + recipe.eval.batch_size]
        for i, picture in enumerate(pictures.paint(pipelines, batch, start, recipe.eval)):
            path = pictures.picture_path(folder, first + start + i)
            results.write_bytes(path, pictures.png(picture))
            made.append((path, batch[i]))
    with open(folder / "prompts.jsonl", "a", encoding="utf-8") as file:
        for path, prompt in made:
            file.write(json.dumps({"picture": path.name, "prompt": prompt}, ensure_ascii=False) + "\n")
            print(f"{path}  {prompt}")


def _settings(recipe: Recipe) -> dict[str, Any]:
    source = recipe.corpora.sources[0]
    painting = recipe.eval.model_dump(mode="json", include=PAINTING)
    return {"eval": painting, "source": source.model_dump(mode="json"), "base": recipe.distill.base, "refiner": recipe.distill.refiner}


def _sources(recipe: Recipe, row: str) -> list[str | Path]:
    from eval.pictures import sdxl_folders

    base, refiner = sdxl_folders(recipe, student=row == STUDENT)
    return [base, refiner] if refiner else [base]


def _examples(captions: Captions) -> range:
    return range(min(EXAMPLES, len(captions.ja)))


def _open(folder: Path, number: int) -> Image.Image:
    from eval.pictures import picture_path

    return Image.open(picture_path(folder, number)).convert("RGB")


def _png(picture: Image.Image) -> bytes:
    from eval.pictures import png

    return png(picture)


def main(argv: list[str] | None = None) -> int:
    description = "Paints held-out prompts with the student and the teacher, or your own prompts with the student."
    parser = command.parser("eval.generate", description)
    parser.add_argument("--prompt", action="append", default=[], help="a Japanese prompt of your own; may be repeated")
    arguments = parser.parse_intermixed_args(argv)
    if not arguments.prompt:
        return command.run("eval.generate", description, generate, [arguments.recipe, *arguments.overrides])
    return command.guard("eval.generate", lambda: paint_prompts(schema.load(arguments.recipe, arguments.overrides), arguments.prompt))


if __name__ == "__main__":
    raise SystemExit(main())
