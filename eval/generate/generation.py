"""Paints held-out captions with the student and with the teacher, from the same noise: do the
pictures agree, and is the right scene painted?
"""

import gc
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image, ImageDraw, ImageFont

from configs.schema.recipe import Recipe
from configs.schema.sources import WorldSource
from corpora import worlds
from corpora.worlds import World
from distill.encoders.family import Family
from distill.sdxl.base import settled
from distill.sdxl.pipelines import load_pipelines, quiet, require
from eval import card, held_out, results
from eval.generate import forms
from eval.pictures import agreement, painted, painting
from eval.pictures.painting import picture_path, png, sdxl_folders
from eval.pictures.scene_accuracy import by_source, scene_accuracy
from eval.report import report
from eval.rows import STUDENT, STUDENT_ENGLISH, TEACHER, UNTRANSLATED
from eval.states import prompt_forms
from eval.states.prompt_variants import SaidScene

COMMAND = "python -m eval.generate RECIPE"
OF_THE_STUDENT = (STUDENT, STUDENT_ENGLISH)
ROLE_SWAPPED = "role_swapped"  # behind the name of the world
EXAMPLES = 24
PAINTING = {
    "prompts",
    "inference_steps",
    "denoising_end",
    "guidance_scale",
    "seed",
}  # the settings a picture depends on
JUDGES = {"clip_model", "dino_model", "lpips_model"}  # those the numbers depend on besides
TILE = 256  # pixels a picture has in the grid


class HeldOutCaptions(NamedTuple):
    """What is painted; `scenes`, `world` and `said` (the captions as the world made them) are None
    where no scene can be read from a picture.
    """

    text: list[str]
    en: list[str]
    sources: list[str]
    scenes: list[Any] | None
    world: World | None = None
    said: list[SaidScene] | None = None


def generate(recipe: Recipe) -> None:
    """The stage: paints every row, measures, draws the grid, renders the report.

    Raises DataError.
    """
    recipe, family = settled(recipe)
    folder = recipe.run_dir / "eval"
    judges = recipe.eval.model_dump(mode="json", include=JUDGES)
    exports = _folders(recipe, STUDENT)
    sources = [*_folders(recipe, TEACHER), *filter(None, judges.values())]
    asked = {"judges": judges} | ({"forms": recipe.eval.forms} if recipe.eval.forms else {})
    digest = results.fingerprint(_settings(recipe) | asked, sources, exports)
    done = (
        results.finished(folder / "pictures.json", recipe.name, digest, COMMAND)
        and (folder / "grid.png").is_file()
    )
    if done and painted.all_whole(folder / "pictures"):
        print(f"{folder / 'pictures.json'} is already there for these settings")
    else:
        require(
            *painting.sdxl_folders(recipe, student=True),
            *painting.sdxl_folders(recipe, student=False),
        )
        captions = held_out_captions(recipe)
        other = forms.prompts(recipe, captions.said)
        rows = paint_rows(recipe, family, captions, other)
        language = recipe.text_language.name
        couples = [(_open(rows[TEACHER], i), _open(rows[STUDENT], i)) for i in _examples(captions)]
        results.write_bytes(folder / "grid.png", _png(grid(couples, language)))
        read = {"export_sha256": results.export_sha256(recipe.run_dir / "export" / "base")}
        measured = measure(recipe, captions, rows, other)
        result = {
            "recipe": recipe.name,
            "fingerprint": digest,
            **read,
            "prompts": len(captions.text),
            **measured,
            "card": card.pictures(len(captions.text), measured, recipe.text_language.name),
        }
        results.write(folder / "pictures.json", result)
    print(table(results.read(folder / "pictures.json", COMMAND)))
    print(f"report: {report.render(recipe, family)}")
    print(f"pictures: {folder / 'grid.png'}")


