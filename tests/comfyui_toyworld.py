"""A custom node for the tests: toyworld's SDXL as ComfyUI's checkpoint loaders give a model.

ComfyUI knows SDXL by its published sizes alone. Here its own classes are made in toyworld's: fewer
groups in the norms, narrower embeddings of the sizes, latents with a mean and a deviation; the
autoencoder is diffusers' own. The UNet comes from a single file that `distill.export` wrote.

TOYWORLD names a folder with `base.safetensors` and `refiner.safetensors`, ENGLISH one with the
models themselves.
"""

import json
import os
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import comfy.latent_formats
import comfy.model_base
import comfy.model_detection
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.sd1_clip
import comfy.supported_models
import comfy.supported_models_base
import comfy.utils
import torch
from diffusers import AutoencoderKL
from nodes import NODE_CLASS_MAPPINGS as ALL_NODES

UNET = "model.diffusion_model."
PIXELS, GROUPS, HEADS, SIZE_WIDTH = 32, 8, 4, 8


class Operations(comfy.ops.disable_weight_init):
    class GroupNorm(comfy.ops.disable_weight_init.GroupNorm):
        def __init__(self, num_groups, num_channels, **more):
            super().__init__(GROUPS, num_channels, **more)


def latents_like(vae):
    mean, deviation = (
        torch.tensor(values)[None, :, None, None]
        for values in (vae.config.latents_mean, vae.config.latents_std)
    )

    class Latents(comfy.latent_formats.LatentFormat):
        def process_in(self, latent):
            return (latent - mean) / deviation

        def process_out(self, latent):
            return latent * deviation + mean

    return Latents


class ToyworldCheckpoint:
    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "load", ("MODEL", "CLIP", "VAE")

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"ckpt_name": ("STRING", {})}}

    def load(self, ckpt_name):
        side = "refiner" if "refiner" in ckpt_name else "base"
        weights = comfy.utils.load_torch_file(f"{os.environ['TOYWORLD']}/{side}.safetensors")
        folder = Path(os.environ["ENGLISH"], side)
        vae = AutoencoderKL.from_pretrained(folder / "vae")
        parent = getattr(comfy.supported_models, {"base": "SDXL", "refiner": "SDXLRefiner"}[side])
        found = comfy.model_detection.detect_unet_config(weights, UNET)
        settings = {
            "unet_extra_config": {"num_heads": HEADS, "num_head_channels": -1},
            "custom_operations": Operations,
            "latent_format": latents_like(vae),
            "sampling_settings": {"zsnr": "ztsnr" in weights},
        }
        config = type("Toyworld", (parent,), settings)(found)
        config.set_inference_dtype(torch.float32, None)
        kind = comfy.model_base.ModelType.V_PREDICTION if "v_pred" in weights else None
        model = getattr(comfy.model_base, parent.__name__)(config, kind)
        model.embedder = comfy.model_base.Timestep(SIZE_WIDTH)
        sizes = dict.fromkeys(("width", "height", "target_width", "target_height"), PIXELS)
        own = model.encode_adm
        model.encode_adm = lambda **given: own(**{**sizes, **given})
        missing = set(model.diffusion_model.state_dict()) - {
            name.removeprefix(UNET) for name in weights if name.startswith(UNET)
        }
        assert not missing, missing
        model.load_model_weights(weights, UNET)
        device = comfy.model_management.get_torch_device()
        patcher = comfy.model_patcher.ModelPatcher(model, device, torch.device("cpu"))
        return patcher, english(folder) if side == "base" else None, Decoder(vae)


class Decoder:
    def __init__(self, vae):
        self.vae = vae

    def decode(self, latents, **_):
        with torch.no_grad():
            pictures = self.vae.decode(latents.float()).sample
        return (pictures / 2 + 0.5).clamp(0, 1).movedim(1, -1)


def english(folder):
    """The teacher's own text encoders, by the pack's classes and ComfyUI's English tokenizer."""
    module = ALL_NODES["LoadJapaneseCLIP"].__module__.removesuffix(".nodes")
    encoders = __import__(f"{module}.encoders", fromlist=["encoders"])
    files = []
    for name, suffix in (("clip_l", ""), ("clip_g", "_2")):
        config = json.loads((folder / f"text_encoder{suffix}" / "config.json").read_text())
        ids = {"bos_token_id": config["vocab_size"] - 2, "eos_token_id": config["vocab_size"] - 1}
        files.append(
            SimpleNamespace(
                name=name,
                config=config | ids,
                weights=folder / f"text_encoder{suffix}" / "model.safetensors",
                tokenizer=folder / f"tokenizer{suffix}",
            )
        )

    class English(torch.nn.Module):
        def __init__(self, embedding_directory=None, tokenizer_data=None):
            super().__init__()
            for one in files:
                tokenizer = comfy.sd1_clip.SDTokenizer(
                    str(one.tokenizer),
                    pad_with_end=one.name == "clip_l",  # bigG pads with "!"
                    embedding_key=one.name,
                )
                setattr(self, one.name, tokenizer)

        def tokenize_with_weights(self, text, return_word_ids=False, **_):
            both = {"l": self.clip_l, "g": self.clip_g}
            return {name: one.tokenize_with_weights(text) for name, one in both.items()}

    target = comfy.supported_models_base.ClipTarget(English, partial(encoders.BaseClip, files))
    clip = comfy.sd.CLIP(target, model_options={"dtype": torch.float32})
    weights = {name: one for file in files for name, one in encoders._weights(file).items()}
    clip.load_sd(weights, full_model=True)
    return clip


NODE_CLASS_MAPPINGS = {"ToyworldCheckpoint": ToyworldCheckpoint}
