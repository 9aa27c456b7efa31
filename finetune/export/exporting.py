"""The whole pipeline of a stage: what was trained, beside the rest of the base.

In:  a `TrainedStage` stage, the folder of `distill.base`.
Out: `<run>/finetune/<stage>/export/`.
"""

import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from configs.errors import DataError
from configs.files import link, whole_folder
from distill.export import exporting as distilled
from distill.export import pipeline_folder
from distill.sdxl.repository import STEMS, fetch
from finetune.export import card, trained
from finetune.export.trained import TrainedStage
from finetune.train.models import UNET

FOLDER = "export"
STORED = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def export(found: TrainedStage) -> Path:
    """The finished folder.

    Raises DataError when something read is missing, damaged or does not fit, or is in the way.
    """
    folder, step = found.folder / FOLDER, found.checkpoint.name
    if is_finished(folder, found):
        card.write_pipeline(folder, found)  # its settings may be others now
        print(f"{folder}: already exported from {step}")
        return folder
    trained.check_inputs(found)
    with whole_folder(folder, replace=folder.exists()) as partial:
        loaded = trained.load(found)
        encoders = partial / ".encoders"
        trained.write_encoders(encoders, found, loaded)
        rest = fetch(found.recipe.distill.base, *distilled.patterns(found.recipe))
        if found.changes_unet:
            write_unet(partial / UNET, rest / UNET, loaded.unet, found.recipe.export.variants)
        del loaded
        pipeline_folder.assemble(partial, encoders, rest, found.family)
        shutil.rmtree(encoders)
        prompts = found.recipe.text_language.verification_prompts
        pipeline_folder.verify(partial, found.made_from, prompts)
        card.write_pipeline(partial, found)
    print(f"{folder}: written from {step}, loaded again and compared")
    return folder


def is_finished(folder: Path, found: TrainedStage) -> bool:
    """Whether `folder` holds this very export, undamaged. An export of another checkpoint is to be
    replaced.

    Raises DataError if it holds anything that is no export.
    """
    stored = distilled.stored_export(folder)
    if stored is None:
        return False
    variants = set(found.recipe.export.variants)
    if stored.made_from != found.made_from or distilled.written_variants(stored) != variants:
        before = stored.made_from.get("checkpoint")
        print(f"{folder}: holds an export of {before}, or with other settings; it is made again")
        return False
    return distilled.is_undamaged(folder, stored)


def write_unet(folder: Path, base: Path, unet: Any, variants: Sequence[str]) -> None:
    """The UNet in the precision of the base's own file, and in `variants` beside it. `folder` is
    made. Raises DataError for numbers that the precision does not hold.
    """
    folder.mkdir()
    link(base / "config.json", folder / "config.json")
    stem = STEMS[UNET]
    files = {f"{stem}.safetensors": precision(base, stem)}
    files |= {f"{stem}.{one}.safetensors": pipeline_folder.VARIANTS[one] for one in variants}
    for name, dtype in files.items():
        tensors = {
            key: tensor.detach().to(dtype).contiguous() for key, tensor in unet.state_dict().items()
        }
        bad = sorted(key for key, tensor in tensors.items() if not tensor.isfinite().all())
        if bad:
            raise DataError(
                f"the UNet's {bad[0]} holds NaN, infinity, or numbers too large for {dtype}; "
                "train with a lower learning_rate, from a base whose UNet is fp32, or without "
                "this variant"
            )
        save_file(tensors, folder / name, metadata={"format": "pt"})
        again = load_file(folder / name)
        if not all(torch.equal(again[key], tensor) for key, tensor in tensors.items()):
            raise DataError(
                f"{folder / name}: holds other numbers than were written; is the disk sound?"
            )


def precision(folder: Path, stem: str) -> torch.dtype:
    """Of most tensors of a part's own file or shards, variants left aside."""
    own = folder / f"{stem}.safetensors"
    files = [own] if own.is_file() else sorted(folder.glob(f"{stem}-*.safetensors"))
    counted: Counter[str] = Counter()
    for path in files:
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 (safe_open is no mapping)
                counted[file.get_slice(name).get_dtype()] += 1
    found = counted.most_common(1)[0][0] if counted else "F32"
    if found not in STORED:
        raise DataError(
            f"{folder}: its weights are {found}; give a base in {', '.join(STORED)} as distill.base"
        )
    return STORED[found]
