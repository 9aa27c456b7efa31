"""Prompts to pictures with the unmodified pipelines: base, then (where there is one, and unless it
is left out) refiner, as the SDXL card uses them.

In:  folders in diffusers layout (or hub names).
Out: `<folder>/0000.png`... one a prompt, each written whole; those already there for the same
     inputs are kept.
"""

import hashlib
import io
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from PIL import Image, PngImagePlugin
from tqdm import tqdm

from configs.schema.recipe import Eval, Recipe
from distill.sdxl.pipelines import Pipelines
from eval import results
from eval.pictures import painted


def generators(seed: int, first: int, count: int) -> list[torch.Generator]:
    """One generator a picture, on the CPU: picture number `first + i` starts from the same noise on
    any device and in any batch.
    """
    return [torch.Generator().manual_seed(seed * 1_000_003 + first + i) for i in range(count)]


def sdxl_folders(recipe: Recipe, student: bool) -> tuple[str, str | None]:
    """(base, refiner) of the teacher, or of the exported student; the refiner is None when the
    recipe leaves it out.
    """
    refiner = recipe.distill.refiner if recipe.eval.denoising_end < 1.0 else None
    if student:
        export = recipe.run_dir / "export"
        return str(export / "base"), str(export / "refiner") if refiner else None
    return recipe.distill.base.path, refiner.path if refiner else None


@torch.inference_mode()
def paint(
    pipelines: Pipelines, prompts: list[str], first: int, settings: Eval
) -> list[Image.Image]:
    """One batch of pictures; `first` is the number of the first prompt, for its seed."""
    noise = generators(settings.seed, first, len(prompts))
    shared = {
        "num_inference_steps": settings.inference_steps,
        "guidance_scale": settings.guidance_scale,
        "generator": noise,
    }
    if pipelines.refiner is None:
        return pipelines.base(prompt=prompts, **shared).images
    latents = pipelines.base(
        prompt=prompts, denoising_end=settings.denoising_end, output_type="latent", **shared
    ).images
    return pipelines.refiner(
        prompt=prompts, image=latents, denoising_start=settings.denoising_end, **shared
    ).images


def paint_all(
    pipelines: Pipelines, prompts: list[str], folder: Path, inputs: dict[str, Any], settings: Eval
) -> None:
    """Paints the prompts into `folder`, batch by batch, and goes on where an interrupted run
    stopped.

    `inputs` holds the `recipe` and the `fingerprint` of what the pictures are made from. Pictures
    of older inputs in the folder are replaced; another recipe's are refused with DataError.
    """
    if folder.exists() and not painted.is_of(folder, inputs):
        shutil.rmtree(folder)
    known = painted.digests(folder)
    painted.record(folder, inputs, known)
    with tqdm(total=len(prompts), desc=folder.name, unit="picture") as bar:
        for start in range(0, len(prompts), settings.batch_size):
            batch = prompts[start : start + settings.batch_size]
            paths = [picture_path(folder, start + i) for i in range(len(batch))]
            changed = [path for path in paths if not painted.is_whole(path, known)]
            for path in changed:
                if path.name in known:
                    bar.write(
                        f"{path}: missing, or changed since it was painted; painted again",
                        file=sys.stderr,
                    )
            if changed:
                for path, picture in zip(
                    paths, paint(pipelines, batch, start, settings), strict=True
                ):
                    content = png(picture)
                    results.write_bytes(path, content)
                    known[path.name] = hashlib.sha256(content).hexdigest()
                painted.record(folder, inputs, known)
            bar.update(len(batch))


def is_painted(folder: Path, count: int, inputs: dict[str, Any]) -> bool:
    """Whether all are there as they were painted, from these inputs.

    Raises DataError when they are another recipe's.
    """
    if not painted.is_of(folder, inputs):
        return False
    known = painted.digests(folder)
    return all(painted.is_whole(picture_path(folder, i), known) for i in range(count))


def picture_path(folder: Path, number: int) -> Path:
    return folder / f"{number:04d}.png"


def png(picture: Image.Image, texts: dict[str, str] | None = None) -> bytes:
    """The file's bytes; `texts` become iTXt chunks (UTF-8)."""
    chunks = PngImagePlugin.PngInfo()
    for name, text in (texts or {}).items():
        chunks.add_itxt(name, text)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", pnginfo=chunks)
    return buffer.getvalue()


def sheet(pictures: list[Image.Image], columns: int, gap: int = 2) -> Image.Image:
    """Pictures of one size side by side, `columns` in a row."""
    width, height = (side + gap for side in pictures[0].size)
    columns, rows = min(columns, len(pictures)), -(-len(pictures) // columns)
    result = Image.new("RGB", (columns * width - gap, rows * height - gap), "white")
    for i, picture in enumerate(pictures):
        result.paste(picture, (i % columns * width, i // columns * height))
    return result
