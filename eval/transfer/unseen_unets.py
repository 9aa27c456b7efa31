"""Does the student serve UNets it never saw: fine-tuned ones, LoRAs, others' SDXLs that kept the
text encoders?
"""

from pathlib import Path
from typing import Any

from configs.errors import DataError, RecipeError
from configs.schema.recipe import Recipe
from distill.encoders.family import Family
from distill.encoders.teacher import Encoding, TextEncoders, load_text_encoders
from distill.sdxl.base import settled, unpack_files
from distill.sdxl.pipelines import Pipelines, device, load_base, load_refiner, quiet
from distill.sdxl.repository import fetch, read_index
from eval import held_out, results
from eval.compare_hidden_states.states import on_cpu
from eval.generate import generation
from eval.pictures import painting
from eval.pictures.scene_accuracy import scene_accuracy
from eval.rows import STUDENT, TEACHER
from eval.states import noise_gap

COMMAND = "python -m eval.transfer RECIPE"
OWN = "trained_with"
SETTINGS = {
    "timesteps",
    "gap_pairs",
    "prompts",
    "inference_steps",
    "denoising_end",
    "guidance_scale",
    "seed",
}


def transfer(recipe: Recipe) -> None:
    """The stage. Raises DataError, RecipeError."""
    if not recipe.eval.unets:
        raise RecipeError(
            "eval.unets: names no UNet; give some, for example 'eval.unets={style: "
            "runs/other_unets/style}'"
        )
    recipe, family = settled(recipe)
    path, student = recipe.run_dir / "eval" / "transfer.json", recipe.run_dir / "export" / "base"
    if not student.is_dir():
        raise DataError(
            f"{student}: there is no exported student; make it with: python -m distill.export "
            "RECIPE"
        )
    unpack_files(recipe.eval.unets.values())
    folders = {OWN: recipe.distill.base.path} | {
        name: folder.path for name, folder in recipe.eval.unets.items()
    }
    settings = {"eval": recipe.eval.model_dump(mode="json", include=SETTINGS), "folders": folders}
    digest = results.fingerprint(
        settings, [*folders.values(), recipe.run_dir / "pairs"], exports=[student]
    )
    if results.finished(path, recipe.name, digest, COMMAND):
        print(f"{path} is already there for these settings")
    else:
        results.write(
            path,
            {"recipe": recipe.name, "fingerprint": digest}
            | measure(recipe, family, folders, student),
        )
    print(table(results.read(path, COMMAND)))


def measure(
    recipe: Recipe, family: Family, folders: dict[str, str], student_folder: Path
) -> dict[str, Any]:
    """`{"gap_pairs", "prompts", "unets": {name: {"noise_gap": {"value", "low", "high"},
    "scene_accuracy": {row: share}}}}`.
    """
    quiet()
    english, japanese = zip(
        *((pair.en, pair.text) for pair in held_out.read(recipe, recipe.eval.gap_pairs)),
        strict=True,
    )
    student = load_text_encoders(student_folder, family)
    teacher = load_text_encoders(folders[OWN], family, recipe.distill.teacher)
    encodings = {
        TEACHER: encode(teacher, list(english), recipe.eval.batch_size),
        STUDENT: encode(student, list(japanese), recipe.eval.batch_size),
        noise_gap.EMPTY: encode(teacher, [""], 1),
    }
    captions = generation.held_out_captions(recipe)
    own, found = load_base(folders[OWN], family), {}
    for name, folder in folders.items():
        pipelines, unet = pipelines_of(own, folder, family)
        compared = [(STUDENT, TEACHER), noise_gap.REACTION]
        distances = noise_gap.distances(
            pipelines,
            family,
            list(english),
            encodings,
            {"base": compared, "refiner": compared},
            recipe.eval,
        )
        gap = distances[unet].gap(STUDENT, recipe.eval.seed)
        found[name] = {"noise_gap": {key: gap[key] for key in ("value", "low", "high")}}
        if captions.scenes and unet == "base":
            found[name]["scene_accuracy"] = paint(recipe, name, pipelines, captions, student)
    return {"gap_pairs": len(english), "prompts": len(captions.text), "unets": found}


def encode(encoders: TextEncoders, texts: list[str], batch_size: int) -> Encoding:
    """All texts, on the CPU."""
    encoders.to(device())
    starts = range(0, len(texts), batch_size)
    return on_cpu(
        [encoders.encode(texts[start : start + batch_size]) for start in starts], len(texts)
    )


def pipelines_of(own: Any, folder: str, family: Family) -> tuple[Pipelines, str]:
    """The pipelines that run this folder's UNet, and which of the two it is: a refiner needs the
    recipe's own base before it.
    """
    if not read_index(fetch(folder)).get("text_encoder", [None])[0]:
        return Pipelines(own, load_refiner(folder, family)), "refiner"
    return Pipelines(load_base(folder, family), None), "base"


def paint(
    recipe: Recipe, name: str, pipelines: Pipelines, captions: Any, student: TextEncoders
) -> dict[str, Any]:
    """The share of right scenes by row; pictures under `<run>/eval/transfer/<name>/<row>/` are kept
    for the next time.
    """
    accuracies = {}
    for row, prompts in ((TEACHER, captions.en), (STUDENT, captions.text)):
        if row == STUDENT:
            for name_of_part, part in student.family.parts.items():
                modules = {
                    part.subfolder: student.models[name_of_part].to(device()),
                    part.tokenizer: student.tokenizers[name_of_part],
                }
                pipelines.base.register_modules(**modules)
        folder = recipe.run_dir / "eval" / "transfer" / name / row
        unet, export = (
            recipe.eval.unets.get(name, recipe.distill.base).path,
            recipe.run_dir / "export" / "base",
        )
        settings = recipe.eval.model_dump(mode="json", include=SETTINGS)
        inputs = {
            "recipe": recipe.name,
            "fingerprint": results.fingerprint(
                {"eval": settings, "prompts": prompts}, [unet], exports=[export]
            ),
        }
        painting.paint_all(pipelines, prompts, folder, inputs, recipe.eval)
        numbers, _ = scene_accuracy(captions.world, captions.scenes, captions.sources, folder)
        accuracies[row] = numbers["scene_accuracy"]
    return accuracies


def table(result: dict[str, Any]) -> str:
    """One line a UNet."""
    lines = [
        f"{'UNet':<24}{'noise-prediction gap':>22}   95 % interval        right scenes: English, "
        "teacher           student"
    ]
    for name, numbers in result["unets"].items():
        gap, accuracy = numbers["noise_gap"], numbers.get("scene_accuracy")
        shares = [f"{row['value']:.1%}" for row in accuracy.values()] if accuracy else ["-", "-"]
        lines.append(
            f"{name:<24}{gap['value']:>22.4f}   {gap['low']:.4f} to "
            f"{gap['high']:.4f}{shares[0]:>34}{shares[1]:>20}"
        )
    return "\n".join(lines)
