"""Turns the newest checkpoint into folders that unmodified SDXL pipelines load, or into the encoders alone.

In:  `<run>/distill/latest` and the checkpoint it names, `<run>/initial_student/tokenizer/`, and the folders of `distill.base` and
     `distill.refiner` (the rest of each pipeline: its files are hard-linked, or copied from another disk).
Out: `<run>/export/base` and `<run>/export/refiner` in diffusers layout, or with `export.encoders_only` `<run>/export/encoders`;
     each with a model card (`README.md`) and `verification.json`. A folder appears whole or not at all.

    python -m distill.export configs/toyworld.yaml
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from configs import command
from configs.command import DataError
from configs.schema import Recipe, resolve_model

if TYPE_CHECKING:
    import torch


def export(recipe: Recipe) -> None:
    """The stage. Raises DataError when something read is missing, damaged or does not fit, or another result is in the way."""
    from configs.files import file_sha256
    from distill import checkpoint, pipeline_folder

    folder = recipe.run_dir / "export"
    if recipe.export.encoders_only:
        teachers = {"encoders": recipe.distill.base}
    else:
        teachers = {"base": recipe.distill.base} | ({"refiner": recipe.distill.refiner} if recipe.distill.refiner else {})
    newest = checkpoint.latest(recipe.run_dir / "distill")  # its digests are checked there
    if newest is None:
        raise DataError(f"{recipe.run_dir / 'distill'}: there is no finished checkpoint; run distill.train first")
    made_from = {"recipe": recipe.name, "checkpoint": newest.name, "manifest_sha256": file_sha256(newest / checkpoint.MANIFEST)}
    provenances = {name: {**made_from, "teacher": teacher} for name, teacher in teachers.items()}
    todo = {name: provenance for name, provenance in provenances.items() if not is_finished(folder / name, provenance)}
    weights = read_weights(newest / "student.safetensors") if todo else {}
    for name, provenance in todo.items():
        source = pipeline_folder.Source(weights, recipe.run_dir / "initial_student" / "tokenizer", provenance)
        with appears_whole(folder / name) as partial:
            pipeline_folder.write_folder(partial, teacher_folder(provenance["teacher"]), source, encoders_only=recipe.export.encoders_only)
        print(f"{folder / name}: written from {newest.name}, reloaded and compared")


def read_weights(path: Path) -> "dict[str, dict[str, torch.Tensor]]":
    """The student's fp32 weights by encoder, `clip_l.` and `clip_bigg.` taken off. Raises DataError."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from distill.pipeline_folder import CLASSES, TOKEN_EMBEDDING

    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path}: cannot be read ({error}); name an older checkpoint in `latest`") from None
    weights: dict[str, dict[str, torch.Tensor]] = {name: {} for name in CLASSES}
    for key, tensor in tensors.items():
        name, _, rest = key.partition(".")
        if name in weights:
            weights[name][rest] = tensor.float()
    for name, state in weights.items():
        if TOKEN_EMBEDDING not in state:
            raise DataError(f"{path}: holds no {name}.{TOKEN_EMBEDDING}; it is no student of this project")
    return weights


def teacher_folder(reference: str) -> Path:
    """The local folder of a teacher; a hub name is fetched (safetensors and JSON of the stock precision only). Raises DataError."""
    from distill.teacher import first_line, looks_like_hub_name

    folder = Path(resolve_model(reference))
    if folder.is_dir():
        return folder
    if not looks_like_hub_name(reference):
        raise DataError(f"{folder}: there is no such folder; give an SDXL folder in diffusers layout, or its hub name")
    from huggingface_hub import snapshot_download

    wanted = ["model_index.json", "text_encoder*/config.json", "scheduler/*.json"]
    wanted += [f"{part}/*.{kind}" for part in ("unet", "vae") for kind in ("json", "safetensors")]
    try:
        return Path(snapshot_download(reference, allow_patterns=wanted, ignore_patterns=["*.fp16.*"]))
    except Exception as error:  # the hub's client raises its own kinds for no network, no such name, no access
        raise DataError(f"{reference}: cannot be fetched ({first_line(error)}); fetch it with `hf download` where there is a network") from error


@contextmanager
def appears_whole(folder: Path) -> Iterator[Path]:
    """A sibling to write into; it takes its final name only when the block ends without an error."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # what a killed run left
    partial.mkdir(parents=True)
    try:
        yield partial
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def is_finished(folder: Path, provenance: dict[str, str]) -> bool:
    """Whether `folder` holds this very export. Raises DataError if it holds anything else."""
    if not folder.exists():
        return False
    try:
        found = json.loads((folder / "verification.json").read_text(encoding="utf-8"))["made_from"]
    except (OSError, ValueError, KeyError):
        raise DataError(f"{folder}: holds something that is no export of this project; move it away") from None
    if found != provenance:
        made_from = f"{found.get('checkpoint')} of {found.get('recipe')}, teacher {found.get('teacher')}"
        raise DataError(f"{folder}: holds another export ({made_from}); move it away, or delete it to export {provenance['checkpoint']}")
    print(f"{folder}: already exported from {provenance['checkpoint']}")
    return True


def main(argv: list[str] | None = None) -> int:
    return command.run("distill.export", "Writes folders that unmodified SDXL pipelines load, from the newest checkpoint.", export, argv)


if __name__ == "__main__":
    raise SystemExit(main())