def held_out_captions(recipe: Recipe) -> HeldOutCaptions:
    """A world's held-out scenes where the recipe's first source is one, else the held-out pairs."""
    source = recipe.corpora.sources[0]
    if isinstance(source, WorldSource):
        world = worlds.of_source(source)
        couples = recipe.eval.prompts // 10
        made = world.pairs(recipe.eval.prompts - 2 * couples, "held_out", source.seed)
        said = [(caption, caption.phrasing) for caption in made]
        twins = world.held_out_twins(couples, source.seed)
        said += [(caption, ROLE_SWAPPED) for caption in twins]
        captions, phrasings = map(list, zip(*said, strict=True))
        return HeldOutCaptions(
            [caption.text for caption in captions],
            [caption.en for caption in captions],
            [f"{world.name}_{phrasing}" for phrasing in phrasings],
            [caption.scene for caption in captions],
            world,
            [SaidScene(caption, world) for caption in captions],
        )
    pairs = held_out.read(recipe, recipe.eval.prompts)
    return HeldOutCaptions(
        [pair.text for pair in pairs],
        [pair.en for pair in pairs],
        [pair.source for pair in pairs],
        None,
    )


def paint_rows(
    recipe: Recipe, family: Family, captions: HeldOutCaptions, other: dict[str, list[str]]
) -> dict[str, Path]:
    """Paints what is not painted yet; the folder of each row. `other`: the student's prompts in
    other forms, by row.

    The same prompt number has the same seed in every row.
    """
    jobs = {TEACHER: captions.en, STUDENT: captions.text} | (
        {UNTRANSLATED: captions.text} if captions.scenes else {}
    )
    if recipe.distill.english_share > 0:
        jobs[STUDENT_ENGLISH] = captions.en
    jobs |= other
    quiet()
    folders = {row: recipe.run_dir / "eval" / "pictures" / row for row in jobs}
    for student in (False, True):
        pipelines = None
        for row in (row for row in jobs if _of_the_student(row) == student):
            read = ([], _folders(recipe, row)) if student else (_folders(recipe, row), [])
            digest = results.fingerprint(_settings(recipe) | {"prompts": jobs[row]}, *read)
            inputs = {"recipe": recipe.name, "fingerprint": digest}
            if painting.is_painted(folders[row], len(jobs[row]), inputs):
                print(f"{folders[row]} is already painted")
                continue
            pipelines = pipelines or load_pipelines(*painting.sdxl_folders(recipe, student), family)
            painting.paint_all(pipelines, jobs[row], folders[row], inputs, recipe.eval)
        del pipelines
        gc.collect()  # the teacher's gigabytes must be gone before the student's come
    return folders


def measure(
    recipe: Recipe,
    captions: HeldOutCaptions,
    folders: dict[str, Path],
    other: dict[str, list[str]],
) -> dict[str, Any]:
    """`{"rows": {row: accuracies}, "forms": {form: accuracies}, "agreement": {row: {metric: mean}},
    "agreement_by_source": {source: {metric: mean}}, "examples"}`.

    The accuracies only where scenes can be read, those of forms where there are `other` prompts;
    the agreement by source is the student's.
    """
    source = recipe.corpora.sources[0]
    spoken = worlds.spoken_of(source) if isinstance(source, WorldSource) else None
    right: dict[str, list[bool]] = {}
    measured: dict[str, Any] = {row: {} for row in folders}
    for row, folder in folders.items():
        if captions.scenes and captions.world:
            measured[row], right[row] = scene_accuracy(
                captions.world, captions.scenes, captions.sources, folder, spoken
            )
    of_forms = forms.accuracies(other, captions.text, right, recipe.eval.seed)
    rows = {row: folder for row, folder in folders.items() if row not in other}
    paths = {
        row: [picture_path(folder, i) for i in range(len(captions.text))]
        for row, folder in rows.items()
    }
    agreements = agreement.compare(paths, TEACHER, captions.en, recipe.eval)
    examples = [
        {
            "number": number + 1,
            "text": captions.text[i],
            "en": captions.en[i],
            "pictures": {row: str(picture_path(Path("pictures", row), i)) for row in rows},
            "right": {row: right[row][i] for row in rows if row in right},
        }
        for number, i in enumerate(_examples(captions))
    ]

    def means(values: agreement.Values) -> dict[str, Any]:
        return {
            metric: agreement.mean(numbers, recipe.eval.seed) for metric, numbers in values.items()
        }

    parts = {
        metric: by_source(numbers, captions.sources)
        for metric, numbers in agreements[STUDENT].items()
    }
    return {
        "rows": {row: measured[row] for row in rows},
        **({"forms": of_forms} if other else {}),
        "agreement": {row: means(values) for row, values in agreements.items()},
        "agreement_by_source": {
            source: means({metric: part[source] for metric, part in parts.items()})
            for source in sorted(set(captions.sources))
        },
        "examples": examples,
    }


