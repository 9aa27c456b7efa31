"""The real architecture: CLIP-L and bigG students of full size and random weights, exported, loaded
by the stock pipeline, verified.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import write_run_record
from safetensors.torch import save_file

from configs import artefact
from configs.references import TOYWORLD_MODELS
from distill.encoders.family import SDXL
from distill.encoders.tower import TextTower
from distill.tokenizer import portable

ROOT = Path(__file__).resolve().parent.parent
VOCABULARY = 51_200
COMMON = {
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 77,
    "layer_norm_eps": 1e-5,
    "model_type": "clip_text_model",
    "pad_token_id": 1,
}
CONFIGS = {  # of stabilityai/stable-diffusion-xl-base-1.0, but for the vocabulary
    "clip_l": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "hidden_act": "quick_gelu",
    },
    "clip_bigg": {
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_hidden_layers": 32,
        "num_attention_heads": 20,
        "hidden_act": "gelu",
    },
}
PARAMETERS = {
    "clip_l": 124_436_736,
    "clip_bigg": 696_953_600,
}  # as published for the reference's encoders (facts of the model card)


@pytest.fixture(scope="module")
def full_size_run(tmp_path_factory: pytest.TempPathFactory):
    """A run folder with one checkpoint of 3.3 GB and the configs of its teacher; deleted
    afterwards.
    """
    from transformers import CLIPTextConfig

    run = tmp_path_factory.mktemp("full_size")
    torch.manual_seed(0)
    tensors, index = (
        {},
        {"_class_name": "StableDiffusionXLPipeline", "_diffusers_version": "0.35.2"},
    )
    for name, subfolder in (("clip_l", "text_encoder"), ("clip_bigg", "text_encoder_2")):
        config = COMMON | CONFIGS[name] | {"projection_dim": CONFIGS[name]["hidden_size"]}
        with torch.device("meta"):
            tower = TextTower(
                CLIPTextConfig(**config), SDXL.parts[name].states, SDXL.parts[name].pooled
            )
        state = {
            key: torch.empty(tensor.shape).uniform_(-0.035, 0.035)
            for key, tensor in tower.state_dict().items()
        }
        for key in [key for key in state if "layer_norm" in key and key.endswith("weight")]:
            state[key] += 1.0
        assert sum(tensor.numel() for tensor in state.values()) == PARAMETERS[name]
        tensors |= {f"{name}.{key}": tensor for key, tensor in state.items()}
        index |= {subfolder: ["transformers", "CLIPTextModel"]}
        (run / "teacher" / subfolder).mkdir(parents=True)
        (run / "teacher" / subfolder / "config.json").write_text(json.dumps(config))
    (run / "teacher" / "model_index.json").write_text(json.dumps(index))
    folder = run / "distill" / "checkpoints" / "step_000001"
    folder.mkdir(parents=True)
    save_file(tensors, folder / "student.safetensors")
    artefact.seal(folder, made_from={})
    (run / "distill" / "latest").write_text(folder.name)
    assert (
        len(
            portable.build(
                TOYWORLD_MODELS / "spiece.model", run / "initial_student" / "tokenizer", VOCABULARY
            )
        )
        == VOCABULARY
    )
    write_run_record(run)
    yield run
    shutil.rmtree(run)


# Anonymous memory alone: pages of mapped files are counted as resident while there is room, and
# given back when there is none. Looked at every 20 ms, since the kernel keeps the highest value of
# the sum only.
PROGRAM = """
import atexit, re, runpy, sys, threading, time
out, peak = sys.argv.pop(1), 0
def watch():
    global peak
    while True:
        status = open("/proc/self/status").read()
        peak = max(peak, int(re.search(r"RssAnon:\\s+(\\d+) kB", status)[1]))
        time.sleep(0.02)
threading.Thread(target=watch, daemon=True).start()
atexit.register(lambda: open(out, "w").write(str(peak)))
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def measured(out: Path, *words: str) -> tuple[float, float]:
    """Runs a command of the project; its seconds and the most anonymous memory it held, in
    bytes.
    """
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(out), *words],
        cwd=ROOT,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, words
    return time.monotonic() - started, 1024 * int(out.read_text())


@pytest.mark.slow
@pytest.mark.full_size
def test_a_full_size_pair_is_exported_reloaded_and_verified(
    full_size_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = full_size_run / "peak"
    weights = 4 * sum(PARAMETERS.values())
    settings = [
        f"run={full_size_run}",
        f"distill.base={full_size_run}/teacher",
        "export.encoders_only=true",
    ]
    seconds, peak = measured(out, "distill.export", "configs/sdxl_jp.yaml", *settings)
    encoders = full_size_run / "export" / "encoders"
    found = json.loads((encoders / "verification.json").read_text(encoding="utf-8"))
    verify_seconds, verify_peak = measured(out, "distill.verify", str(encoders))
    with capsys.disabled():
        print(
            f"\nfull-size pair, {weights / 1e9:.2f} GB: exported in {seconds:.0f} s, peak memory "
            f"{peak / weights:.2f} of the weights;"
        )
        worst = found["largest_relative_difference"]
        print(
            f"verified in {verify_seconds:.0f} s, {verify_peak / 1e9:.1f} GB; largest relative "
            f"difference {worst:.1e}"
        )
    sizes = [
        (encoders / name / "model.safetensors").stat().st_size
        for name in ("text_encoder", "text_encoder_2")
    ]
    assert weights <= sum(sizes) < weights + 200_000
    assert peak <= 1.2 * weights and verify_peak < 16e9
