"""Transfer: the gap before other UNets, through the commands; a UNet that is the student's own
gives the own number.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from eval.transfer import __main__ as transfer_entry


def test_every_unet_gets_its_gap(
    finished_run: Callable[..., str],
    tiny_sdxl: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from safetensors.torch import load_file, save_file

    recipe = finished_run()
    run = tmp_path / "run"
    shutil.copytree(tiny_sdxl / "base", tmp_path / "same")
    shutil.copytree(tiny_sdxl / "base", tmp_path / "other")
    path = tmp_path / "other" / "unet" / "diffusion_pytorch_model.safetensors"
    save_file(
        {
            name: tensor * (1.5 if "attn2.to_v" in name else 1.0)
            for name, tensor in load_file(path).items()
        },
        path,
    )
    unets = (
        f"eval.unets={{same: {tmp_path}/same, other: {tmp_path}/other,"
        f" refiner: {tiny_sdxl}/refiner}}"
    )
    sizes = ["eval.prompts=2", "eval.denoising_end=0.6"]
    # the tiny SDXL paints 32 x 32 pictures, so that scenes can be read from them (wrong ones)
    assert transfer_entry.main([recipe, unets, *sizes]) == 0
    found = json.loads((run / "eval" / "transfer.json").read_text(encoding="utf-8"))["unets"]
    gaps = {name: numbers["noise_gap"]["value"] for name, numbers in found.items()}
    assert list(gaps) == ["trained_with", "same", "other", "refiner"] and min(gaps.values()) > 0
    assert gaps["same"] == pytest.approx(gaps["trained_with"], rel=1e-6) and gaps[
        "other"
    ] != pytest.approx(gaps["trained_with"], rel=1e-3)
    assert (
        set(found["other"]["scene_accuracy"]) == {"teacher", "student"}
        and "scene_accuracy" not in found["refiner"]
    )
    assert all(
        numbers["noise_gap"]["low"] <= numbers["noise_gap"]["value"] <= numbers["noise_gap"]["high"]
        for numbers in found.values()
    )
    before = (run / "eval" / "transfer.json").stat().st_mtime_ns
    assert (
        transfer_entry.main([recipe, unets, *sizes]) == 0
        and "already there" in capsys.readouterr().out
    )
    assert (run / "eval" / "transfer.json").stat().st_mtime_ns == before


def test_what_is_missing_is_one_line(
    finished_run: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = finished_run()
    assert (
        transfer_entry.main([recipe]) == 2
        and "eval.unets: names no UNet" in capsys.readouterr().err
    )
    assert transfer_entry.main([recipe, f"eval.unets={{gone: {tmp_path}/gone}}"]) == 3
    assert "gone: there is no such folder" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "run" / "export")
    assert (
        transfer_entry.main([recipe, "eval.unets={x: y}"]) == 3
        and "there is no exported student" in capsys.readouterr().err
    )