def grid(
    couples: list[tuple[Image.Image, Image.Image]], language: str, columns: int = 3
) -> Image.Image:
    """Numbered pairs, English left and the student's language right; small pictures are
    enlarged without smoothing. The texts are in the report.
    """
    gap, label = 12, 26
    width, height = 2 * TILE + gap // 3 + 2 * gap, TILE + label + gap
    sheet = Image.new("RGB", (columns * width, -(-len(couples) // columns) * height + gap), "white")
    draw = ImageDraw.Draw(sheet)
    for number, couple in enumerate(couples):
        x, y = number % columns * width + gap, number // columns * height + gap
        for side, (picture, name) in enumerate(zip(couple, ("English", language), strict=True)):
            left = x + side * (TILE + gap // 3)
            draw.text(
                (left, y),
                f"{number + 1}  {name}",
                fill="#444444",
                font=ImageFont.load_default(16),
            )
            resampling = (
                Image.Resampling.NEAREST if picture.width < TILE else Image.Resampling.LANCZOS
            )
            sheet.paste(picture.convert("RGB").resize((TILE, TILE), resampling), (left, y + label))
    return sheet


def table(result: dict[str, Any]) -> str:
    """The numbers for a terminal: scene accuracies, by source where there are several, and
    agreement.
    """
    lines = [f"{result['prompts']} prompts painted"]
    for row, numbers in result["rows"].items():
        if numbers:
            parts = ", ".join(
                f"{name} {part['value']:.0%}" for name, part in numbers["attributes"].items()
            )
            lines.append(f"{row:<34}{_percent(numbers['scene_accuracy'])}  {parts}")
            by_source = numbers["scene_accuracy_by_source"]
            lines += [
                f"  {source:<32}{_percent(one)}"
                for source, one in by_source.items()
                if len(by_source) > 1
            ]
            by_frequency = numbers.get("things_by_frequency", {})
            lines += [
                f"  things, pairs: {bucket:<17}{_percent(one)}"
                for bucket, one in by_frequency.items()
                if len(by_frequency) > 1
            ]
    for form, numbers in result.get("forms", {}).items():
        ratio = numbers["of_the_teacher"]
        of_teacher = (
            f"  {ratio['value']:.3f} ({ratio['low']:.3f} to {ratio['high']:.3f}) of the teacher's"
            if ratio
            else ""
        )
        total = f"{numbers['scene_accuracy']['total']} captions"
        lines.append(f"{form:<20}{total:<14}{_percent(numbers['scene_accuracy'])}{of_teacher}")
    lines.append(
        f"agreement with the English caption (clip_text) and the English picture{'':>4}95 % "
        "interval"
    )
    for row, metrics in result["agreement"].items():
        lines += [
            f"{row:<34}{metric:<16}{one['value']:>8.4f}{one['low']:>16.4f} to {one['high']:.4f}"
            for metric, one in metrics.items()
        ]
    return "\n".join(lines)


def _percent(share: dict[str, Any]) -> str:
    return f"{share['value']:>7.1%}  (95 % interval {share['low']:.1%} to {share['high']:.1%})"


def _settings(recipe: Recipe) -> dict[str, Any]:
    source = recipe.corpora.sources[0]
    painting = recipe.eval.model_dump(mode="json", include=PAINTING)
    return {
        "eval": painting,
        "source": source.model_dump(mode="json"),
        "base": recipe.distill.base,
        "refiner": recipe.distill.refiner,
    }


def _of_the_student(row: str) -> bool:
    return row in OF_THE_STUDENT or row.startswith(prompt_forms.STUDENTS)


def _folders(recipe: Recipe, row: str) -> list[str]:
    base, refiner = sdxl_folders(recipe, student=_of_the_student(row))
    return [base, refiner] if refiner else [base]


def _examples(captions: HeldOutCaptions) -> range:
    return range(min(EXAMPLES, len(captions.text)))


def _open(folder: Path, number: int) -> Image.Image:
    return Image.open(picture_path(folder, number)).convert("RGB")


def _png(picture: Image.Image) -> bytes:
    return png(picture)
