"""A pipeline whose own text encoders were trained is told from one that left them alone.

Whoever puts a student into it is warned.
"""

import shutil
from pathlib import Path

import pytest
import torch
from conftest import write_checkpoint
from safetensors.torch import load_file, save_file

from configs.references import TOYWORLD_MODELS
from distill.encoders.family import SDXL
from distill.encoders.teacher import TextEncoders, load_text_encoders
from distill.encoders.tower import with_prefix
from distill.export import __main__ as export_entry
from distill.export.agreement import agreement
from distill.tokenizer import portable
from distill.verify.record import AGREEMENT, RETRAINED_BELOW, VERIFICATION, Verification

ROOT = Path(__file__).resolve().parents[3]
CAPTIONS = ["a small red ring", "a big blue square left of a green disc", "a yellow star", ""]


@pytest.fixture(scope="module")
def teacher() -> TextEncoders:
    return load_text_encoders(TOYWORLD_MODELS / "base", SDXL)


def copied(target: Path, dtype: torch.dtype) -> Path:
    shutil.copytree(TOYWORLD_MODELS / "base", target)
    for path in target.glob("text_encoder*/*.safetensors"):
        tensors = {name: one.to(dtype) for name, one in load_file(path).items()}
        save_file(tensors, path, {"format": "pt"})
    return target


def trained(target: Path, steps: int) -> Path:
    """Every encoder trained on: other states are asked of it than it gives."""
    shutil.copytree(TOYWORLD_MODELS / "base", target)
    encoders = load_text_encoders(target, SDXL)
    ids = encoders.tokenize(CAPTIONS).ids
    torch.manual_seed(0)
    for name, model in encoders.models.items():
        optimizer = torch.optim.AdamW(model.requires_grad_(True).parameters(), 1e-4)
        wanted = None
        for _ in range(steps):
            states = model(ids[name]).last_hidden_state
            wanted = torch.randn_like(states) if wanted is None else wanted
            optimizer.zero_grad()
            (states - wanted).square().mean().backward()
            optimizer.step()
        state = {with_prefix(key): one.detach() for key, one in model.state_dict().items()}
        save_file(
            state, target / SDXL.parts[name].subfolder / "model.safetensors", {"format": "pt"}
        )
    return target


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_rounding_is_no_training(dtype: torch.dtype, teacher: TextEncoders, tmp_path: Path) -> None:
    found = agreement(teacher, copied(tmp_path / "sdxl", dtype), SDXL)
    assert found > (0.9999 if dtype == torch.bfloat16 else 0.999999)


def test_training_shows_and_the_more_the_further(teacher: TextEncoders, tmp_path: Path) -> None:
    little, more = (
        agreement(teacher, trained(tmp_path / str(steps), steps), SDXL) for steps in (10, 40)
    )
    assert more < little < RETRAINED_BELOW


def test_the_refiner_is_compared_by_the_encoder_it_has(teacher: TextEncoders) -> None:
    assert agreement(teacher, TOYWORLD_MODELS / "refiner", SDXL) > 0.999999


def test_an_export_into_it_warns_and_keeps_the_figure(
    tiny_sdxl: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, tuned = tmp_path / "run", tmp_path / "tuned"
    tokenizer = run / "initial_student" / "tokenizer"
    vocabulary = portable.build(TOYWORLD_MODELS / "spiece.model", tokenizer)
    write_checkpoint(run, tiny_sdxl / "base", len(vocabulary), step=500)
    shutil.copytree(tiny_sdxl / "base", tuned)
    path = tuned / "text_encoder_2" / "model.safetensors"
    torch.manual_seed(0)
    tensors = {name: one + 0.1 * torch.randn_like(one) for name, one in load_file(path).items()}
    save_file(tensors, path, {"format": "pt"})
    settings = [f"run={run}", f"distill.base={tiny_sdxl}/base", "distill.refiner=null"]
    recipe = str(ROOT / "configs" / "toyworld.yaml")
    for _ in range(2):  # also of what is already there
        assert export_entry.main([recipe, *settings, "--assemble", str(tuned)]) == 0
        folder = run / "export" / "tuned"
        figure = Verification.read(folder / VERIFICATION, "").made_from[AGREEMENT]
        warning = next(
            line for line in capsys.readouterr().err.splitlines() if "distil from it" in line
        )
        assert float(figure) < RETRAINED_BELOW and f"teacher's to {figure}" in warning
        assert f"teacher's to {figure}" in (folder / "README.md").read_text(encoding="utf-8")
    shutil.rmtree(folder)
    path.unlink()  # what is not exported need not be there
    assert export_entry.main([recipe, *settings, "--assemble", str(tuned)]) == 0
    assert "are not compared with the teacher's" in capsys.readouterr().err
    assert AGREEMENT not in Verification.read(folder / VERIFICATION, "").made_from
