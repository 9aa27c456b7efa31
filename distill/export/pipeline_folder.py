"""The exported folders: encoders that hold the student once, and pipelines that link them beside
the rest of an SDXL or SD.

In:  a checkpoint's `student.safetensors`, a tokenizer folder, and folders in diffusers layout.
Out: `encoders/` (tokenizers and text encoders alone), and whole pipelines whose files are hard
     links to it and to the other folder's own (copies across disks), each with `verification.json`.

Every file is written here, never by `save_pretrained`: transformers 5 drops the `text_model.`
prefix, and transformers 4 then loads a silently random encoder; it also writes tokenizer class
names that transformers 4 does not know.
"""

import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from configs import stored_weights
from configs.errors import DataError
from configs.files import link, read_json, write_json
from configs.stored_weights import variant_of
from distill.encoders.family import EncoderPart, Family
from distill.sdxl.repository import (
    INDEX,
    STEMS,
    TOKEN_EMBEDDING,
    WEIGHTS,
    check_weights,
    open_folder,
    read_index,
    tensor_shapes,
)
from distill.tokenizer import portable
from distill.verify import readings
from distill.verify.record import VERIFICATION, Verification

TOKENIZER_CLASS = "PreTrainedTokenizerFast"
VARIANTS = {"fp16": torch.float16, "bf16": torch.bfloat16}
RENAMED = {"CLIPFeatureExtractor": "CLIPImageProcessor"}  # transformers 5 knows only the new name
# The stock configs say float16, and transformers 5 would follow it; names and versions are those of
# another file.
DROPPED_KEYS = ("_name_or_path", "dtype", "torch_dtype", "transformers_version")


@dataclass(frozen=True)
class Student:
    """`weights`: the checkpoint's file, whose names are transformers' behind those of the family's
    parts (`clip_l.`).
    """

    weights: Path
    tokenizer: Path

    def names(self, encoder: str) -> dict[str, str]:
        """Names in the encoder's own file by those in `weights`. Raises DataError."""
        found = {
            name: name.removeprefix(f"{encoder}.")
            for name in tensor_shapes(self.weights)
            if name.startswith(f"{encoder}.")
        }
        if TOKEN_EMBEDDING not in found.values():
            raise DataError(
                f"{self.weights}: holds no {encoder}.{TOKEN_EMBEDDING}; it is no student of this "
                "project"
            )
        return found


def write_encoders(
    folder: Path, student: Student, teacher: Path, family: Family, variants: tuple[str, ...]
) -> None:
    """All text encoders with their tokenizers: fp32, and `model.<variant>.safetensors` beside it.

    Raises DataError.
    """
    for name, part in family.parts.items():
        tokenizer, encoder = part.tokenizer, part.subfolder
        names = student.names(name)
        (folder / encoder).mkdir()
        _write_config(
            folder / encoder / "config.json",
            read_json(teacher / encoder / "config.json"),
            name,
            part,
            student,
        )
        shutil.copytree(student.tokenizer, folder / tokenizer)
        _write_weights(folder / encoder / WEIGHTS, student.weights, names, torch.float32)
        for variant in variants:
            _write_weights(
                folder / encoder / f"model.{variant}.safetensors",
                student.weights,
                names,
                VARIANTS[variant],
            )


def assemble(folder: Path, encoders: Path, rest: Path, family: Family) -> None:
    """A pipeline like `rest` with the encoders of `encoders`, both of `family`; nothing is copied
    where hard links can be made. Raises DataError.
    """
    index = read_index(rest)
    if index.get("_class_name") not in family.pipelines:
        raise DataError(
            f"{rest / INDEX}: its _class_name is {index.get('_class_name')!r}, not one of "
            f"{family.pipelines}; give an {family.name} folder"
        )
    ours = [
        part for part in family.parts.values() if index.get(part.subfolder, [None])[0]
    ]  # the refiner has no first encoder
    for part in ours:
        index[part.tokenizer] = ["transformers", TOKENIZER_CLASS]
        index[part.subfolder] = ["transformers", part.class_name]
        link_files(encoders / part.tokenizer, folder / part.tokenizer)
        link_files(encoders / part.subfolder, folder / part.subfolder)
    for name, entry in index.items():
        if isinstance(entry, list) and entry[0] and not (folder / name).is_dir():
            index[name] = [entry[0], RENAMED.get(entry[1], entry[1])]
            link_files(rest / name, folder / name, STEMS.get(name))
            if name in STEMS:
                check_weights(rest / name, STEMS[name])
    _check_widths(folder, ours, rest, family)
    for licence in rest.glob("LICENSE*"):
        link(licence, folder / licence.name)
    write_json(
        folder / INDEX, {key: value for key, value in index.items() if key != "_name_or_path"}
    )


