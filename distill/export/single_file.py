"""A whole pipeline as one `.safetensors` in the names of the original code, as kohya's scripts,
ComfyUI and the web UIs write it, but with our vocabulary.

In:  an exported pipeline in diffusers layout.
Out: `NAME.safetensors` beside it, its numbers those of the folder bit for bit. diffusers reads it
     with `from_single_file(..., config=FOLDER)`, which takes the tokenizers from there.

What a file of this kind cannot say stands in its folder: the configs, the tokenizers and the
scheduler, of which `v_pred` and `ztsnr` alone go into the file.
"""

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from configs import stored_weights
from configs.errors import DataError, explained
from configs.files import check_room, file_sha256, read_json, whole
from distill.encoders import open_clip_weights
from distill.encoders.tower import with_prefix
from distill.sdxl.repository import INDEX, read_index
from distill.unpack import convert, original_names
from distill.unpack.checkpoint_file import open_checkpoint
from distill.unpack.kinds import SD_1, SDXL_BASE, SDXL_REFINER, CheckpointKind
from distill.unpack.writing import V_PREDICTION, ZERO_SNR
from distill.verify.record import VERIFICATION

CONFIG, SCHEDULER = "config.json", "scheduler/scheduler_config.json"
MADE_FROM = "verification_sha256"  # in the file's metadata: of the folder's verification.json
WIDTH_OF_SD_2 = 1024


def write(folder: Path) -> Path:
    """The file beside `folder`; one that was written from this very export is left as it is.

    Raises DataError.
    """
    path = folder.with_name(f"{folder.name}.safetensors")
    made_from = file_sha256(folder / VERIFICATION)
    if path.exists() and _made_from(path) == made_from:
        print(f"{path}: already written from {folder.name}")
        return path
    kind = _kind(folder)
    stored = {part: _stored(folder / part, stem) for part, stem in _stems(kind).items()}
    check_room(folder.parent, _size(stored))
    with whole(path) as partial:
        tensors = _renamed(folder, kind, stored) | _flags(folder)
        save_file(tensors, partial, metadata={"format": "pt", MADE_FROM: made_from})
        tensors.clear()
        _compare(partial, folder, kind, stored)
    print(f"{path}: written from {folder.name}, read again and compared")
    return path


def _kind(folder: Path) -> CheckpointKind:
    """Which single file the pipeline makes. Raises DataError."""
    index = read_index(folder)
    has = {name for name, entry in index.items() if isinstance(entry, list) and entry[0]}
    for kind in (SDXL_BASE, SDXL_REFINER, SD_1):
        parts = {kind.family.parts[part].subfolder for part in kind.encoders}
        others = {part.subfolder for part in kind.family.parts.values()} - parts
        width = read_json(folder / "unet" / CONFIG)["cross_attention_dim"]
        fits = index["_class_name"] in kind.family.pipelines and parts <= has and not others & has
        if fits and not (kind is SD_1 and width == WIDTH_OF_SD_2):
            return kind
    raise DataError(
        f"{folder / INDEX}: a {index.get('_class_name')} that makes no single file here; "
        "--single-file writes an SDXL base or refiner or an SD 1.x"
    )


def _stems(kind: CheckpointKind) -> dict[str, str]:
    """By folder, the stem of its weights' files."""
    encoders = [kind.family.parts[part].subfolder for part in kind.encoders]
    stems = dict.fromkeys(encoders, stored_weights.ENCODER_STEM)
    return stems | dict.fromkeys(("unet", "vae"), stored_weights.DIFFUSERS_STEM)


def _stored(folder: Path, stem: str) -> convert.Tensors:
    """All tensors, mapped from disk. Raises DataError."""
    found: convert.Tensors = {}
    for path in stored_weights.find(folder, stem).files:
        with safe_open(path, "pt") as file:
            keys = file.keys()  # the handle is no mapping
            found |= {name: file.get_tensor(name) for name in keys}
    return found


def _renamed(
    folder: Path, kind: CheckpointKind, stored: dict[str, convert.Tensors]
) -> convert.Tensors:
    result: convert.Tensors = {}
    for part, (naming, prefixes) in kind.encoders.items():
        tensors = _with_prefixes(stored[kind.family.parts[part].subfolder])
        if naming == "open_clip":
            tensors = open_clip_weights.from_transformers(tensors)
        result |= {prefixes[0] + name: tensor for name, tensor in tensors.items()}
    config = read_json(folder / "unet" / CONFIG)
    for name, tensor in stored["unet"].items():
        result[original_names.unet(name, config)] = tensor
    config = read_json(folder / "vae" / CONFIG)
    for name, tensor in stored["vae"].items():
        attention = ".attentions." in name and tensor.ndim == 2  # convolutions of 1 x 1 there
        new = original_names.vae(name, config)
        result[new] = tensor[:, :, None, None] if attention else tensor
    return result


def _flags(folder: Path) -> convert.Tensors:
    """How the noise is predicted, as ComfyUI and `distill.unpack` read it."""
    scheduler = read_json(folder / SCHEDULER)
    if scheduler.get("prediction_type") != "v_prediction":
        return {}
    names = [V_PREDICTION, *([ZERO_SNR] if scheduler.get("rescale_betas_zero_snr") else [])]
    return {name: torch.zeros(0) for name in names}


def _compare(
    path: Path, folder: Path, kind: CheckpointKind, stored: dict[str, convert.Tensors]
) -> None:
    """The file is read by `distill.unpack`, which knows the names from elsewhere.

    Raises DataError.
    """
    checkpoint = open_checkpoint(path)
    configs = {part: read_json(folder / part / CONFIG) for part in stored}
    found = {
        "unet": convert.unet(checkpoint, configs["unet"])[0],
        "vae": convert.vae(checkpoint, configs["vae"]),
    }
    for part in kind.encoders:
        subfolder = kind.family.parts[part].subfolder
        found[subfolder] = convert.text_encoder(checkpoint, kind, part, configs[subfolder])
    for part, tensors in stored.items():
        wanted = _with_prefixes(tensors) if part.startswith("text_encoder") else tensors
        for name, tensor in wanted.items():
            if name not in found[part] or not torch.equal(found[part][name], tensor):
                raise DataError(
                    f"{path}: {name} of {part} is not read back as it is in {folder}; please "
                    "report this"
                )


def _with_prefixes(tensors: convert.Tensors) -> convert.Tensors:
    return {with_prefix(name): tensor for name, tensor in tensors.items()}


def _size(stored: dict[str, convert.Tensors]) -> int:
    tensors = (tensor for part in stored.values() for tensor in part.values())
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _made_from(path: Path) -> str:
    """The digest in the metadata of a file of ours. Raises DataError for any other."""
    with (
        explained(f"{path}: is in the way and no safetensors", "move it away"),
        safe_open(path, "pt") as file,
    ):
        found = (file.metadata() or {}).get(MADE_FROM)
    if found is None:
        raise DataError(f"{path}: is in the way, and --single-file did not write it; move it away")
    return str(found)
