"""kohya's sd-scripts with the tokenizer of an export: the ids and states are the pipeline's.

Beside a stand-in of what the launcher touches, a checkout that KOHYA_PATH names (KOHYA_PYTHON: a
Python with what it needs, by default this one).
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import exports
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file
from written_prompts import WRITTEN

from finetune import kohya

CHECKOUT = os.environ.get("KOHYA_PATH")
PYTHON = os.environ.get("KOHYA_PYTHON", sys.executable)
PROMPTS = ["白い背景に大きな赤い丸", "", "赤い丸" * 60, *(one.prompt for one in WRITTEN[:5])]
# What sd-scripts' class is to the launcher: two tokenizers and a length, made in __init__.
STAND_IN = """
class SdxlTokenizeStrategy:
    def __init__(self, max_length, tokenizer_cache_dir=None):
        raise OSError("would fetch the English tokenizers")

    def tokenize(self, text):
        return [
            one(text, padding="max_length", truncation=True, max_length=self.max_length,
                return_tensors="pt").input_ids[:, None]
            for one in (self.tokenizer1, self.tokenizer2)
        ]
"""
# As the trainers use it: sdxl_train_network.py makes the strategy from its arguments.
SCRIPT = """
import argparse, json, sys
import torch
from library import strategy_sdxl
parser = argparse.ArgumentParser()
for name in ("--pretrained_model_name_or_path", "--prompts", "--out"):
    parser.add_argument(name)
arguments = parser.parse_args()
prompts = json.loads(arguments.prompts)
strategy = strategy_sdxl.SdxlTokenizeStrategy(None, None)
result = {"ids": strategy.tokenize(prompts)}
if hasattr(strategy_sdxl, "SdxlTextEncodingStrategy"):
    from diffusers import StableDiffusionXLPipeline
    pipe = StableDiffusionXLPipeline.from_pretrained(
        arguments.pretrained_model_name_or_path, tokenizer=None)
    encoding = strategy_sdxl.SdxlTextEncodingStrategy()
    with torch.no_grad():
        models = [pipe.text_encoder, pipe.text_encoder_2]
        result["states"] = encoding.encode_tokens(strategy, models, result["ids"])
    chunks = strategy_sdxl.SdxlTokenizeStrategy(150, None)
    result["chunks"] = chunks.tokenize(prompts)
torch.save(result, arguments.out)
"""


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exports.toyworld_base(tmp_path_factory.mktemp("run"))


def launched(
    script: Path, *arguments: str, path: Path | None = None
) -> subprocess.CompletedProcess[str]:
    places = os.pathsep.join(filter(None, [str(exports.ROOT), path and str(path)]))
    return subprocess.run(
        [PYTHON, "-m", "finetune.kohya", str(script), *arguments],
        env=os.environ | {"PYTHONPATH": places, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )


def checkout(folder: Path) -> Path:
    library = folder / "library"
    library.mkdir(parents=True)
    (library / "__init__.py").touch()
    (library / "strategy_sdxl.py").write_text(STAND_IN, encoding="utf-8")
    return folder


def test_the_script_gets_the_ids_of_the_pipeline(export: Path, tmp_path: Path) -> None:
    script = checkout(tmp_path / "sd-scripts") / "train.py"
    script.write_text(SCRIPT, encoding="utf-8")
    out = tmp_path / "result.pt"
    words = ["--prompts", json.dumps(PROMPTS, ensure_ascii=False), "--out", str(out)]
    ended = launched(script, "--pretrained_model_name_or_path", str(export), *words)
    assert ended.returncode == 0, ended.stderr
    tokenizer = StableDiffusionXLPipeline.from_pretrained(export).tokenizer
    ids = tokenizer(
        PROMPTS, padding="max_length", truncation=True, max_length=77, return_tensors="pt"
    ).input_ids
    assert all(torch.equal(one[:, 0], ids) for one in torch.load(out)["ids"])


@pytest.mark.slow
@pytest.mark.skipif(not CHECKOUT, reason="KOHYA_PATH names no checkout of sd-scripts")
def test_sd_scripts_itself_reads_what_the_pipeline_reads(export: Path, tmp_path: Path) -> None:
    """Ids, states of both encoders and pooled of its own classes; two chunks of 75 tokens."""
    assert CHECKOUT is not None
    # it reads hidden state 11 of the first encoder, the penultimate of CLIP-L's 12 layers
    export = Path(shutil.copytree(export, tmp_path / "base"))
    folder = export / "text_encoder"
    config = json.loads((folder / "config.json").read_text())
    weights = load_file(folder / "model.safetensors")
    for name, tensor in list(weights.items()):
        for layer in range(config["num_hidden_layers"], 12):
            copy = name.replace("layers.0.", f"layers.{layer}.")
            weights[copy] = tensor if copy == name else tensor * 0.9
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 12}))
    script, out = tmp_path / "train.py", tmp_path / "result.pt"
    script.write_text(SCRIPT, encoding="utf-8")
    words = ["--prompts", json.dumps(PROMPTS, ensure_ascii=False), "--out", str(out)]
    ended = launched(
        script, f"--pretrained_model_name_or_path={export}", *words, path=Path(CHECKOUT)
    )
    assert ended.returncode == 0, ended.stderr
    found, pipeline = torch.load(out), StableDiffusionXLPipeline.from_pretrained(export)
    with torch.no_grad():
        states, _, pooled, _ = pipeline.encode_prompt(
            PROMPTS, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
        )
    assert torch.allclose(torch.cat(found["states"][:2], dim=-1), states, atol=1e-5)
    assert torch.allclose(found["states"][2], pooled, atol=1e-5)
    end = pipeline.tokenizer.eos_token_id
    long = found["chunks"][0][2]
    assert long.shape == (2, 77) and (long[0] != end).sum() == 76 and long[1, 1] != end


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--pretrained_model_name_or_path"),
        (["--pretrained_model_name_or_path", "EXPORT/model_index.json"], "is a file; give the exp"),
        (["--pretrained_model_name_or_path", "nowhere/at/all"], "no tokenizer can be read there"),
        (["--pretrained_model_name_or_path", "EXPORT"], "gone.py: there is no such script"),
    ],
)
def test_bad_input_is_one_line(
    export: Path,
    tmp_path: Path,
    arguments: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = [one.replace("EXPORT", str(export)) for one in arguments]
    with pytest.raises(SystemExit) as ended:
        kohya.main([str(tmp_path / "gone.py"), *words])
    assert ended.value.code == 2 and said in capsys.readouterr().err.splitlines()[-1]
