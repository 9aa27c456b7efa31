"""The tensors of one part of a checkpoint under the names and in the shapes that diffusers and
transformers give them.

In:  a `CheckpointFile` of a known kind, and the part's config.
Out: tensors by name, of the precision they are stored in; exactly those of the stock class, which
     is built without memory to compare.
"""

from typing import Any

import torch

from configs.errors import DataError, explained
from distill.encoders import open_clip_weights
from distill.encoders.family import EncoderPart
from distill.encoders.tower import with_prefix
from distill.unpack.checkpoint_file import CheckpointFile
from distill.unpack.kinds import UNET, VAE_PREFIXES, CheckpointKind, prefix_of

EMA = "model_ema."
Tensors = dict[str, torch.Tensor]


def text_encoder(
    checkpoint: CheckpointFile,
    kind: CheckpointKind,
    part: str,
    config: dict[str, Any],
) -> Tensors:
    """Raises DataError where the tensors are not those of `config`."""
    naming, _ = kind.encoders[part]
    prefix = prefix_of(kind, part, checkpoint.entries)
    names = [name for name in checkpoint.entries if name.startswith(prefix)]
    described = kind.family.parts[part]
    found: Tensors = {}
    for name, tensor in checkpoint.tensors(names).items():
        own = name.removeprefix(prefix)
        if naming == "transformers":
            # position_ids: a buffer that old versions saved
            found |= {} if own.endswith("position_ids") else {with_prefix(own): tensor}
        elif _is_read(own, described, config):
            found |= open_clip_weights.to_transformers(own, tensor)
    _check(checkpoint, prefix, found, _encoder_shapes(described, config))
    return found


def unet(checkpoint: CheckpointFile, config: dict[str, Any]) -> tuple[Tensors, bool]:
    """The UNet, and whether it is the moving average of the training (EMA), which is taken where
    the file holds a whole one, as CompVis' own scripts do.

    Raises DataError where the tensors are not those of `config`.
    """
    from diffusers import UNet2DConditionModel
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    names = {name: name for name in checkpoint.entries if name.startswith(UNET)}
    # LitEma flattens the names below `model.`: a buffer's name may hold no dot
    averaged = {name: EMA + name.removeprefix("model.").replace(".", "") for name in names}
    is_ema = all(name in checkpoint.entries for name in averaged.values())
    stored = checkpoint.tensors((averaged if is_ema else names).values())
    tensors = {name: stored[averaged[name] if is_ema else name] for name in names}
    with explained(f"{checkpoint.path}: its UNet cannot be read", "fetch it again"):
        found = convert_ldm_unet_checkpoint(tensors, config)
        wanted = _shapes(UNet2DConditionModel, config)
    _check(checkpoint, UNET, found, wanted)
    return found, is_ema


def has_vae(checkpoint: CheckpointFile) -> bool:
    return any(name.startswith(VAE_PREFIXES) for name in checkpoint.entries)


def vae(checkpoint: CheckpointFile, config: dict[str, Any]) -> Tensors:
    """The autoencoder of a whole checkpoint, or of a file that holds one alone, in the original
    names or diffusers'.

    Raises DataError where the tensors are not those of `config`.
    """
    from diffusers import AutoencoderKL
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    whole = has_vae(checkpoint)
    names = [
        name
        for name in checkpoint.entries
        # a training's file also holds the discriminator's, below `loss.`
        if name.startswith(
            VAE_PREFIXES if whole else ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")
        )
        and ".loss." not in name
        and not name.startswith(EMA)
    ]
    tensors = checkpoint.tensors(names)
    with explained(f"{checkpoint.path}: its VAE cannot be read", "fetch it again"):
        of_diffusers = not whole and any("_blocks." in name for name in names)
        found = tensors if of_diffusers else convert_ldm_vae_checkpoint(tensors, config)
        wanted = _shapes(AutoencoderKL, config)
    _check(checkpoint, "its VAE", found, wanted)
    return found


def _is_read(name: str, part: EncoderPart, config: dict[str, Any]) -> bool:
    """Of open_clip's text tower: not the scale of its logits nor its mask; nor the layers above
    those that SD 2.x reads, which diffusers leaves out.
    """
    if name == "text_projection":
        return part.pooled
    block = open_clip_weights.BLOCK.fullmatch(name)
    if block is not None:
        return int(block[1]) < config["num_hidden_layers"]
    return name in open_clip_weights.NAMES


def _encoder_shapes(part: EncoderPart, config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    import transformers

    with torch.device("meta"):
        model = getattr(transformers, part.class_name)(transformers.CLIPTextConfig(**config))
    state = model.state_dict()
    return {with_prefix(name): tuple(one.shape) for name, one in state.items()}


def _shapes(kind: Any, config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        model = kind.from_config(config)
    return {name: tuple(one.shape) for name, one in model.state_dict().items()}


def _check(
    checkpoint: CheckpointFile,
    what: str,
    found: Tensors,
    wanted: dict[str, tuple[int, ...]],
) -> None:
    for name in sorted(found.keys() | wanted.keys()):
        here = f"is {tuple(found[name].shape)}" if name in found else "is missing"
        there = f"is {wanted[name]}" if name in wanted else "is missing"
        if here != there:
            raise DataError(
                f"{checkpoint.path}: {name} of {what.rstrip('.')} {here}, by the configs it {there}"
                "; give the diffusers folder of a model of its shape as --like"
            )
