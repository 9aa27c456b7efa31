"""Single files in the original names, written from toyworld's models by a converter of the tests'
own, give the states and pictures of the folders they came from.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import original_layout
import pytest
import torch
from safetensors.torch import load_file, save_file

from configs.files import file_sha256
from configs.references import TOYWORLD_MODELS
from distill.encoders.teacher import load_text_encoders
from distill.sdxl.pipelines import load_base, load_refiner
from distill.sdxl.repository import family_in, open_folder
from distill.unpack import kinds, vocabulary, writing
from distill.unpack.__main__ import main
from distill.unpack.checkpoint_file import open_checkpoint
from distill.unpack.record import source_of

# The same numbers in another file lie at other addresses, and some processors then add in another
# order.
ROUNDING = {"rtol": 1e-5, "atol": 1e-5}
PROMPTS = ["a small red ring!", ""]
KINDS = ("base", "refiner", "sd", "sd2")


@pytest.fixture
def origin(tiny_sd: Path) -> Callable[[str], Path]:
    """The folder that a kind's file is written from. SD 2.x is SD 1.x by other names."""
    return lambda kind: tiny_sd if kind == "sd2" else TOYWORLD_MODELS / kind


def rounded(folder: Path, target: Path, dtype: torch.dtype) -> Path:
    """The folder with numbers that `dtype` can hold."""
    shutil.copytree(folder, target)
    for path in target.rglob("*.safetensors"):
        tensors = {name: one.to(dtype).float() for name, one in load_file(path).items()}
        save_file(tensors, path, {"format": "pt"})
    return target


def picture(folder: Path) -> np.ndarray:
    pipeline_of = load_base if (folder / "text_encoder").is_dir() else load_refiner
    pipeline = pipeline_of(str(folder), family_in(folder))
    settings = {"num_inference_steps": 3, "generator": torch.Generator().manual_seed(0)}
    if pipeline_of is load_refiner:
        latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1))
        settings |= {"image": latents, "strength": 0.9}
    return pipeline(PROMPTS[0], output_type="np", **settings).images


def states(folder: Path) -> dict[str, torch.Tensor]:
    family = family_in(folder)
    if not (folder / "text_encoder").is_dir():
        parts = {name: part for name, part in family.parts.items() if part.pooled}
        family = type(family)(**{**vars(family), "parts": parts})
    return load_text_encoders(folder, family).encode(PROMPTS).named()


def assert_equal(folder: Path, reference: Path) -> None:
    mine, theirs = states(folder), states(reference)
    assert mine.keys() == theirs.keys() and mine
    for name in theirs:
        torch.testing.assert_close(mine[name], theirs[name], **ROUNDING)
    np.testing.assert_allclose(picture(folder), picture(reference), **ROUNDING)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_states_and_pictures_are_those_of_the_folder(
    kind: str, dtype: torch.dtype, origin: Callable[[str], Path], tmp_path: Path
) -> None:
    file = original_layout.write(origin(kind), tmp_path / "FILE.safetensors", kind, dtype)
    out = tmp_path / "out"
    assert main([str(file), "--like", str(origin(kind)), "--out", str(out)]) == 0
    assert_equal(out, rounded(origin(kind), tmp_path / "reference", dtype))
    assert open_folder(out).index["_class_name"] == open_folder(origin(kind)).index["_class_name"]
    for part in ("unet", "vae"):  # as they were stored: half the room
        tensors = load_file(out / part / "diffusion_pytorch_model.safetensors")
        assert {one.dtype for one in tensors.values()} == {dtype}
    record = source_of(out)
    assert record is not None and record.sha256_of_file == file_sha256(file)


def test_attention_of_the_autoencoder_and_a_torch_file(tiny_sdxl: Path, tmp_path: Path) -> None:
    """The file of a training: a pickle of tensors below `state_dict`, with numbers beside it."""
    base, out = tiny_sdxl / "base", tmp_path / "out"
    file = original_layout.write(base, tmp_path / "x.safetensors", "base")
    content = {"state_dict": load_file(file), "global_step": 7, "epoch": 1}
    torch.save(content, tmp_path / "model.ckpt")
    assert main([str(tmp_path / "model.ckpt"), "--like", str(base), "--out", str(out)]) == 0
    assert_equal(out, base)


def test_v_prediction_and_zero_snr_set_the_scheduler(tmp_path: Path) -> None:
    """Toyworld is trained by them; without the two keys the same file paints something else."""
    base, like = TOYWORLD_MODELS / "base", tmp_path / "like"
    shutil.copytree(base, like)
    path = like / "scheduler" / "scheduler_config.json"
    plain = {"prediction_type": "epsilon", "rescale_betas_zero_snr": False}
    path.write_text(
        json.dumps(json.loads(path.read_text()) | plain | {"timestep_spacing": "leading"})
    )
    keys = {name: torch.zeros(0) for name in ("v_pred", "ztsnr")}
    for name, more in (("with", keys), ("without", {})):
        file = original_layout.write(base, tmp_path / f"{name}.safetensors", "base", more=more)
        assert main([str(file), "--like", str(like), "--out", str(tmp_path / name)]) == 0
    expected = picture(base)
    np.testing.assert_allclose(picture(tmp_path / "with"), expected, **ROUNDING)
    assert not np.allclose(picture(tmp_path / "without"), expected, atol=0.1)


