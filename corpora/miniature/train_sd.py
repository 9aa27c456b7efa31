"""Trains the miniature SD 1.x on toyworld's English captions, start to end; resumable, about an
hour and a half on two CPU cores.

    python -m corpora.miniature.train_sd [--work runs/miniature_sd] [--measure-only]

In:  the tokenizer and the autoencoder of the miniature SDXL (`models/base`).
Out: `models/sd` (diffusers layout, fp16 weights, a safety checker that never flags), and the
     accuracy measured on held-out captions.
After a kill the same command continues and skips finished models.

Shape letters: B batch, L token position, D width.
"""

import argparse
import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPImageProcessor, CLIPTextModel, CLIPTokenizer

from configs.files import whole_folder
from configs.references import TOYWORLD_MODELS
from corpora.miniature import miniature, train_vae
from corpora.miniature.design import OF_TOYWORLD
from corpora.miniature.fit import TrainingStage, batch_of, fit
from corpora.miniature.miniature_accuracy import measure_sd
from corpora.miniature.miniature_folder import write_model, write_text_encoder
from corpora.miniature.train_text_encoders import SceneProbe, labels, tail_mask
from corpora.miniature.train_unets import (
    TAIL_HIDDEN_SHARE,
    Condition,
    loss_of,
    some_left_out,
)

TEXT = TrainingStage("sd_text", 1600, 2e-3)
UNET = TrainingStage("sd_unet", 3400, 2e-3)
MODEL_INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.35.0",
    "requires_safety_checker": True,
    "feature_extractor": ["transformers", "CLIPImageProcessor"],
    "image_encoder": [None, None],
    "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


class SdCaptionReader(nn.Module):
    """The encoder, frozen after training: texts to the states that SD 1.x's UNet reads."""

    def __init__(self, encoder: CLIPTextModel, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.encoder, self.tokenizer = encoder, tokenizer

    def forward(self, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """States after the last layer norm (B, L, D) and the position of EOS (B,)."""
        ids_BL = miniature.token_ids(self.tokenizer, texts).to(self.encoder.device)
        eos_position_B = (ids_BL == self.tokenizer.eos_token_id).int().argmax(dim=1)
        return self.encoder(ids_BL).last_hidden_state, eos_position_B


def train_text_encoder(tokenizer: CLIPTokenizer, work: Path) -> SdCaptionReader:
    torch.manual_seed(0)
    reader = SdCaptionReader(miniature.sd_text_encoder(len(tokenizer)), tokenizer)
    probe = SceneProbe(miniature.SD_WIDTH, None, OF_TOYWORLD.attributes)

    def loss(step: int) -> torch.Tensor:
        scenes, texts = batch_of("sd_text", step)
        states_BLD, eos_position_B = reader(texts)
        logits = probe(states_BLD, None, tail_mask(eos_position_B, 0.5))
        targets_BA = labels(scenes)
        return torch.stack(
            [F.cross_entropy(value, targets_BA[:, index]) for index, value in enumerate(logits)]
        ).mean()

    fit(TEXT, nn.ModuleList([reader, probe]), loss, work)
    return reader


def condition_of(reader: SdCaptionReader) -> Callable[[list[str]], Condition]:
    """Captions to text states; an omitted caption becomes the encoded empty prompt."""

    @torch.no_grad()
    def condition(texts: list[str]) -> Condition:
        states_BLD, eos_position_B = reader(some_left_out(texts))
        return states_BLD, None, ~tail_mask(eos_position_B, TAIL_HIDDEN_SHARE)

    return condition


@torch.no_grad()
def with_normalized_latents(vae: AutoencoderKL) -> AutoencoderKL:
    """The same autoencoder with the latents' mean and deviation in its 1 x 1 convolutions instead
    of its config: SD 1.x's pipeline ignores `latents_mean` and `latents_std`, SDXL's does not.

    Encoding gives exactly (z - mean) / std, and decoding inverts it.
    """
    same = copy.deepcopy(vae).cpu()
    mean = torch.tensor(vae.config.latents_mean)
    std = torch.tensor(vae.config.latents_std)
    encode, decode = same.quant_conv, same.post_quant_conv  # to mean and log-variance; from latents
    channels = len(mean)
    encode.bias[:channels] -= mean
    encode.bias[:channels] /= std
    encode.weight[:channels] /= std.view(-1, 1, 1, 1)
    encode.bias[channels:] -= 2 * std.log()
    decode.bias += (decode.weight * mean.view(1, -1, 1, 1)).sum(dim=(1, 2, 3))
    decode.weight *= std.view(1, -1, 1, 1)
    same.register_to_config(latents_mean=None, latents_std=None)
    return same


def write_folder(
    reader: SdCaptionReader, unet: UNet2DConditionModel, vae: AutoencoderKL, folder: Path
) -> None:
    """Whole or not at all."""
    with whole_folder(folder) as partial:
        for name, model in (("unet", unet), ("vae", with_normalized_latents(vae))):
            write_model(model, partial / name)
        _write_safety_checker(partial / "safety_checker")
        write_text_encoder(reader.encoder, partial / "text_encoder")
        shutil.copytree(TOYWORLD_MODELS / "base" / "tokenizer", partial / "tokenizer")
        miniature.scheduler(steps_offset=1).save_pretrained(partial / "scheduler")
        size = {"height": 32, "width": 32}
        CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=size).save_pretrained(
            partial / "feature_extractor"
        )
        index = json.dumps(MODEL_INDEX, indent=2) + "\n"
        (partial / "model_index.json").write_text(index, encoding="utf-8")


def _write_safety_checker(folder: Path) -> None:
    """Under the published names, `vision_model.vision_model`: transformers 5 writes only the first,
    and transformers 4 then loads random weights with a warning.
    """
    checker = miniature.safety_checker()
    checker.save_pretrained(folder)
    weights = {
        key.replace("vision_model.", "vision_model.vision_model.", 1)
        if key.startswith("vision_model.") and not key.startswith("vision_model.vision_model.")
        else key: value.contiguous()
        for key, value in checker.state_dict().items()
        if not key.endswith("position_ids")
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def train(work: Path, folder: Path) -> None:
    """Trains the encoder, then the UNet, each from where it stopped."""
    work.mkdir(parents=True, exist_ok=True)
    base = TOYWORLD_MODELS / "base"
    tokenizer = CLIPTokenizer.from_pretrained(base / "tokenizer", trust_remote_code=False)
    vae = train_vae.load(base / "vae")
    reader = train_text_encoder(tokenizer, work)
    torch.manual_seed(0)
    unet = miniature.sd_unet().to(memory_format=torch.channels_last)
    fit(UNET, unet, loss_of("sd", "sd", unet, vae, condition_of(reader)), work)
    write_folder(reader, unet, vae, folder)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m corpora.miniature.train_sd",
        description="Trains the miniature SD 1.x of toyworld.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--work", type=Path, default=Path("runs/miniature_sd"), help="where unfinished models are"
    )
    parser.add_argument("--measure-only", action="store_true", help="measure the model there is")
    arguments = parser.parse_args(argv)
    folder = TOYWORLD_MODELS / "sd"
    if not arguments.measure_only:
        train(arguments.work, folder)
    print(
        f"{measure_sd(folder):.3f} of held-out English captions painted with every attribute right"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
