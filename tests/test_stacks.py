"""Exports load anywhere: made under the newest transformers and diffusers or under 4.57 and 0.35,
read under either, the same states.

The second stack is the environment `.venv-v4`, which `make test` makes; V4_PYTHON names another.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import write_checkpoint, write_flagging_sd
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from written_prompts import WRITTEN

from configs.references import TOYWORLD_MODELS
from distill.encoders.family import SD, SDXL
from distill.encoders.teacher import load_text_encoders
from distill.encoders.tower import tower_of
from distill.tokenizer import portable
from distill.verify.readings import PROMPTS, TOLERANCE

ROOT = Path(__file__).resolve().parent.parent
V4_PYTHON = os.environ.get("V4_PYTHON") or str(ROOT / ".venv-v4" / "bin" / "python")
STACKS = {"newest": sys.executable, "v4": V4_PYTHON}
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which(V4_PYTHON) is None,
        reason="no second environment with transformers 4.57 and diffusers 0.35: run `make test`",
    ),
]


def go(stack: str, *words: str | Path) -> str:
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "default",
    }
    done = subprocess.run(
        [STACKS[stack], *map(str, words)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, (
        f"{stack}: {' '.join(map(str, words))}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    )
    return done.stdout


@pytest.fixture(scope="module")
def exports(tiny_sdxl: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One checkpoint, exported by each stack."""
    run = tmp_path_factory.mktemp("stacks")
    vocabulary = portable.build(
        TOYWORLD_MODELS / "spiece.model", run / "newest" / "initial_student" / "tokenizer"
    )
    write_checkpoint(run / "newest", tiny_sdxl / "base", len(vocabulary), step=500)
    shutil.copytree(run / "newest", run / "v4")
    for stack in STACKS:
        settings = [
            f"run={run / stack}",
            f"distill.base={tiny_sdxl}/base",
            f"distill.refiner={tiny_sdxl}/refiner",
        ]
        go(stack, "-m", "distill.export", "configs/toyworld.yaml", *settings)
    return {stack: run / stack / "export" for stack in STACKS}


