"""Repositories saved in the old way, and what transformers 4 and diffusers 0.35 give for any
repository. Run by that environment's Python.

    python tests/old_style_repository.py write SDXL SENTENCES.txt TEXTS.json OUT
    python tests/old_style_repository.py read TEXTS.json OUT.safetensors REPOSITORY...

In:  `SDXL`, whose UNet, autoencoder and scheduler are taken; sentences to train small SentencePiece
     models on; TEXTS: `prompts` to encode, `strings` to tokenize, `model_max_length`.
Out: `OUT/<name>/`, one repository for each of `KINDS`; `OUT/ids.json`: by name and tokenizer,
     padded ids of the strings; `OUT/recorded.safetensors`: by name, the states of every prompt that
     `encode_prompt` gives, and pooled. Imports nothing of the project.
"""

import json
import sys
import warnings
from pathlib import Path

import diffusers
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import save_file
from sentencepiece import SentencePieceTrainer
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, T5Tokenizer
from transformers.utils import logging


class JapaneseStableDiffusionPipeline(StableDiffusionPipeline):
    """What rinnakk/japanese-stable-diffusion's pipeline of that name adds to the stock one."""

    def __init__(
        self,
        vae,
        text_encoder,
        tokenizer,
        unet,
        scheduler,
        safety_checker,
        feature_extractor,
        requires_safety_checker=True,
    ) -> None:
        tokenizer.do_lower_case = True
        tokenizer.model_max_length = 77
        first = vae, text_encoder, tokenizer, unet, scheduler, safety_checker, feature_extractor
        super().__init__(*first, requires_safety_checker=requires_safety_checker)


ROWS = 760  # of each table: more than the pieces of any model here and its hundred sentinels
# name: pipeline, byte fallback, T5Tokenizer's options, the encoders' eos_token_id (2: pooled at the
# highest id; another: where it comes first)
KINDS = {
    "base": (
        StableDiffusionXLPipeline,
        False,
        {"extra_ids": 0, "bos_token": "<s>", "legacy": True},
        2,
    ),
    "refiner": (
        StableDiffusionXLImg2ImgPipeline,
        False,
        {"extra_ids": 0, "bos_token": "<s>", "legacy": True},
        2,
    ),
    "base_bytes": (
        StableDiffusionXLPipeline,
        True,
        {"legacy": False, "sep_token": "[SEP]", "do_lower_case": True},
        49407,
    ),
    "refiner_bytes": (
        StableDiffusionXLImg2ImgPipeline,
        True,
        {"legacy": True, "mask_token": "<mask>"},
        3,
    ),
    "sd": (StableDiffusionPipeline, False, {"legacy": False, "extra_ids": 3}, 2),
    "sd_bytes": (StableDiffusionPipeline, True, {"legacy": True, "do_lower_case": True}, 2),
    "jsd": (
        JapaneseStableDiffusionPipeline,
        False,
        {"extra_ids": 0, "bos_token": "<s>", "sep_token": "[SEP]", "legacy": True},
        2,
    ),
}


def train(sentences: Path, folder: Path, byte_fallback: bool) -> str:
    prefix = folder / ("bytes" if byte_fallback else "plain")
    SentencePieceTrainer.train(
        input=str(sentences),
        model_prefix=str(prefix),
        vocab_size=650 if byte_fallback else 400,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=3,
        byte_fallback=byte_fallback,
        user_defined_symbols=["[SEP]"],
        num_threads=1,
        minloglevel=2,
        hard_vocab_limit=False,
    )
    return f"{prefix}.model"


def text_encoder(kind: type, width: int, eos_token_id: int) -> torch.nn.Module:
    config = CLIPTextConfig(
        vocab_size=ROWS,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=3,
        num_attention_heads=2,
        hidden_act="gelu" if kind is CLIPTextModelWithProjection else "quick_gelu",
        projection_dim=20,
        bos_token_id=0,
        eos_token_id=eos_token_id,
        pad_token_id=1,
    )
    model = kind(config)
    with torch.no_grad():  # the default initialisation hardly looks at the text
        for name, parameter in model.named_parameters():
            if name.endswith("weight") and parameter.ndim == 2:
                parameter.copy_(
                    torch.randn_like(parameter)
                    * (0.5 if "embedding" in name else parameter.shape[1] ** -0.5)
                )
    return model.eval()


