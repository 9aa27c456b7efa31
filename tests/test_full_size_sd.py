"""SD 1.x at its own size, of random weights: a student's export, verified and painted with by the
stock pipeline.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import write_run_record
from safetensors.torch import load_file, save_file
from test_full_size import COMMON, CONFIGS, PARAMETERS, VOCABULARY, measured

from configs import artefact
from configs.references import TOYWORLD_MODELS
from distill.encoders.family import SD
from distill.plan.shapes import PUBLISHED
from distill.tokenizer import portable

SHAPES = PUBLISHED["stable-diffusion-v1-5/stable-diffusion-v1-5"]
SIZES = {"unet": 859_520_964, "vae": 83_653_863}  # as published
VAE = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 512,
}
SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "skip_prk_steps": True,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


def write_base(folder: Path) -> None:
    """A whole SD 1.x, 3.8 GB; its text encoder is a config alone, since the student replaces it."""
    from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel

    torch.manual_seed(0)
    for name, made in (
        ("unet", lambda: UNet2DConditionModel(**SHAPES["unet"])),
        ("vae", lambda: AutoencoderKL(**VAE)),
    ):
        model = made()
        assert sum(one.numel() for one in model.parameters()) == SIZES[name]
        model.save_pretrained(folder / name)
    PNDMScheduler(**SCHEDULER).save_pretrained(folder / "scheduler")
    (folder / "text_encoder").mkdir()
    config = COMMON | CONFIGS["clip_l"] | {"projection_dim": 768}
    (folder / "text_encoder" / "config.json").write_text(json.dumps(config))
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.35.2",
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "scheduler": ["diffusers", "PNDMScheduler"],
        "safety_checker": [None, None],
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
    }
    (folder / "model_index.json").write_text(json.dumps(index))


def write_student(run: Path) -> None:
    """The checkpoint of a student with a vocabulary of its own, 0.5 GB."""
    from transformers import CLIPTextConfig, CLIPTextModel

    config = COMMON | CONFIGS["clip_l"] | {"projection_dim": 768, "vocab_size": VOCABULARY}
    torch.manual_seed(1)
    model = CLIPTextModel(CLIPTextConfig(**config))
    state = {
        f"clip.text_model.{name.removeprefix('text_model.')}": value.contiguous()
        for name, value in model.state_dict().items()
        if not name.endswith("position_ids")
    }
    assert sum(value.numel() for value in state.values()) == PARAMETERS["clip_l"]
    folder = run / "distill" / "checkpoints" / "step_000001"
    folder.mkdir(parents=True)
    save_file(state, folder / "student.safetensors")
    artefact.seal(folder, made_from={})
    (run / "distill" / "latest").write_text(folder.name)
    tokenizer = run / "initial_student" / "tokenizer"
    portable.build(TOYWORLD_MODELS / "spiece.model", tokenizer, VOCABULARY)
    write_run_record(run)


@pytest.mark.slow
@pytest.mark.full_size
def test_a_full_size_sd_is_exported_verified_and_painted_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from diffusers import StableDiffusionPipeline

    base, run = tmp_path / "base", tmp_path / "run"
    try:
        write_base(base)
        write_student(run)
        settings = [f"run={run}", f"distill.base={base}"]
        peak = tmp_path / "peak"
        seconds, memory = measured(peak, "distill.export", "configs/sd15_jp.yaml", *settings)
        folder = run / "export" / "base"
        verify_seconds, verify_memory = measured(peak, "distill.verify", str(folder))
        found = json.loads((folder / "verification.json").read_text(encoding="utf-8"))
        worst = found["largest_relative_difference"]
        for part in SIZES:
            name = f"{part}/diffusion_pytorch_model.safetensors"
            assert (folder / name).samefile(base / name)
        student = load_file(run / "distill" / "checkpoints" / "step_000001" / "student.safetensors")
        written = load_file(folder / SD.parts["clip"].subfolder / "model.safetensors")
        assert all(written[name.removeprefix("clip.")].equal(student[name]) for name in student)
        pipeline = StableDiffusionPipeline.from_pretrained(folder)
        pipeline.set_progress_bar_config(disable=True)
        picture = pipeline("赤い丸", height=256, width=256, num_inference_steps=1).images[0]
        assert picture.size == (256, 256)
        with capsys.disabled():
            print(
                f"\nfull-size SD 1.x: exported in {seconds:.0f} s, {memory / 1e9:.1f} GB; verified "
                f"in {verify_seconds:.0f} s, {verify_memory / 1e9:.1f} GB; largest relative "
                f"difference {worst:.1e}"
            )
        assert worst <= 1e-5 and memory < 4e9 and verify_memory < 4e9
    finally:
        shutil.rmtree(tmp_path)
