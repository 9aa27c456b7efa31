"""Folders of the earlier Japanese systems in the layout that this project reads: with a pipeline
class of diffusers, and weights in safetensors.

In:  a folder whose model_index.json names rinna's `JapaneseStableDiffusionPipeline`, or whose
     weights are `.bin` files alone, as torch.save wrote them.
Out: a folder of hard links with that class replaced by diffusers' own and these weights as
     safetensors, to the bit; what was changed, a line for each change.

A `.bin` is a pickle, which can hold code. It is read by `torch.load(weights_only=True)`, which
builds tensors and plain containers and runs nothing; what holds anything else is refused.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from configs import model_folder
from configs.errors import DataError, first_line
from configs.files import link, read_json, write_json
from configs.references import ModelName
from distill.sdxl import repository
from distill.sdxl.repository import INDEX, STEMS

# rinnakk/japanese-stable-diffusion: the stock pipeline, after `tokenizer.do_lower_case = True` and
# `tokenizer.model_max_length = 77`
JAPANESE = "JapaneseStableDiffusionPipeline"
STOCK = "StableDiffusionPipeline"
PICKLE_OF = {"model": "pytorch_model.bin", "diffusion_pytorch_model": "diffusion_pytorch_model.bin"}
TAKEN = (".json", ".safetensors", ".model", ".txt", ".md", ".py")  # `open_folder` refuses code


def fetch(reference: str) -> Path:
    """As `repository.fetch`; of a hub name also the `.bin` files of parts without safetensors.
    Raises DataError.
    """
    folder = repository.fetch(reference)
    if Path(ModelName(reference).path).is_dir():
        return folder
    missing = [f"{part}/{path.name}" for part, path in _pickles(folder).items()]
    return repository.fetch(reference, [*repository.SAFE_FILES, *missing]) if missing else folder


def is_earlier(folder: Path) -> bool:
    """Whether `rewrite` is needed before `repository.open_folder` can read it."""
    found = [path for path in _pickles(folder).values() if path.is_file()]
    return bool(found) or pipeline_class(folder) == JAPANESE


def pipeline_class(folder: Path) -> Any:
    """What model_index.json says; None without one."""
    return read_json(folder / INDEX).get("_class_name") if (folder / INDEX).is_file() else None


def rewrite(folder: Path, out: Path) -> list[str]:
    """Makes `out`; what was changed, one line each. Raises DataError."""
    model_folder.check_links(folder)
    changes = []
    pickles = {path: part for part, path in _pickles(folder).items() if path.is_file()}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and (path.suffix in TAKEN or path.name.startswith("LICENSE")):
            target = out / path.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            link(path, target)
    for path, part in pickles.items():
        name = f"{_stem(part)}.safetensors"
        save_file(read_tensors(path), out / part / name, metadata={"format": "pt"})
        changes.append(f"{part}: its weights are a pickle ({path.name}); the copy has {name}")
    if pipeline_class(folder) == JAPANESE:
        index = read_json(folder / INDEX)
        (out / INDEX).unlink()  # the link, not the original
        write_json(out / INDEX, index | {"_class_name": STOCK})
        changes.append(
            f"{INDEX}: {JAPANESE} is code that diffusers does not have; the copy is the {STOCK} "
            "it derives from"
        )
    return changes


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The state dict of a `.bin` file, without `position_ids`, a buffer that libraries make
    themselves. Raises DataError for a pickle of anything but tensors by name.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickles fail in many ways, and torch's advice is to load unsafely
        detail = first_line(error) if isinstance(error, OSError) else type(error).__name__
        raise DataError(
            f"{path}: cannot be read as a pickle of tensors alone ({detail}); nothing of it was "
            "run. Give a folder with safetensors, or fetch it again"
        ) from None
    tensors = content if isinstance(content, dict) else {}
    good = bool(tensors) and all(
        isinstance(name, str) and isinstance(value, torch.Tensor) and value.layout == torch.strided
        for name, value in tensors.items()
    )
    if not good:
        raise DataError(
            f"{path}: holds more than tensors by name, so that it is no model's weights; give a "
            "folder with safetensors"
        )
    return {
        name: value.detach().clone(memory_format=torch.contiguous_format)  # some share storage
        for name, value in tensors.items()
        if not name.endswith("position_ids")
    }


@contextmanager
def named_as(folder: Path, rewritten: Path) -> Iterator[None]:
    """Errors about `rewritten` name `folder`, which the user knows."""
    try:
        yield
    except DataError as error:
        raise DataError(str(error).replace(str(rewritten), str(folder))) from None


def _stem(part: str) -> str:
    return STEMS.get(part, "model")


def _pickles(folder: Path) -> dict[str, Path]:
    """By part of the pipeline without safetensors, the `.bin` that would be its weights, whether it
    is there or not.
    """
    parts = [
        part
        for part in (*STEMS, "text_encoder", "text_encoder_2")
        if (folder / part / "config.json").is_file()
        and not any((folder / part).glob("*.safetensors"))
    ]
    return {part: folder / part / PICKLE_OF[_stem(part)] for part in parts}
