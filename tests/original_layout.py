"""A diffusers folder to one file in the names of the original code, as kohya's scripts, ComfyUI and
the web UIs write it: the way back of distill/unpack, written apart from it and from diffusers'
converter.
"""

import json
import re
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

Tensors = dict[str, torch.Tensor]

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
AROUND = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
OPEN_CLIP = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
OPEN_CLIP_AROUND = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}


def unet(folder: Path) -> Tensors:
    config = json.loads((folder / "config.json").read_text())
    a_block = config["layers_per_block"] + 1
    result = {}
    for name, tensor in load_file(folder / "diffusion_pytorch_model.safetensors").items():
        result[f"model.diffusion_model.{_unet_name(name, a_block, config)}"] = tensor
    return result


def _unet_name(name: str, a_block: int, config: dict) -> str:
    path, _, kind = name.rpartition(".")
    if path in AROUND:
        return f"{AROUND[path]}.{kind}"
    side, block, part, number, rest = re.fullmatch(
        r"(down|up|mid)_blocks?\.?(\d*)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)",
        name,
    ).groups()
    if part == "resnets":
        inner, ending = rest.rsplit(".", 1)
        rest = f"{RESNET[inner]}.{ending}"
    if side == "mid":
        return f"middle_block.{1 if part == 'attentions' else 2 * int(number)}.{rest}"
    column = 1 if part == "attentions" else 0
    if side == "down":
        first = int(block) * a_block + 1
        if part == "downsamplers":
            return f"input_blocks.{first + a_block - 1}.0.op.{kind}"
        return f"input_blocks.{first + int(number)}.{column}.{rest}"
    first = int(block) * a_block
    if part == "upsamplers":
        column = 2 if "CrossAttn" in config["up_block_types"][int(block)] else 1
        return f"output_blocks.{first + a_block - 1}.{column}.conv.{kind}"
    return f"output_blocks.{first + int(number)}.{column}.{rest}"


def vae(folder: Path) -> Tensors:
    """Below `first_stage_model.`; its attention by convolutions of 1 x 1, as it was."""
    blocks = len(json.loads((folder / "config.json").read_text())["block_out_channels"])
    result = {}
    for name, tensor in load_file(folder / "diffusion_pytorch_model.safetensors").items():
        new = re.sub(r"down_blocks\.(\d+)\.resnets\.", r"down.\1.block.", name)
        new = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0\.", r"down.\1.downsample.", new)
        new = re.sub(r"up_blocks\.(\d+)\.", lambda found: f"up.{blocks - 1 - int(found[1])}.", new)
        new = new.replace(".resnets.", ".block.").replace("upsamplers.0.", "upsample.")
        new = re.sub(r"mid_block\.block\.(\d)", lambda found: f"mid.block_{int(found[1]) + 1}", new)
        new = new.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        if "mid_block.attentions.0." in new:
            new = new.replace("mid_block.attentions.0.", "mid.attn_1.").replace(
                "group_norm", "norm"
            )
            new = re.sub(r"to_([qkv])", r"\1", new).replace("to_out.0", "proj_out")
            tensor = tensor[:, :, None, None] if tensor.ndim == 2 else tensor
        result[f"first_stage_model.{new}"] = tensor.contiguous()
    return result


def by_transformers(folder: Path, prefix: str) -> Tensors:
    tensors = load_file(folder / "model.safetensors")
    found = {prefix + _with_prefix(name): one for name, one in tensors.items()}
    # a buffer that files of the time hold
    return found | {f"{prefix}text_model.embeddings.position_ids": torch.arange(77)[None]}


def by_open_clip(folder: Path, prefix: str, further_layers: int = 0) -> Tensors:
    """`further_layers`: above those of the folder, which SD 2.x's files hold and nobody reads."""
    tensors = load_file(folder / "model.safetensors")
    tensors = {_with_prefix(name).removeprefix("text_model."): one for name, one in tensors.items()}
    result: Tensors = {"logit_scale": torch.tensor(4.6)}
    layers = 0
    for name, tensor in tensors.items():
        block = re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name)
        if name == "text_projection.weight":
            result["text_projection"] = tensor.T.contiguous()
        elif block is None:
            result[OPEN_CLIP_AROUND[name]] = tensor
        elif "q_proj" in name:
            parts = [tensors[name.replace("q_proj", f"{one}_proj")] for one in "qkv"]
            place = f"transformer.resblocks.{block[1]}.attn.in_proj_{block[3]}"
            result[place], layers = torch.cat(parts), max(layers, int(block[1]) + 1)
        elif not re.search("[kv]_proj", name):
            place = f"transformer.resblocks.{block[1]}.{OPEN_CLIP[block[2]]}.{block[3]}"
            result[place] = tensor
    for name in [one for one in result if one.startswith("transformer.resblocks.0.")]:
        for more in range(further_layers):
            result[name.replace("blocks.0", f"blocks.{layers + more}")] = result[name] + 1
    return {prefix + name: one for name, one in result.items()}


def _with_prefix(name: str) -> str:
    return name if name.startswith(("text_model.", "text_projection.")) else f"text_model.{name}"


def parts(folder: Path, kind: str) -> dict[str, Tensors]:
    """By name of the part; `kind`: base, refiner, sd or sd2."""
    result = {"unet": unet(folder / "unet"), "vae": vae(folder / "vae")}
    if kind == "base":
        result["text_encoder"] = by_transformers(
            folder / "text_encoder", "conditioner.embedders.0.transformer."
        )
        result["text_encoder_2"] = by_open_clip(
            folder / "text_encoder_2", "conditioner.embedders.1.model."
        )
    elif kind == "refiner":
        result["text_encoder_2"] = by_open_clip(
            folder / "text_encoder_2", "conditioner.embedders.0.model."
        )
    elif kind == "sd":
        result["text_encoder"] = by_transformers(
            folder / "text_encoder", "cond_stage_model.transformer."
        )
    else:
        result["text_encoder"] = by_open_clip(
            folder / "text_encoder", "cond_stage_model.model.", further_layers=1
        )
    return result


def write(
    folder: Path,
    path: Path,
    kind: str,
    dtype: torch.dtype = torch.float32,
    without: tuple[str, ...] = (),
    more: Tensors | None = None,
) -> Path:
    """`without`: parts left out; `more`: tensors put in."""
    found = {
        name: tensor.to(dtype) if tensor.is_floating_point() else tensor
        for part, tensors in parts(folder, kind).items()
        if part not in without
        for name, tensor in tensors.items()
    }
    save_file({name: one.contiguous() for name, one in {**found, **(more or {})}.items()}, path)
    return path
