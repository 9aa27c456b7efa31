"""The miniature SDXL and SD 1.x: the stock classes of SDXL base and refiner and of SD 1.x, with
small configs.

All that the full pipelines rely on is kept: 77 text positions, tokenizer 1 padding with EOS and
tokenizer 2 with "!" (id 0), concatenated penultimate states of two encoders, `text_time`
conditioning, zeroed negatives in the base and the encoded empty prompt in the refiner. Latents are
4 x 16 x 16.
"""

import json
from collections.abc import Iterable
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import (
    CLIPConfig,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

POSITIONS = 77
BOS, EOS = "<|startoftext|>", "<|endoftext|>"
# base: original size, crop, target size; refiner: original size, crop, aesthetic score
TIME_IDS = {"base": 6, "refiner": 5}
AESTHETIC_SCORE = 6.0  # the img2img pipeline's default
TIME_EMBED_DIM = 8
HEAD_WIDTH = 16  # of the text encoders
SD_WIDTH = 64  # of SD 1.x's only text encoder


def write_tokenizers(captions: Iterable[str], folder: Path, tokens: int) -> None:
    """`tokenizer/` and `tokenizer_2/` in CLIP's layout: a byte-level BPE of the captions, of at
    most so many tokens, "!" at id 0, BOS and EOS last.
    """
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()]
    )
    tokenizer.train_from_iterator(
        captions,
        trainers.BpeTrainer(vocab_size=tokens, end_of_word_suffix="</w>", show_progress=False),
    )
    merges = [
        merge if isinstance(merge, str) else " ".join(merge)
        for merge in json.loads(tokenizer.to_str())["model"]["merges"]
    ]
    alphabet = list(_clip_alphabet())
    pieces = [
        *alphabet,
        *(letter + "</w>" for letter in alphabet),
        *(merge.replace(" ", "") for merge in merges),
        BOS,
        EOS,
    ]
    assert pieces[0] == "!" and len(set(pieces)) == len(pieces)
    for name, pad in (("tokenizer", EOS), ("tokenizer_2", "!")):
        target = folder / name
        target.mkdir(parents=True, exist_ok=True)
        (target / "vocab.json").write_text(
            json.dumps({piece: index for index, piece in enumerate(pieces)}, ensure_ascii=False),
            encoding="utf-8",
        )
        (target / "merges.txt").write_text(
            "\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8"
        )
        special = {"bos_token": BOS, "eos_token": EOS, "unk_token": EOS, "pad_token": pad}
        settings = {
            "tokenizer_class": "CLIPTokenizer",
            "model_max_length": POSITIONS,
            "do_lower_case": True,
            "errors": "replace",
            **special,
        }
        (target / "tokenizer_config.json").write_text(
            json.dumps(settings, indent=2), encoding="utf-8"
        )
        (target / "special_tokens_map.json").write_text(
            json.dumps(special, indent=2), encoding="utf-8"
        )


def _clip_alphabet() -> Iterable[str]:
    """One printable character per byte, printable ASCII first, in the order of CLIP's vocabulary
    (openai/CLIP, bytes_to_unicode).
    """
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    yield from map(chr, printable)
    yield from (chr(256 + index) for index in range(256 - len(printable)))


def load_tokenizers(folder: Path) -> tuple[CLIPTokenizer, CLIPTokenizer]:
    first, second = (
        CLIPTokenizer.from_pretrained(folder / name, trust_remote_code=False)
        for name in ("tokenizer", "tokenizer_2")
    )
    return first, second


def token_ids(tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    """(B, 77), padded and cut as the pipelines do."""
    ids: torch.Tensor = tokenizer(
        texts, padding="max_length", max_length=POSITIONS, truncation=True, return_tensors="pt"
    ).input_ids
    return ids


def text_encoders(
    vocab_size: int, widths: tuple[int, int]
) -> tuple[CLIPTextModel, CLIPTextModelWithProjection]:
    """CLIP-L's and bigG's classes, activations and proportions. `eos_token_id` 2 is SDXL's own
    value and means "the highest id".
    """
    (of_l, of_bigg), shared = widths, _of_every_clip(vocab_size)
    clip_l = CLIPTextConfig(
        hidden_size=of_l,
        intermediate_size=4 * of_l,
        num_hidden_layers=3,
        num_attention_heads=of_l // HEAD_WIDTH,
        hidden_act="quick_gelu",
        projection_dim=of_l,
        **shared,
    )
    clip_bigg = CLIPTextConfig(
        hidden_size=of_bigg,
        intermediate_size=4 * of_bigg,
        num_hidden_layers=4,
        num_attention_heads=of_bigg // HEAD_WIDTH,
        hidden_act="gelu",
        projection_dim=of_bigg,
        **shared,
    )
    return CLIPTextModel(clip_l), CLIPTextModelWithProjection(clip_bigg)


def sd_text_encoder(vocab_size: int) -> CLIPTextModel:
    """The only encoder of SD 1.x: CLIP-L's class, read after its last layer norm."""
    return CLIPTextModel(
        CLIPTextConfig(
            hidden_size=SD_WIDTH,
            intermediate_size=4 * SD_WIDTH,
            num_hidden_layers=3,
            num_attention_heads=4,
            hidden_act="quick_gelu",
            projection_dim=SD_WIDTH,
            **_of_every_clip(vocab_size),
        )
    )


def _of_every_clip(vocab_size: int) -> dict[str, int]:
    return {
        "vocab_size": vocab_size,
        "max_position_embeddings": POSITIONS,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 1,
    }


def vae(side: int, widths: tuple[int, ...]) -> AutoencoderKL:
    """For pictures of `side` pixels; each width but the last halves them: latents of 16 x 16."""
    return AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * len(widths),
        up_block_types=["UpDecoderBlock2D"] * len(widths),
        block_out_channels=list(widths),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=side,
        scaling_factor=1.0,
        mid_block_add_attention=False,
    )


def unet(part: str, widths: tuple[int, int], text_widths: tuple[int, int]) -> UNet2DConditionModel:
    """`base` reads both encoders (like SDXL, without attention at the top level), `refiner` only
    the second.
    """
    context = sum(text_widths) if part == "base" else text_widths[1]
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=widths,
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=context,
        attention_head_dim=(2, 4),
        transformer_layers_per_block=(1, 1),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=TIME_EMBED_DIM,
        projection_class_embeddings_input_dim=text_widths[1] + TIME_EMBED_DIM * TIME_IDS[part],
    )


def sd_unet() -> UNet2DConditionModel:
    """SD 1.x's: conditioned on one encoder's states only; no linear projections."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(32, 88),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=SD_WIDTH,
        attention_head_dim=(2, 4),
    )


def safety_checker() -> StableDiffusionSafetyChecker:
    """Random weights and thresholds of 1, the largest possible cosine: it never flags a picture."""
    vision = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
    }
    return StableDiffusionSafetyChecker(CLIPConfig(vision_config=vision, projection_dim=16))


def scheduler(steps_offset: int = 0) -> DDIMScheduler:
    """SDXL's betas, rescaled so that the last step is pure noise: without it, an epsilon model
    greys plain backgrounds (arXiv 2305.08891). SD 1.x's pipeline demands `steps_offset` 1, which
    "trailing" never uses.
    """
    return DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=steps_offset,
    )
