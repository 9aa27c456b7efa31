"""eval.scenes: which pipelines paint toyworld's held-out scenes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image

from configs.references import TOYWORLD_MODELS
from corpora.toyworld import renderer
from eval.pictures import painting
from eval.scenes import __main__ as entry
from eval.scenes import accuracy

# diffusers' schedulers turn tensors into arrays in a way that NumPy 2 will not always allow
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")


def test_the_teacher_paints_what_english_says_and_no_kamon(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["teacher=toyworld:sd", "--prompts", "8", "--out", str(tmp_path)]
    assert entry.main(given) == 0
    first = capsys.readouterr().out
    found = json.loads((tmp_path / "scenes.json").read_text())["pipelines"]["teacher"]
    assert found["english"]["right"]["value"] >= 0.75
    assert found["kamon"]["right"]["value"] == 0.0 and found["japanese"]["right"]["value"] < 0.5
    painted = {path: path.stat().st_mtime_ns for path in tmp_path.glob("teacher/*/*.png")}
    assert len(painted) == 24
    assert entry.main(given) == 0, "what is painted is kept"
    assert painted == {path: path.stat().st_mtime_ns for path in tmp_path.glob("teacher/*/*.png")}
    assert capsys.readouterr().out == first


@pytest.mark.parametrize("style", ["plain", "wavy"])
def test_the_style_of_pictures_is_told(style: renderer.Style, tmp_path: Path) -> None:
    """Of pictures as the miniature's VAE gives them back: no UNet can paint others."""
    scenes = accuracy.asked(50)["japanese"].scenes
    vae = AutoencoderKL.from_pretrained(TOYWORLD_MODELS / "sd" / "vae", torch_dtype=torch.float32)
    drawn = renderer.render(scenes, np.random.default_rng(0), style)
    with torch.no_grad():
        pixels = torch.from_numpy(drawn).permute(0, 3, 1, 2) / 127.5 - 1
        decoded = vae.decode(vae.encode(pixels).latent_dist.mode()).sample.clamp(-1, 1)
    pictures = ((decoded + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(painting.picture_path(tmp_path, number))
    found = accuracy.accuracies(tmp_path, scenes, "japanese", "wavy")
    assert found["style"]["value"] == (1.0 if style == "wavy" else 0.0)
    assert found["right"]["value"] >= 0.96


@pytest.mark.parametrize(
    ("given", "code", "complaint"),
    [
        (["toyworld:sd"], 2, "give NAME=FOLDER"),
        (["a/b=toyworld:sd"], 2, "give NAME=FOLDER"),
        (["own=nowhere/at/all"], 3, "no pipeline is there"),
        ([f"own={TOYWORLD_MODELS / 'ranker'}"], 3, "no pipeline is there"),
        (["own=toyworld:sd", "--prompts", "0"], 2, "--prompts: 0"),
    ],
)
def test_mistakes_are_one_line(
    given: list[str], code: int, complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert entry.main([*given, "--out", str(tmp_path)]) == code
    message = capsys.readouterr().err
    assert complaint in message and message.count("\n") == 1