def write(name: str, sdxl: Path, sentences: Path, out: Path) -> None:
    pipeline, byte_fallback, options, eos_token_id = KINDS[name]
    torch.manual_seed(sorted(KINDS).index(name))
    spiece = train(sentences, out, byte_fallback)
    parts = {
        "vae": AutoencoderKL.from_pretrained(sdxl, subfolder="vae"),
        "scheduler": DDIMScheduler.from_pretrained(sdxl, subfolder="scheduler"),
        "text_encoder": None
        if pipeline is StableDiffusionXLImg2ImgPipeline
        else text_encoder(CLIPTextModel, 16, eos_token_id),
        "tokenizer": None
        if pipeline is StableDiffusionXLImg2ImgPipeline
        else T5Tokenizer(spiece, **options),
    }
    if issubclass(pipeline, StableDiffusionPipeline):
        unet = UNet2DConditionModel(
            block_out_channels=(8, 16),
            cross_attention_dim=16,
            attention_head_dim=4,
            norm_num_groups=4,
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        )
        parts |= {
            "unet": unet,
            "safety_checker": None,
            "feature_extractor": None,
            "requires_safety_checker": False,
        }
    else:
        parts |= {
            "unet": UNet2DConditionModel.from_pretrained(sdxl, subfolder="unet"),
            "tokenizer_2": T5Tokenizer(spiece, **options),
        }
        parts |= {"text_encoder_2": text_encoder(CLIPTextModelWithProjection, 24, eos_token_id)}
    # JSD's are pickles (.bin)
    safe = pipeline is not JapaneseStableDiffusionPipeline
    pipeline(**parts).save_pretrained(out / name, safe_serialization=safe)


def load(folder: Path):
    kind = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))["_class_name"]
    own = {"JapaneseStableDiffusionPipeline": JapaneseStableDiffusionPipeline}
    return (own.get(kind) or getattr(diffusers, kind)).from_pretrained(folder)


def encode(pipeline, prompts: list[str]) -> dict[str, torch.Tensor]:
    """States (B, L, D), and pooled where the pipeline has it."""
    with torch.no_grad():
        found = [
            pipeline.encode_prompt(
                prompt, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
            )
            for prompt in prompts
        ]
    states = {"prompt_embeds": torch.cat([parts[0] for parts in found])}
    return states | (
        {"pooled": torch.cat([parts[2] for parts in found])} if len(found[0]) == 4 else {}
    )


def tokenizers(pipeline) -> dict:
    found = {name: getattr(pipeline, name, None) for name in ("tokenizer", "tokenizer_2")}
    return {name: part for name, part in found.items() if part is not None}


def ids(tokenizer, strings: list[str], length: int) -> list[list[int]]:
    return [
        tokenizer(text, padding="max_length", max_length=length, truncation=True).input_ids
        for text in strings
    ]


def main() -> None:
    warnings.simplefilter("ignore")
    logging.set_verbosity_error()
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    if sys.argv[1] == "write":
        sdxl, sentences, texts, out = map(Path, sys.argv[2:])
        folders = [out / name for name in KINDS]
    else:
        texts, out, *folders = map(Path, sys.argv[2:])
    given = json.loads(texts.read_text(encoding="utf-8"))
    recorded, found = {}, {}
    for folder in folders:
        if sys.argv[1] == "write":
            write(folder.name, sdxl, sentences, out)
        pipeline = load(folder)
        for name, tokenizer in tokenizers(pipeline).items():
            if sys.argv[1] == "write":
                tokenizer.model_max_length = given[
                    "model_max_length"
                ]  # nobody saved one: without this the pipelines raise OverflowError
                found.setdefault(folder.name, {})[name] = ids(
                    tokenizer, given["strings"], given["model_max_length"]
                )
        recorded |= {
            f"{folder.name}.{part}": tensor
            for part, tensor in encode(pipeline, given["prompts"]).items()
        }
    if sys.argv[1] == "write":
        (out / "ids.json").write_text(json.dumps(found), encoding="utf-8")
        out = out / "recorded.safetensors"
    save_file(recorded, out)


if __name__ == "__main__":
    main()