def verify(
    folder: Path, made_from: dict[str, str], prompts: tuple[str, ...] = readings.PROMPTS
) -> float:
    """Loads the folder as anyone would, compares it with the trainer's forward, writes
    `verification.json`.

    Returns the largest difference of a prompt's states, relative to the largest number in them.
    Raises DataError.
    """
    repository = open_folder(folder)
    for encoder in repository.encoders:
        readings.check_portable(encoder)
    stock = readings.stock_reading(repository, prompts)
    trained = readings.trainers_reading(repository, prompts)
    difference = stock.difference(trained)
    worst = max(difference)
    if worst > readings.TOLERANCE:
        prompt = prompts[difference.index(worst)]
        raise DataError(
            f"{folder}: the stock pipeline gives other states than the trainer's for {prompt!r} "
            f"(by {worst:.1e}); please report this"
        )
    Verification.seal(
        made_from=made_from,
        made_with=readings.versions(),
        largest_relative_difference=worst,
        files=readings.digests(folder),
        prompts=[
            row.model_dump(mode="json") for row in readings.rows(repository, trained, prompts)
        ],
    ).write(folder / VERIFICATION)
    return worst


def link_files(source: Path, target: Path, stem: str | None = None) -> None:
    """Hard links (or copies, across disks) the JSON and safetensors files of one part of a
    pipeline. Raises DataError.

    `stem`: of its weights. Those that lie there in a half-precision variant alone get plain names
    too, so that what is exported loads without a `variant`.
    """
    files = [path for path in sorted(source.glob("*")) if path.suffix in (".json", ".safetensors")]
    if not files:
        raise DataError(f"{source}: holds no JSON or safetensors file; fetch the folder again")
    names = {path.name: path for path in files}
    if stem is not None and variant_of(source, stem) is not None:
        names |= stored_weights.find(source, stem).plain_names
    target.mkdir()
    for name, path in names.items():
        link(path, target / name)


def _write_config(
    path: Path, config: dict[str, Any], name: str, part: EncoderPart, student: Student
) -> None:
    """The teacher's config with the new vocabulary.

    Raises DataError when tokenizer and weights are not of one vocabulary.
    """
    vocabulary = tensor_shapes(student.weights)[f"{name}.{TOKEN_EMBEDDING}"][0]
    tokenizer = portable.load(student.tokenizer)
    found = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.model_max_length)
    wanted = (vocabulary - 2, vocabulary - 1, config.get("max_position_embeddings"))
    # EOS as the highest id makes both rules by which CLIP finds it agree: the largest id, and the
    # first `eos_token_id`
    if found != wanted:
        raise DataError(
            f"{student.tokenizer}: BOS, EOS and length are {found}, {name}'s weights need "
            f"{wanted}; run vocab_init again"
        )
    kept = {key: value for key, value in config.items() if key not in DROPPED_KEYS}
    ids = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    write_json(
        path,
        {
            **kept,
            "architectures": [part.class_name],
            "vocab_size": vocabulary,
            **ids,
            "torch_dtype": "float32",
        },
    )


def _write_weights(path: Path, source: Path, names: dict[str, str], dtype: torch.dtype) -> None:
    """The weights as large as they are, in memory once: fp32 stays mapped from the checkpoint's
    file. Raises DataError.
    """
    shapes = tensor_shapes(source)
    # one block: hundreds of small ones would be kept by the allocator when they are freed
    block = torch.empty(
        0 if dtype == torch.float32 else sum(math.prod(shapes[name]) for name in names), dtype=dtype
    )
    tensors, used = {}, 0
    for old, new in names.items():
        tensor = _mapped(source, old)
        if dtype != torch.float32:
            place = block[used : used + tensor.numel()].view_as(tensor)
            tensor, used = place.copy_(tensor), used + tensor.numel()
        if not tensor.isfinite().all():
            raise DataError(
                f"{source}: {old} holds NaN, infinity, or numbers too large for {dtype}; export an "
                "older checkpoint, or drop the variant"
            )
        tensors[new] = tensor.float() if dtype == torch.float32 else tensor
    save_file(tensors, path, metadata={"format": "pt"})
    tensors.clear()
    if not all(
        torch.equal(_mapped(path, new), _mapped(source, old).to(dtype))
        for old, new in names.items()
    ):
        raise DataError(
            f"{path}: holds other numbers than the checkpoint it was written from; is the disk "
            "sound?"
        )


def _mapped(path: Path, name: str) -> torch.Tensor:
    """One tensor, mapped from a file opened for it alone: once it is gone, its pages are given
    back.
    """
    with safe_open(path, framework="pt") as file:
        tensor: torch.Tensor = file.get_tensor(name)
    return tensor


def _check_widths(folder: Path, ours: list[EncoderPart], rest: Path, family: Family) -> None:
    """The UNet must read states as wide as the encoders'. Raises DataError."""
    widths = [read_json(folder / part.subfolder / "config.json")["hidden_size"] for part in ours]
    wanted = read_json(folder / "unet" / "config.json").get("cross_attention_dim")
    if sum(widths) != wanted:
        raise DataError(
            f"{rest}: its UNet reads {wanted} numbers, the encoders give {sum(widths)} at a "
            f"position; give an {family.name} of the teacher's size"
        )
