"""SD 1.5 at full size, of random weights, in one fp16 file, unpacked by the published configs."""

import time
from pathlib import Path

import original_layout
import pytest
import torch
from safetensors.torch import load_file

from distill.rehearse import random_weights
from distill.sdxl.pipelines import load_base
from distill.sdxl.repository import family_in, open_folder
from distill.unpack import kinds
from distill.unpack.__main__ import main


@pytest.mark.slow
@pytest.mark.full_size
def test_sd_1_5_is_unpacked_without_a_network(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    origin, out = tmp_path / "origin", tmp_path / "out"
    origin.mkdir()
    random_weights.write(kinds.SD_1, origin)
    file = original_layout.write(origin, tmp_path / "FILE.safetensors", "sd", torch.float16)
    started = time.monotonic()
    assert main([str(file), "--out", str(out)]) == 0
    seconds = time.monotonic() - started
    assert open_folder(out).pipeline == "StableDiffusionPipeline"
    for part, stem in (
        ("unet", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model"),
        ("text_encoder", "model"),
    ):
        mine, theirs = (
            load_file(folder / part / f"{stem}.safetensors") for folder in (out, origin)
        )
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    pipeline = load_base(str(out), family_in(out))
    picture = pipeline("a cat", num_inference_steps=1, height=64, width=64).images[0]
    with capsys.disabled():
        size = file.stat().st_size / 1e9
        print(f"\nSD 1.5 of {size:.2f} GB: unpacked in {seconds:.0f} s; {picture.size}")
    assert picture.size == (64, 64)
