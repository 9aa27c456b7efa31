"""The changes of a stage with LoRA as one file, in diffusers' format or in kohya's, and the text
encoders with theirs merged.

In:  a `TrainedStage` stage, the folder of `distill.base`.
Out: `<run>/finetune/<stage>/lora/`: `pytorch_lora_weights.safetensors` or `<recipe>.safetensors`
     (fp32), `encoders/`, `README.md`, `manifest.json`.

diffusers' own conversion to kohya's names writes alpha = rank always, and `lora_te1` for families
of one text encoder, where every reader wants `lora_te`: both are written here.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from configs import artefact
from configs.errors import DataError, RecipeError, one_line
from configs.files import whole_folder
from configs.schema.finetune import Lora
from distill.encoders.family import Family
from distill.export import pipeline_folder
from finetune.export import card, trained
from finetune.export.trained import Change, TrainedStage
from finetune.train.models import UNET

FOLDER, ENCODERS = "lora", "encoders"
DIFFUSERS = "pytorch_lora_weights.safetensors"
Changes = dict[str, Change]


def export(found: TrainedStage, form: str) -> Path:
    """The file in the format `diffusers` or `kohya`; the other one stays if it is of the same
    checkpoint.

    Raises RecipeError for a stage without LoRA, DataError when something read is missing, damaged
    or does not fit, or is in the way.
    """
    lora = found.stage.lora
    if lora is None:
        raise RecipeError(
            f"--lora {form}: the stage {found.name} was trained without lora, so that there are "
            "whole weights only; export it without --lora"
        )
    folder, step = found.folder / FOLDER, found.checkpoint.name
    path = folder / file_name(found, form)
    there = forms_there(folder, found)
    if form in there:
        print(f"{path}: already exported from {step}")
        return path
    trained.check_inputs(found)
    forms = sorted({form, *there})
    with whole_folder(folder, replace=folder.exists()) as partial:
        loaded = trained.load(found)
        trained.write_encoders(partial / ENCODERS, found, loaded)
        del loaded
        prompts = found.recipe.text_language.verification_prompts
        pipeline_folder.verify(partial / ENCODERS, found.made_from, prompts)
        changes = dict(trained.changes(found.weights, lora))
        for one in forms:
            write = write_diffusers if one == "diffusers" else write_kohya
            write(partial / file_name(found, one), changes, found.family, lora)
        files = {one: file_name(found, one) for one in forms}
        trains_text = any(not name.startswith(f"{UNET}.") for name in changes)
        card.write_lora(partial, found, files, trains_text)
        artefact.seal(partial, _made_from(found), {"forms": forms})
    print(
        f"{path}: written from {step}; it belongs to the text encoders and tokenizers of "
        f"{folder / ENCODERS} only, whose vocabulary no other model has"
    )
    return path


def file_name(found: TrainedStage, form: str) -> str:
    plain = re.sub(r"[^\w.-]+", "_", found.recipe.name).lstrip(".") or "lora"
    return DIFFUSERS if form == "diffusers" else f"{plain}.safetensors"


def forms_there(folder: Path, found: TrainedStage) -> list[str]:
    """The formats of this very export that are there, undamaged; none where it is to be made.

    Raises DataError if the folder holds anything else.
    """
    if not folder.exists():
        return []
    if not (folder / artefact.MANIFEST).is_file():
        raise DataError(
            f"{folder}: holds something that is no export of this project; move it away"
        )
    try:
        manifest = artefact.read(folder, "it is exported again")
    except DataError as error:
        print(one_line(error), file=sys.stderr)
        return []
    if (name := artefact.changed(manifest, _made_from(found))) is not None:
        print(f"{folder}: {name} is another than it was made from; it is made again")
        return []
    return [str(form) for form in manifest.details["forms"]]


def _made_from(found: TrainedStage) -> dict[str, str]:
    return {**found.made_from, "variants": ",".join(sorted(found.recipe.export.variants))}


def write_diffusers(path: Path, changes: Changes, family: Family, lora: Lora) -> None:
    """As `save_lora_weights` of diffusers' pipelines writes them: alpha is in the metadata."""
    folders = {UNET: UNET} | {name: part.subfolder for name, part in family.parts.items()}
    tensors: dict[str, torch.Tensor] = {}
    targets: dict[str, list[str]] = {}
    for name, change in changes.items():
        part, _, module = name.partition(".")
        folder, layer = folders[part], "lora" if part == UNET else "lora_linear_layer"
        tensors[f"{folder}.{module}.{layer}.down.weight"] = change.down
        tensors[f"{folder}.{module}.{layer}.up.weight"] = change.up
        # newer transformers have no `text_model.` in front, and an ending is enough to peft
        targets.setdefault(folder, []).append(module.removeprefix("text_model."))
    # the fields of peft's LoraConfig that every version knows, and those diffusers asks for
    config: dict[str, Any] = {
        "r": lora.rank,
        "lora_alpha": lora.effective_alpha,
        "rank_pattern": {},
        "alpha_pattern": {},
        "lora_bias": False,
        "use_dora": False,
    }
    metadata = {
        f"{folder}.{key}": value
        for folder, modules in targets.items()
        for key, value in {**config, "target_modules": modules}.items()
    }
    text = json.dumps(metadata, indent=2, sort_keys=True)
    save_file(tensors, path, metadata={"format": "pt", "lora_adapter_metadata": text})


def write_kohya(path: Path, changes: Changes, family: Family, lora: Lora) -> None:
    """With kohya's names, and the real alpha beside every projection."""
    several = len(family.parts) > 1
    prefixes = {UNET: "lora_unet"} | {
        name: f"lora_te{number if several else ''}" for number, name in enumerate(family.parts, 1)
    }
    tensors = {}
    for name, change in changes.items():
        part, _, module = name.partition(".")
        key = f"{prefixes[part]}_{module.replace('.', '_')}"
        tensors[f"{key}.lora_down.weight"] = change.down
        tensors[f"{key}.lora_up.weight"] = change.up
        tensors[f"{key}.alpha"] = torch.tensor(float(lora.effective_alpha))
    about = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(lora.rank),
        "ss_network_alpha": str(float(lora.effective_alpha)),
    }
    save_file(tensors, path, metadata={"format": "pt", **about})
