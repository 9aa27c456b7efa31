"""The UNets that transfer is measured on: other styles that the reader still reads, and folders
that differ in the UNet alone.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from configs.references import TOYWORLD_MODELS
from corpora.miniature import train_other_unets
from corpora.miniature.fit import TrainingStage
from corpora.toyworld import captions, renderer, scene_reader


@pytest.mark.parametrize("style", renderer.STYLES)
def test_every_style_shows_the_same_scenes(style: renderer.Style) -> None:
    scenes = [caption.scene for caption in captions.pairs(200, "train", 5)]
    pictures = renderer.render(scenes, np.random.default_rng(0), style)
    assert all(
        scene_reader.matches(scene, reading)
        for scene, reading in zip(scenes, scene_reader.read(pictures), strict=True)
    )
    different = np.abs(
        pictures.astype(int) - renderer.render(scenes, np.random.default_rng(0))
    ).mean()
    assert (different == 0) == (style == "plain") and different < 20


@pytest.mark.slow
@pytest.mark.parametrize("name", train_other_unets.NAMES)
def test_another_unet_is_the_miniature_with_another_unet(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two steps of each way to make one."""
    from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel

    monkeypatch.setattr(
        train_other_unets,
        "TrainingStage",
        lambda name, steps, *rest, **more: TrainingStage(name, 2, *rest, **more),
    )
    assert train_other_unets.main(["--out", str(tmp_path), "--only", name]) == 0
    base = TOYWORLD_MODELS / "base"
    pipeline = StableDiffusionXLPipeline.from_pretrained(tmp_path / name)
    own = UNet2DConditionModel.from_pretrained(base / "unet").state_dict()
    found = pipeline.unet.state_dict()
    assert found.keys() == own.keys()
    changed = {key for key in own if not torch.equal(found[key].float(), own[key].float())}
    assert changed and (name != "lora" or all(".attn" in key for key in changed))
    assert (tmp_path / name / "vae" / "config.json").samefile(base / "vae" / "config.json")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert train_other_unets.main(["--out", str(tmp_path), "--only", name]) == 0  # already there
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
