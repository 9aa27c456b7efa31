"""The names that the original code (CompVis' latent-diffusion, Stability's generative-models) gives
to what diffusers calls otherwise: the way back of `distill/unpack/convert.py`.

In:  a tensor's name in diffusers' UNet or autoencoder, and the part's config.
Out: its name in a single file.

The numbering is that of openaimodel.py there: `input_blocks` and `output_blocks` count the first
convolution, every residual block (its transformer beside it) and every change of size.
"""

import re
from typing import Any

from distill.unpack.kinds import UNET, VAE_PREFIXES

AROUND_UNET = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
IN_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
IN_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}
IN_UNET = re.compile(
    r"(?P<side>down|mid|up)_blocks?\.(?:(?P<level>\d+)\.)?"
    r"(?P<part>resnets|attentions|downsamplers|upsamplers)\.(?P<number>\d+)\."
    r"(?P<inner>.+)\.(?P<kind>weight|bias)"
)
IN_VAE = re.compile(
    r"(?P<side>encoder|decoder)\.(?:(?P<place>down|mid|up)_blocks?\.(?:(?P<level>\d+)\.)?"
    r"(?P<part>resnets|attentions|downsamplers|upsamplers)\.(?P<number>\d+)\.)?"
    r"(?P<inner>.+)\.(?P<kind>weight|bias)"
)


def unet(name: str, config: dict[str, Any]) -> str:
    path, _, kind = name.rpartition(".")
    if path in AROUND_UNET:
        return f"{UNET}{AROUND_UNET[path]}.{kind}"
    found = IN_UNET.fullmatch(name)
    assert found is not None, name
    part, number, inner = found["part"], int(found["number"]), found["inner"]
    if part == "resnets":
        inner = IN_RESNET[inner]
    column = 1 if part == "attentions" else 0
    if found["side"] == "mid":  # a residual block, a transformer, a residual block
        return f"{UNET}middle_block.{1 if column else 2 * number}.{inner}.{kind}"
    layers, level = config["layers_per_block"], int(found["level"])
    if found["side"] == "down":
        first = level * (layers + 1) + 1
        if part == "downsamplers":
            return f"{UNET}input_blocks.{first + layers}.0.op.{kind}"
        return f"{UNET}input_blocks.{first + number}.{column}.{inner}.{kind}"
    first = level * (layers + 1)
    if part == "upsamplers":  # beside the level's last residual block and its transformer
        column = 2 if "CrossAttn" in config["up_block_types"][level] else 1
        return f"{UNET}output_blocks.{first + layers}.{column}.conv.{kind}"
    return f"{UNET}output_blocks.{first + number}.{column}.{inner}.{kind}"


def vae(name: str, config: dict[str, Any]) -> str:
    prefix = VAE_PREFIXES[0]
    found = IN_VAE.fullmatch(name)
    if found is None:  # quant_conv, post_quant_conv
        return prefix + name
    side, inner, kind = found["side"], found["inner"], found["kind"]
    if found["place"] is None:
        return f"{prefix}{side}.{inner.replace('conv_norm_out', 'norm_out')}.{kind}"
    part, number = found["part"], found["number"]
    inner = inner.replace("conv_shortcut", "nin_shortcut")
    if found["place"] == "mid":
        block = f"block_{int(number) + 1}"
        if part == "attentions":
            block, inner = f"attn_{int(number) + 1}", IN_ATTENTION[inner]
        return f"{prefix}{side}.mid.{block}.{inner}.{kind}"
    level = int(found["level"])
    if found["place"] == "up":  # counted from the smallest there, from the first run here
        level = len(config["block_out_channels"]) - 1 - level
    blocks = {"resnets": f"block.{number}", "downsamplers": "downsample", "upsamplers": "upsample"}
    return f"{prefix}{side}.{found['place']}.{level}.{blocks[part]}.{inner}.{kind}"
