"""Trains the miniature SDXL on toyworld's English captions, start to end; resumable, about two hours on two CPU cores.

    python -m corpora.toyworld.train_miniature [--work runs/miniature] [--measure-only]

In:  nothing but the grammar and the renderer; held-out scenes are never drawn.
Out: `models/base` and `models/refiner` (diffusers layout, fp16 weights), and the accuracy measured on held-out captions.
Every model saves as it goes: the same command goes on after a kill and skips what is finished.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from tqdm import tqdm

from configs.schema import TOYWORLD_MODELS
from corpora.toyworld import captions, miniature, scene_reader, train_text_encoders, train_unets, train_vae
from corpora.toyworld.train_text_encoders import CaptionReader

TOKENIZER_CAPTIONS = 4000
REFINER_FROM = 0.8  # SDXL's own: the refiner paints the last fifth
STEPS, GUIDANCE = 20, 2.0


def train(work: Path) -> None:
    work.mkdir(parents=True, exist_ok=True)
    miniature.write_tokenizers((caption.en for caption in captions.pairs(TOKENIZER_CAPTIONS, "train", 0)), work)
    tokenizers = miniature.load_tokenizers(work)
    vae = train_vae.train(work)
    print(f"autoencoder: {train_vae.accuracy(vae):.3f} of held-out pictures read the same after it")
    reader = train_text_encoders.train(tokenizers, work)
    for part in ("base", "refiner"):
        write_folder(part, train_unets.train(part, vae, reader, work), vae, reader, work)


def write_folder(part: str, unet: UNet2DConditionModel, vae: AutoencoderKL, reader: CaptionReader, tokenizers: Path) -> None:
    """`models/<part>` in diffusers layout; fp16 on disk, and configs that ask for fp32 in memory."""
    folder = TOYWORLD_MODELS / part
    shutil.rmtree(folder, ignore_errors=True)
    for name, model in (("unet", unet), ("vae", vae)):
        model.half().save_pretrained(folder / name)
        model.float()
    miniature.scheduler().save_pretrained(folder / "scheduler")
    encoders = {"text_encoder": reader.clip_l, "text_encoder_2": reader.clip_bigg} if part == "base" else {"text_encoder_2": reader.clip_bigg}
    for name, encoder in encoders.items():
        _write_text_encoder(encoder, folder / name)
    for name in ("tokenizer", "tokenizer_2") if part == "base" else ("tokenizer_2",):
        shutil.copytree(tokenizers / name, folder / name)
    pipeline = "StableDiffusionXLPipeline" if part == "base" else "StableDiffusionXLImg2ImgPipeline"
    classes: dict[str, Any] = {"_class_name": pipeline, "_diffusers_version": "0.35.0"}
    classes |= {"force_zeros_for_empty_prompt": True} if part == "base" else {"force_zeros_for_empty_prompt": False, "requires_aesthetics_score": True}
    classes |= {"scheduler": ["diffusers", "DDIMScheduler"], "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"]}
    classes |= {"text_encoder": ["transformers", "CLIPTextModel"] if part == "base" else [None, None], "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"]}
    classes |= {"tokenizer": ["transformers", "CLIPTokenizer"] if part == "base" else [None, None], "tokenizer_2": ["transformers", "CLIPTokenizer"]}
    (folder / "model_index.json").write_text(json.dumps(classes, indent=2) + "\n", encoding="utf-8")


def _write_text_encoder(encoder: Any, folder: Path) -> None:
    """By hand: transformers 5 leaves out the `text_model.` prefix, and transformers 4 then loads random weights without an error."""
    folder.mkdir(parents=True)
    weights = {key: value.half().contiguous() for key, value in encoder.state_dict().items() if not key.endswith("position_ids")}
    prefixed = {key if key.startswith(("text_model.", "text_projection.")) else f"text_model.{key}": value for key, value in weights.items()}
    save_file(prefixed, folder / "model.safetensors", metadata={"format": "pt"})
    config = encoder.config.to_diff_dict() | {"architectures": [type(encoder).__name__], "model_type": "clip_text_model", "torch_dtype": "float32"}
    for noise in ("transformers_version", "dtype"):
        config.pop(noise, None)
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


@torch.inference_mode()
def measure(count: int = 256, batch: int = 32) -> dict[str, float]:
    """Share of held-out English captions painted with every attribute right: base alone, and base then refiner."""
    base = StableDiffusionXLPipeline.from_pretrained(TOYWORLD_MODELS / "base")
    refiner = StableDiffusionXLImg2ImgPipeline.from_pretrained(TOYWORLD_MODELS / "refiner")
    for pipeline in (base, refiner):
        pipeline.set_progress_bar_config(disable=True)
    held_out = list(captions.pairs(count, "held_out", 11))
    right: dict[str, list[bool]] = {"base": [], "base_then_refiner": []}
    for start in tqdm(range(0, count, batch), desc="accuracy", unit="batch"):
        chunk = held_out[start : start + batch]
        shared: dict[str, Any] = {"prompt": [caption.en for caption in chunk], "num_inference_steps": STEPS, "guidance_scale": GUIDANCE}
        noise = [torch.Generator().manual_seed(start + index) for index in range(len(chunk))]
        pictures = {"base": base(generator=noise, output_type="np", **shared).images}
        noise = [torch.Generator().manual_seed(start + index) for index in range(len(chunk))]
        latents = base(generator=noise, denoising_end=REFINER_FROM, output_type="latent", **shared).images
        pictures["base_then_refiner"] = refiner(image=latents, denoising_start=REFINER_FROM, generator=noise, output_type="np", **shared).images
        for name, values in pictures.items():
            readings = scene_reader.read((values * 255).round().astype(np.uint8))
            right[name] += [scene_reader.matches(caption.scene, reading) for caption, reading in zip(chunk, readings, strict=True)]
    return {name: float(np.mean(values)) for name, values in right.items()}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m corpora.toyworld.train_miniature", description="Trains the miniature SDXL of toyworld.", allow_abbrev=False)
    parser.add_argument("--work", type=Path, default=Path("runs/miniature"), help="where unfinished models are kept")
    parser.add_argument("--measure-only", action="store_true", help="measure the models there are")
    arguments = parser.parse_args(argv)
    if not arguments.measure_only:
        train(arguments.work)
    for name, accuracy in measure().items():
        print(f"{name}: {accuracy:.3f} of held-out English captions painted with every attribute right")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