def test_a_scheduler_without_zero_snr_gives_way(tiny_sd: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_sd, tmp_path / "like")
    published = kinds.SD_1.configs()["scheduler/scheduler_config.json"]
    (tmp_path / "like" / "scheduler" / "scheduler_config.json").write_text(json.dumps(published))
    index = json.loads((tmp_path / "like" / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", "PNDMScheduler"]
    (tmp_path / "like" / "model_index.json").write_text(json.dumps(index))
    more = {name: torch.zeros(0) for name in ("v_pred", "ztsnr")}
    file = original_layout.write(tiny_sd, tmp_path / "x.safetensors", "sd", more=more)
    out = tmp_path / "out"
    assert main([str(file), "--like", str(tmp_path / "like"), "--out", str(out)]) == 0
    scheduler = load_base(str(out), family_in(out)).scheduler
    assert type(scheduler).__name__ == "DDIMScheduler"
    assert scheduler.config.rescale_betas_zero_snr and scheduler.alphas_cumprod[-1] < 1e-6


@pytest.mark.parametrize(("deviation", "prediction"), [(0.2, "v_prediction"), (0.02, "epsilon")])
def test_how_an_sd_2_predicts_is_guessed_by_a_weight_and_it_is_said(
    deviation: float, prediction: str, tmp_path: Path
) -> None:
    path, said, configs = tmp_path / "x.safetensors", [], kinds.SD_2.configs()
    save_file({writing.SD_2_BIAS: torch.tensor([-deviation, deviation])}, path)
    writing._set_scheduler(open_checkpoint(path), kinds.SD_2, configs, None, said.append)
    assert configs["scheduler/scheduler_config.json"]["prediction_type"] == prediction
    assert configs["unet/config.json"]["sample_size"] == (96 if deviation > 0.1 else 64)
    assert said == [f"{prediction}, guessed by its weights: no name says it"]


def test_the_moving_average_is_taken_where_it_is_whole_and_it_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = TOYWORLD_MODELS / "base"
    weights = original_layout.unet(base / "unet")
    averaged = {
        "model_ema." + name.removeprefix("model.").replace(".", ""): 2 * one.float()
        for name, one in weights.items()
    }
    for name, more in (("whole", averaged), ("cut", dict(list(averaged.items())[:-1]))):
        file = original_layout.write(base, tmp_path / f"{name}.safetensors", "base", more=more)
        assert main([str(file), "--like", str(base), "--out", str(tmp_path / name)]) == 0
        said = "moving average of the training (model_ema.*)" in capsys.readouterr().out
        stored = load_file(tmp_path / name / "unet" / "diffusion_pytorch_model.safetensors")
        own = load_file(base / "unet" / "diffusion_pytorch_model.safetensors")["conv_in.weight"]
        assert said == (name == "whole")
        assert torch.equal(stored["conv_in.weight"], own.float() * (2 if said else 1))


def test_an_autoencoder_from_elsewhere(
    tiny_sdxl: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = tiny_sdxl / "base"
    file = original_layout.write(base, tmp_path / "x.safetensors", "base", without=("vae",))
    call = [str(file), "--like", str(base), "--out"]
    assert main([*call, str(tmp_path / "none")]) == 3
    assert "holds no autoencoder (VAE); unpack it with" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
    alone, weights = tmp_path / "vae.safetensors", original_layout.vae(base / "vae")
    save_file({name.partition(".")[2]: one for name, one in weights.items()}, alone)
    stored = base / "vae" / "diffusion_pytorch_model.safetensors"
    for number, vae in enumerate((base, base / "vae", alone, stored)):
        out = tmp_path / str(number)
        assert main([*call, str(out), "--vae", str(vae)]) == 0
        np.testing.assert_allclose(picture(out), picture(base), **ROUNDING)


class NoTensor:
    pass


def no_vae_and_no_encoders(base: Path, path: Path) -> None:
    original_layout.write(base, path, "base", without=("vae", "text_encoder", "text_encoder_2"))


def other(name: str, tensor: torch.Tensor | None = None) -> Callable[[Path, Path], None]:
    return lambda _, path: save_file({name: torch.zeros(2) if tensor is None else tensor}, path)


def fp8(base: Path, path: Path) -> None:
    original_layout.write(base, path, "base")
    tensors = load_file(path)
    name = "model.diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight"
    save_file({**tensors, name: tensors[name].to(torch.float8_e4m3fn)}, path)


def with_channels(base: Path, path: Path) -> None:
    original_layout.write(base, path, "base")
    name = "model.diffusion_model.input_blocks.0.0.weight"
    save_file({**load_file(path), name: torch.zeros(8, 9, 3, 3)}, path)


def nf4(base: Path, path: Path) -> None:
    state = {"model.diffusion_model.out.2.weight.quant_state.bitsandbytes__nf4": torch.zeros(2)}
    original_layout.write(base, path, "base", more=state)


def cut(base: Path, path: Path) -> None:
    original_layout.write(base, path, "base")
    path.write_bytes(path.read_bytes()[:-100])


REFUSED: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "UNet only": (no_vae_and_no_encoders, "holds a UNet only (by its UNet it is"),
    "no text encoders": (
        lambda base, path: original_layout.write(
            base, path, "base", without=("text_encoder", "text_encoder_2")
        ),
        "holds no text encoders (by its UNet",
    ),
    "one text encoder": (
        lambda base, path: original_layout.write(base, path, "base", without=("text_encoder",)),
        "holds bigG alone of the text encoders",
    ),
    "VAE only": (other("first_stage_model.decoder.conv_in.weight"), "holds an autoencoder (VAE)"),
    "fp8": (fp8, "its weights are quantised (model.diffusion_model.middle_block.1"),
    "nf4": (nf4, "its weights are quantised"),
    "GGUF": (lambda _, path: path.write_bytes(b"GGUF\3\0\0\0"), "a GGUF file"),
    "LoRA": (other("lora_unet_mid_block_attn.lora_up.weight"), "a LoRA, which changes a model"),
    "SD3": (other("model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight"), "an SD3"),
    "FLUX": (other("double_blocks.0.img_attn.qkv.weight"), "a FLUX or another"),
    "ControlNet": (other("control_model.time_embed.0.weight"), "a ControlNet"),
    "a part in diffusers' names": (other("down_blocks.0.resnets.0.conv1.weight"), "one part of a"),
    "something else": (other("head.weight"), "no model this project knows, its first tensor is"),
    "an inpainting model": (with_channels, "its UNet reads 9 channels, not 4"),
    "a pickle with code": (
        lambda _, path: torch.save({"state_dict": {}, "callback": NoTensor()}, path),
        "a pickle that is damaged or holds more than tensors",
    ),
    "truncated": (cut, "truncated, or no safetensors file (ValueError: "),
    "no safetensors": (lambda _, path: path.write_text("<html>not found</html>"), "truncated, or"),
    "of another shape than its configs": (
        lambda base, path: original_layout.write(base.parents[0] / "base", path, "base"),
        "as --like",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_whole_checkpoint_is_one_line(
    case: str, tiny_sdxl: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, line = REFUSED[case]
    path = tmp_path / "FILE.safetensors"
    make(tiny_sdxl / "base", path)
    assert main([str(path), "--out", str(tmp_path / "out")]) == 3
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and f"{path}: " in error and line in error, error
    assert not (tmp_path / "out").exists()


def test_the_vocabulary_is_clips(tmp_path: Path) -> None:
    """As open_clip's own tokenizer reads it; SDXL's second pads with "!"."""
    import open_clip
    from transformers import CLIPTokenizer

    settings = kinds.SDXL_BASE.configs()
    texts = ["a photo of a cat, 35mm (f/1.4)", "Straße naïve 東京 🦊", "it's  1girl's!"]
    expected = open_clip.SimpleTokenizer(clean="lower")(texts)
    for name, pad in (("tokenizer", 49407), ("tokenizer_2", 0)):
        vocabulary.write(tmp_path / name, settings[f"{name}/tokenizer_config.json"])
        tokenizer = CLIPTokenizer.from_pretrained(tmp_path / name)
        assert len(tokenizer) == 49408 and tokenizer.pad_token_id == pad
        found = tokenizer(texts, padding="max_length", max_length=77, return_tensors="pt")
        own = torch.where(expected == 0, pad, expected)
        plain = [0] if name == "tokenizer" else [0, 1]  # the second reads "!" as its pad
        assert torch.equal(found.input_ids[plain], own[plain])


# As published: of SDXL's report and model cards, and of the plan's own sources.
PARAMETERS = {
    "sdxl_base": (2_567_463_684, 83_653_863, {"clip_l": 123_060_480, "clip_bigg": 694_659_840}),
    "sdxl_refiner": (2_259_526_660, 83_653_863, {"clip_bigg": 694_659_840}),
    "sd_1_5": (859_520_964, 83_653_863, {"clip": 123_060_480}),
    "sd_2_1": (865_910_724, 83_653_863, {"clip": 340_387_840}),
}


@pytest.mark.parametrize("kind", kinds.KINDS, ids=lambda kind: kind.published)
def test_published_configs_have_the_published_sizes(kind: kinds.CheckpointKind) -> None:
    import transformers
    from diffusers import AutoencoderKL, UNet2DConditionModel

    configs = kind.part_configs()
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(configs["unet"])
        vae = AutoencoderKL.from_config(configs["vae"])
        encoders = {
            name: getattr(transformers, kind.family.parts[name].class_name)(
                transformers.CLIPTextConfig(**configs[kind.family.parts[name].subfolder])
            )
            for name in kind.encoders
        }
    counts = {name: sum(p.numel() for p in one.parameters()) for name, one in encoders.items()}
    found = [sum(p.numel() for p in one.parameters()) for one in (unet, vae)]
    assert (*found, counts) == PARAMETERS[kind.published]
