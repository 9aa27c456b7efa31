"""A single-file checkpoint to a diffusers folder.

In:  the file; with `like` a diffusers folder that gives what the file does not hold (configs,
     tokenizers, scheduler, safety checker), else the published configs of its kind and CLIP's
     vocabulary; with `vae` an autoencoder in place of the file's.
Out: a folder in diffusers layout, its weights in the precision they were stored in, and
     `unpacked.json`.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from configs import stored_weights
from configs.errors import DataError
from configs.files import check_room, file_sha256, link, read_json, write_json
from distill.encoders.family import FAMILY_OF_PIPELINE
from distill.unpack import convert, vocabulary
from distill.unpack.checkpoint_file import CheckpointFile, open_checkpoint
from distill.unpack.kinds import SD_2, UNET, CheckpointKind, identify
from distill.unpack.record import RECORD, UnpackedFrom

INDEX, CONFIG, SCHEDULER = "model_index.json", "config.json", "scheduler/scheduler_config.json"
VAE = "vae"
# Empty tensors by whose names model makers say how the noise is predicted; ComfyUI and the web UIs
# read them, diffusers does not.
V_PREDICTION, ZERO_SNR = "v_pred", "ztsnr"
# Which of the two SD 2.x was trained for stands in no name. ComfyUI (comfy/supported_models.py,
# SD20.model_type) tells it by the deviation of this bias.
SD_2_BIAS = f"{UNET}output_blocks.11.1.transformer_blocks.0.norm1.bias"
SD_2_DEVIATION = 0.09
Say = Callable[[str], None]


def write(
    source: Path,
    folder: Path,
    like: Path | None = None,
    vae: Path | None = None,
    sha256: str | None = None,
    say: Say = print,
) -> None:
    """Into `folder`, which is there and empty. `sha256`: of `source`, where it is known.

    Raises DataError for a file of another kind, or one that does not fit its configs.
    """
    checkpoint = open_checkpoint(source)
    kind = identify(checkpoint)
    check_vae(checkpoint, vae)
    check_room(folder, source.stat().st_size)
    notes: list[str] = []

    def note(text: str) -> None:
        notes.append(text)
        say(f"{source.name}: {text}")

    note(f"{kind.name}, by the names in its header")
    configs = _configs(kind, like, vae)
    _write_unet(checkpoint, configs, folder, note)
    for part in kind.encoders:
        described = kind.family.parts[part]
        config = configs[f"{described.subfolder}/{CONFIG}"]
        tensors = convert.text_encoder(checkpoint, kind, part, config)
        _write_part(folder / described.subfolder, config, tensors, stored_weights.ENCODER_STEM)
    _write_vae(checkpoint, configs, folder, vae, note)
    _set_scheduler(checkpoint, kind, configs, like, note)
    _write_rest(kind, configs, folder, like)
    UnpackedFrom.seal(
        file=source.name,
        sha256_of_file=sha256 or file_sha256(source),
        kind=kind.name,
        notes=notes,
    ).write(folder / RECORD)


def check_vae(checkpoint: CheckpointFile, vae: Path | None) -> None:
    """Raises DataError where there is none."""
    if vae is None and not convert.has_vae(checkpoint):
        raise DataError(
            f"{checkpoint.path}: holds no autoencoder (VAE); unpack it with: python -m "
            "distill.unpack FILE --vae FOLDER_OR_FILE --out FOLDER, and give that folder"
        )


def _configs(
    kind: CheckpointKind, like: Path | None, vae: Path | None
) -> dict[str, dict[str, Any]]:
    """The folder's JSON files but those of tokenizers, by path. Raises DataError."""
    if like is None:
        found = kind.configs()
    else:
        index = read_json(like / INDEX)
        wanted = kind.configs()[INDEX]["_class_name"]
        family = FAMILY_OF_PIPELINE.get(str(index.get("_class_name")))
        parts = [
            part.subfolder for part in kind.family.parts.values() if _has(index, part.subfolder)
        ]
        own = [kind.family.parts[part].subfolder for part in kind.encoders]
        if family is not kind.family or parts != own:
            raise DataError(
                f"{like / INDEX}: a {index.get('_class_name')} with {', '.join(parts) or 'no'} text"
                f" encoders, the file is {kind.name}; give a folder of a {wanted} as --like"
            )
        names = [f"{part}/{CONFIG}" for part in (*own, "unet", VAE)]
        found = {name: read_json(like / name) for name in [*names, SCHEDULER]} | {INDEX: index}
    if vae is not None and (own_config := _vae_folder(vae)) is not None:
        found[f"{VAE}/{CONFIG}"] = read_json(own_config / CONFIG)
    return found


def _write_unet(
    checkpoint: CheckpointFile, configs: dict[str, Any], folder: Path, note: Say
) -> None:
    config = configs[f"unet/{CONFIG}"]
    tensors, is_ema = convert.unet(checkpoint, config)
    if is_ema:
        note("its UNet is the moving average of the training (model_ema.*)")
    _write_part(folder / "unet", config, tensors, stored_weights.DIFFUSERS_STEM)