@pytest.fixture(scope="module")
def sd_exports(tiny_sd: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Likewise of SD."""
    run = tmp_path_factory.mktemp("sd_stacks")
    vocabulary = portable.build(
        TOYWORLD_MODELS / "spiece.model", run / "newest" / "initial_student" / "tokenizer"
    )
    write_checkpoint(run / "newest", tiny_sd, len(vocabulary), step=500, family=SD)
    shutil.copytree(run / "newest", run / "v4")
    for stack in STACKS:
        settings = [f"run={run / stack}", f"distill.base={tiny_sd}"]
        go(stack, "-m", "distill.export", "configs/toyworld_sd.yaml", *settings)
    return {stack: run / stack / "export" / "base" for stack in STACKS}


@pytest.mark.parametrize("made_by", STACKS)
def test_every_stack_reads_an_sd_export_as_the_trainer_does(
    made_by: str, sd_exports: dict[str, Path], tmp_path: Path
) -> None:
    """The stock pipeline's states equal the last hidden states that training computes; the safety
    checker, whose keys the versions write differently, flags nothing.
    """
    student = load_text_encoders(sd_exports[made_by], SD)
    tokens = student.tokenize(list(PROMPTS))
    tower = tower_of(student.models["clip"], SD.parts["clip"].states)
    with torch.no_grad():
        trained_BLD, _ = tower(tokens.ids["clip"], tokens.eos["clip"])
    (tmp_path / "prompts.json").write_text(json.dumps(PROMPTS), encoding="utf-8")
    for read_by in STACKS:
        out = tmp_path / f"{read_by}.safetensors"
        probe = ("tests/stack_probe.py", sd_exports[made_by], tmp_path / "prompts.json", out)
        go(read_by, *probe)
        found = load_file(out)
        torch.testing.assert_close(found["states"], trained_BLD, rtol=0, atol=1e-6)
        torch.testing.assert_close(found["last hidden state"], found["states"], rtol=0, atol=1e-6)
        assert found["flagged"].tolist() == [False]


def test_the_older_stack_blackens_what_an_sds_checker_flags(tmp_path: Path) -> None:
    """By the checker's own weights, published under names that the versions write differently."""
    harmless = TOYWORLD_MODELS / "sd"
    flags = write_flagging_sd(harmless, tmp_path / "flags")
    words = ("--prompt", "a red circle", "--plms", "--ddim_steps", "2", "--outdir")
    for folder in (harmless, flags):
        said = go("v4", "-m", "eval.paint", folder, *words, tmp_path / "out" / folder.name)
        assert ("(black: flagged" in said) is (folder == flags)
        with Image.open(tmp_path / "out" / folder.name / "0000.png") as picture:
            brightest = max(high for _, high in picture.convert("RGB").getextrema())
        assert (brightest == 0) is (folder == flags)


@pytest.fixture(scope="module")
def lora(tiny_sdxl: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA of the UNet's attention as people publish it, its weights random."""
    from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    folder = tmp_path_factory.mktemp("lora")
    unet = UNet2DConditionModel.from_pretrained(tiny_sdxl / "base" / "unet")
    torch.manual_seed(0)
    unet.add_adapter(
        LoraConfig(
            r=2, init_lora_weights=False, target_modules=["to_k", "to_q", "to_v", "to_out.0"]
        )
    )
    StableDiffusionXLPipeline.save_lora_weights(
        folder, unet_lora_layers=get_peft_model_state_dict(unet)
    )
    return folder


def test_every_stack_reads_every_export_alike(
    exports: dict[str, Path], lora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "prompts.json").write_text(json.dumps(PROMPTS), encoding="utf-8")
    readings = {}
    for made_by, export in exports.items():
        for read_by in STACKS:
            out = tmp_path / f"{made_by}-{read_by}.safetensors"
            go(read_by, "tests/stack_probe.py", export, tmp_path / "prompts.json", lora, out)
            readings[f"made by {made_by}, read by {read_by}"] = load_file(out)
            with safe_open(out, framework="pt") as file:
                assert file.metadata()["transformers"].startswith(
                    "4.57." if read_by == "v4" else "5."
                )

    reference, *others = readings.values()
    pipelines = [name for name, tensor in reference.items() if tensor.ndim == 2]
    assert len(pipelines) >= 5 and all(
        len(reference[name]) == len(PROMPTS) == 12 for name in pipelines
    )
    assert (
        torch.unique(reference[pipelines[0]], dim=0).shape[0] == 12
    )  # no two prompts give the same states
    assert not torch.equal(reference["LoRA"], reference["base"]) and not torch.equal(
        reference["refiner"], reference["base"]
    )
    assert not torch.equal(reference["textual inversion"], reference["textual inversion, before"])
    worst = {
        name: max(
            float((other[name] - tensor).abs().max() / tensor.abs().max()) for other in others
        )
        for name, tensor in reference.items()
    }
    with capsys.disabled():
        print(
            f"\n{len(STACKS)} stacks x {len(pipelines)} pipelines x {len(PROMPTS)} prompts, each "
            "export read by each stack:"
        )
        print(
            f"largest relative embedding difference {max(worst[name] for name in pipelines):.1e}, "
            f"of everything compared {max(worst.values()):.1e}"
        )
    assert max(worst.values()) <= TOLERANCE, worst


def test_every_stack_reads_prompts_as_people_write_them_alike(
    exports: dict[str, Path], tmp_path: Path
) -> None:
    """Through both encoders, in both styles. A prompt's markup is not read: where no weight is left
    the states are those of the plain text, where one is they are not.
    """
    readings = []
    for read_by in STACKS:
        out = tmp_path / f"{read_by}.safetensors"
        go(read_by, "tests/prompt_probe.py", exports["newest"] / "base", out)
        readings.append(load_file(out))
    newest, v4 = readings
    assert newest.keys() == v4.keys() and len(newest) == 2 * 30 * 3
    for name, tensor in newest.items():
        assert tensor.isfinite().all()
        assert (v4[name] - tensor).abs().max() <= TOLERANCE * tensor.abs().max(), name
    encoders, windows = load_text_encoders(exports["newest"] / "base", SDXL), []
    for number, (_, plain, weighted) in enumerate(WRITTEN):
        states = newest[f"a1111 {number} clip_bigg"]
        windows.append(states.shape[1] // 77)
        if plain is not None and windows[-1] == 1:
            expected = encoders.encode([plain]).states["clip_bigg"]
            error = (states - expected).abs().max() / expected.abs().max()
            assert bool(error <= TOLERANCE) is not bool(weighted), plain
    assert windows[0] == 1 and max(windows) >= 3 and windows.count(1) >= 10


@pytest.mark.parametrize(("made_by", "read_by"), [("newest", "v4"), ("v4", "newest")])
def test_verify_is_a_users_installation_check(
    made_by: str, read_by: str, exports: dict[str, Path], tmp_path: Path
) -> None:
    for folder in ("encoders", "base", "refiner"):
        go(
            read_by,
            "-m",
            "distill.verify",
            exports[made_by] / folder,
            "--json",
            tmp_path / "found.json",
        )
        found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
        assert (
            found["largest_relative_difference"] <= TOLERANCE
            and found["files_with_right_digest"] >= 8
        )
        assert found["stack"]["transformers"].startswith("4." if read_by == "v4" else "5.")