def _write_vae(
    checkpoint: CheckpointFile,
    configs: dict[str, Any],
    folder: Path,
    vae: Path | None,
    note: Say,
) -> None:
    """Raises DataError."""
    given = _vae_folder(vae) if vae is not None else None
    if given is not None:
        (folder / VAE).mkdir()
        weights = stored_weights.find(given, stored_weights.DIFFUSERS_STEM)
        for name, path in {**weights.plain_names, CONFIG: given / CONFIG}.items():
            link(path, folder / VAE / name)
    else:
        holder = open_checkpoint(vae) if vae is not None else checkpoint
        config = configs[f"{VAE}/{CONFIG}"]
        tensors = convert.vae(holder, config)
        _write_part(folder / VAE, config, tensors, stored_weights.DIFFUSERS_STEM)
    if vae is not None:
        note(f"with the autoencoder of {vae.name}")


def _vae_folder(vae: Path) -> Path | None:
    """The folder with the autoencoder's config, in a pipeline or alone; None for a file.

    Raises DataError.
    """
    if vae.is_file():
        return None
    for folder in (vae / VAE, vae):
        if (folder / CONFIG).is_file():
            return folder
    raise DataError(f"{vae}: holds no vae/{CONFIG}; give a diffusers folder or a file as --vae")


def _set_scheduler(
    checkpoint: CheckpointFile,
    kind: CheckpointKind,
    configs: dict[str, dict[str, Any]],
    like: Path | None,
    note: Say,
) -> None:
    """How the noise is predicted, where the file says it (`configs` is changed)."""
    scheduler = configs[SCHEDULER]
    if V_PREDICTION in checkpoint.entries:
        scheduler["prediction_type"] = "v_prediction"
        note("v-prediction, by its v_pred")
        if ZERO_SNR in checkpoint.entries:
            if scheduler["_class_name"] == "PNDMScheduler":  # has no such setting
                scheduler |= {"_class_name": "DDIMScheduler", "clip_sample": False}
                scheduler.pop("skip_prk_steps", None)
                configs[INDEX]["scheduler"] = ["diffusers", "DDIMScheduler"]
            scheduler |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
            note("zero terminal SNR, by its ztsnr")
    elif kind is SD_2 and like is None and SD_2_BIAS in checkpoint.entries:
        bias = checkpoint.tensors([SD_2_BIAS])[SD_2_BIAS].float()
        is_v = bool(bias.std(unbiased=False) > SD_2_DEVIATION)
        scheduler["prediction_type"] = "v_prediction" if is_v else "epsilon"
        configs[f"unet/{CONFIG}"]["sample_size"] = 96 if is_v else 64  # 768 or 512 pixels
        note(f"{scheduler['prediction_type']}, guessed by its weights: no name says it")


def _write_rest(
    kind: CheckpointKind, configs: dict[str, dict[str, Any]], folder: Path, like: Path | None
) -> None:
    """Scheduler, tokenizers, index, and of `like` every other part that its index names."""
    (folder / "scheduler").mkdir()
    write_json(folder / SCHEDULER, configs[SCHEDULER])
    index = {key: value for key, value in configs[INDEX].items() if key != "_name_or_path"}
    write_json(folder / "unet" / CONFIG, configs[f"unet/{CONFIG}"])
    write_json(folder / INDEX, index)
    if like is None:
        for part in kind.encoders:
            tokenizer = kind.family.parts[part].tokenizer
            vocabulary.write(folder / tokenizer, configs[f"{tokenizer}/tokenizer_config.json"])
        return
    for name in index:
        if _has(index, name) and not (folder / name).exists():
            (folder / name).mkdir()
            for path in sorted((like / name).glob("*")):
                if path.suffix in (".json", ".txt", ".safetensors"):
                    link(path, folder / name / path.name)
    for licence in like.glob("LICENSE*"):
        shutil.copyfile(licence, folder / licence.name)


def _write_part(folder: Path, config: dict[str, Any], tensors: convert.Tensors, stem: str) -> None:
    folder.mkdir()
    write_json(folder / CONFIG, {key: value for key, value in config.items() if key not in DTYPES})
    save_file(_apart(tensors), folder / f"{stem}.safetensors", metadata={"format": "pt"})


# What a config says of the precision of another file's weights.
DTYPES = ("torch_dtype", "dtype", "_name_or_path")


def _apart(tensors: convert.Tensors) -> convert.Tensors:
    """Each in memory of its own, as safetensors wants them: q, k and v are cut from one tensor, and
    a torch file may hold one tensor under two names.
    """
    seen: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage()
        shared = storage.nbytes() != tensor.numel() * tensor.element_size()
        known = storage.data_ptr() in seen and tensor.numel() > 0
        seen.add(storage.data_ptr())
        own = tensor.clone() if shared or known else tensor
        result[name] = (
            own.contiguous()
            if own.is_contiguous()
            else torch.clone(own, memory_format=torch.contiguous_format)
        )
    return result


def _has(index: dict[str, Any], name: str) -> bool:
    entry = index.get(name)
    return isinstance(entry, list) and bool(entry) and entry[0] is not None
