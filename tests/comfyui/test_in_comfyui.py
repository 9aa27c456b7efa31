"""The node pack in ComfyUI itself, on the CPU: its states are diffusers', its workflows paint.

Needs a checkout: COMFYUI_PATH names it, and COMFYUI_PYTHON (several with `:` between) the Pythons
that have what it needs; by default this one.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import exports
import numpy as np
import pytest
import torch
from launchers import free_port
from PIL import Image
from safetensors.torch import load_file, save_file
from written_prompts import WRITTEN

from configs.references import TOYWORLD_MODELS
from distill.encoders import weighted_prompts
from distill.encoders.family import SDXL
from distill.encoders.teacher import load_text_encoders

COMFYUI = os.environ.get("COMFYUI_PATH")
PYTHONS = os.environ.get("COMFYUI_PYTHON", sys.executable).split(os.pathsep)
PACK = exports.ROOT / "comfyui"
SIDES = ("base", "refiner")
CLOSE = 1e-5  # of the largest number
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not COMFYUI, reason="COMFYUI_PATH names no checkout of ComfyUI"),
]


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That of COMFYUI_EXPORT, or of random students in toyworld's shape."""
    if given := os.environ.get("COMFYUI_EXPORT"):
        return Path(given)
    run = tmp_path_factory.mktemp("run")
    exports.prepare(run, TOYWORLD_MODELS / "base")
    models = (TOYWORLD_MODELS / "base", TOYWORLD_MODELS / "refiner")
    assert exports.export(run, *models, "--single-file") == 0
    return run / "export"


def escaped(text: str) -> str:
    """Says to ComfyUI what the text says to diffusers, which knows neither weights nor BREAK."""
    return re.sub(r"([()（）])", r"\\\1", plain(text))


def plain(text: str) -> str:
    return text.replace("BREAK", "break").replace("embedding:", "embedding ")


def distance(mine: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((mine - theirs).abs().max() / theirs.abs().max())


@pytest.fixture(scope="module", params=PYTHONS)
def given(
    request: pytest.FixtureRequest, export: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, torch.Tensor]:
    """What the CLIP of ComfyUI gives."""
    folder = tmp_path_factory.mktemp("given")
    texts = [written.prompt for written in WRITTEN]
    without_names = [text.replace("embedding:", "embedding ") for text in texts]
    prompts = {"plain": [escaped(text) for text in texts], "weighted": without_names}
    (folder / "prompts.json").write_text(json.dumps(prompts), encoding="utf-8")
    width = json.loads((export / "base/text_encoder/config.json").read_text())["hidden_size"]
    name = "lora_te1_text_model_encoder_layers_0_mlp_fc1"
    lora = {"lora_down": torch.ones(1, width), "lora_up": torch.ones(4 * width, 1)}
    save_file({f"{name}.{part}.weight": one for part, one in lora.items()}, folder / "lora.st")
    (folder / "lora.st").rename(folder / "lora.safetensors")
    (folder / "embeddings").mkdir()
    wide = json.loads((export / "base/text_encoder_2/config.json").read_text())["hidden_size"]
    vectors = {"clip_l": torch.randn(2, width), "clip_g": torch.randn(2, wide)}
    save_file(vectors, folder / "embeddings" / "word.safetensors")
    names = ("prompts.json", "lora.safetensors", "embeddings", "out.safetensors")
    probe = [request.param, str(exports.ROOT / "tests" / "comfyui_probe.py"), COMFYUI]
    arguments = [*probe, PACK, export, *(folder / name for name in names)]
    done = subprocess.run([str(one) for one in arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return load_file(folder / "out.safetensors")


@pytest.mark.parametrize("side", SIDES)
def test_states_are_those_of_diffusers(
    side: str, export: Path, given: dict[str, torch.Tensor]
) -> None:
    import diffusers

    kind = "StableDiffusionXLPipeline" if side == "base" else "StableDiffusionXLImg2ImgPipeline"
    pipeline = getattr(diffusers, kind).from_pretrained(export / side)
    worst = 0.0
    for number, written in enumerate(WRITTEN):
        with torch.no_grad():
            states, _, pooled, _ = pipeline.encode_prompt(
                plain(written.prompt), device="cpu", do_classifier_free_guidance=False
            )
        mine = given[f"{side}.plain.{number}.states"][:, :77]  # diffusers cuts there
        worst = max(worst, distance(mine, states))
        worst = max(worst, distance(given[f"{side}.plain.{number}.pooled"], pooled))
    print(f"{side}: {len(WRITTEN)} prompts, largest relative difference {worst:.1e}")
    assert worst <= CLOSE


@pytest.mark.parametrize("side", SIDES)
def test_weights_and_chunks_are_those_of_our_own_reading(
    side: str, export: Path, given: dict[str, torch.Tensor]
) -> None:
    parts = {name: SDXL.parts[name] for name in SDXL.readers[side]}
    family = type(SDXL)(**{**vars(SDXL), "parts": parts})
    encoders = load_text_encoders(export / side, family)
    for number, written in enumerate(WRITTEN):
        text = written.prompt.replace("embedding:", "embedding ")
        (wanted,) = weighted_prompts.encode(encoders, [text], "comfyui")
        mine = given[f"{side}.weighted.{number}.states"]
        assert distance(mine, wanted.context(tuple(parts))) <= CLOSE, written.prompt
        assert distance(given[f"{side}.weighted.{number}.pooled"], wanted.pooled_BP) <= CLOSE


def test_comfyuis_own_nodes_take_the_clip(given: dict[str, torch.Tensor], export: Path) -> None:
    """Clip skip, a LoRA of the text encoder, a textual inversion, half precision."""
    number = next(i for i, one in enumerate(WRITTEN) if one.prompt == "大きい(赤い:1.0)丸")
    shape = given[f"base.weighted.{number}.states"].shape
    for name in ("skip", "lora", "embedding", "half"):
        assert given[f"{name}.states"].shape == shape and given[f"{name}.states"].isfinite().all()
    for name in ("skip", "lora"):
        assert distance(given[f"{name}.states"], given["half.states"]) > 0.01
    width = json.loads((export / "base/text_encoder/config.json").read_text())["hidden_size"]
    of_bigg = distance(given["lora.states"][..., width:], given["half.states"][..., width:])
    assert of_bigg < 0.01  # the LoRA is one of CLIP-L alone


def api_prompt(workflow: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    """A workflow as the browser saves it, as the server takes it."""
    links = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    result = {}
    for node in workflow["nodes"]:
        inputs = known[node["type"]]["input"]
        linked = {one["name"]: links[one["link"]] for one in node["inputs"]}
        values, widgets = dict(linked), list(node["widgets_values"])
        for name, (_, *settings) in {**inputs["required"], **inputs.get("optional", {})}.items():
            if name in linked:
                continue
            values[name] = widgets.pop(0)
            if settings and settings[0].get("control_after_generate"):
                assert widgets.pop(0) == "fixed"
        assert not widgets, f"{node['type']}: {widgets} are left over"
        result[str(node["id"])] = {"class_type": node["type"], "inputs": values}
    return result


class Server:
    """ComfyUI with the pack, toyworld's checkpoints and nothing else; torn down by `stop`."""

    def __init__(self, folder: Path, export: Path) -> None:
        self.output, port = folder / "output", free_port()
        shutil.copytree(PACK, folder / "custom_nodes" / "japanese_clip")
        toyworld = exports.ROOT / "tests" / "comfyui_toyworld.py"
        shutil.copy(toyworld, folder / "custom_nodes" / "zz_toyworld.py")  # after the pack
        shutil.copytree(export / "encoders", folder / "models" / "diffusers" / "japanese-sdxl")
        for name in ("input", "output", "temp", "user"):
            (folder / name).mkdir()
        command = [PYTHONS[0], "main.py", "--cpu", "--port", port, "--disable-api-nodes"]
        command += ["--base-directory", str(folder), "--database-url", "sqlite:///:memory:"]
        command += ["--fp32-text-enc", "--fp32-unet"]
        environment = {**os.environ, "TOYWORLD": str(export), "ENGLISH": str(TOYWORLD_MODELS)}
        self.address, self.log = f"http://127.0.0.1:{port}", folder / "log"
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                command, cwd=COMFYUI, env=environment, stdout=log, stderr=subprocess.STDOUT
            )

    def ask(self, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(f"{self.address}{path}", data, timeout=10) as answer:
            return json.loads(answer.read())

    def wait(self, path: str, seconds: float = 120) -> Any:
        """Until the answer is neither an error nor empty."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            try:
                if found := self.ask(path):
                    return found
            except urllib.error.URLError:
                pass
            time.sleep(0.3)
        raise AssertionError(self.log.read_text()[-3000:])

    def paint(self, prompt: dict[str, Any]) -> Path:
        number = self.ask("/prompt", {"prompt": prompt})["prompt_id"]
        done = self.wait(f"/history/{number}")[number]
        assert done["status"]["status_str"] == "success", done["status"]
        (saved,) = (one for node in done["outputs"].values() for one in node["images"])
        return self.output / saved["filename"]

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=30)


@pytest.fixture(scope="module")
def server(export: Path, tmp_path_factory: pytest.TempPathFactory):
    server = Server(tmp_path_factory.mktemp("comfyui"), export)
    yield server
    server.stop()


SCENE = "白い背景に、大きい(青い:1.0)四角の左に小さい赤い丸がある"
IN_TOYWORLD = {
    "夕暮れの海辺を走る白い犬、逆光、(水しぶき:1.2)、写実的": SCENE,
    "masterpiece, best quality, cinematic lighting": "on a white background",
    "ぼやけ、文字、透かし": "",
    "lowres, blurry, text, watermark": "",
    1024: 128,  # pixels of a latent of 16 x 16
    5.0: 2.0,  # the miniature needs little guidance
    "dpmpp_2m": "euler",
    "karras": "sgm_uniform",
    "normal": "sgm_uniform",
}
EXAMPLES = ("text_to_image", "base_and_refiner", "japanese_and_english_tags")


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_workflows_paint(name: str, server: Server) -> None:
    known = server.wait("/object_info")
    assert "LoadJapaneseCLIP" in known
    path = server.output.parent / "custom_nodes/japanese_clip/example_workflows" / f"{name}.json"
    prompt = api_prompt(json.loads(path.read_text(encoding="utf-8")), known)
    for node in prompt.values():
        if node["class_type"] == "CheckpointLoaderSimple":
            node["class_type"] = "ToyworldCheckpoint"
        if node["class_type"] == "CLIPTextEncodeSDXLRefiner":
            node["inputs"] |= {"width": 32, "height": 32}
        for key, value in node["inputs"].items():
            if not isinstance(value, list):
                node["inputs"][key] = IN_TOYWORLD.get(value, value)
    with Image.open(server.paint(prompt)) as picture:
        assert picture.size == (32, 32) and len(np.unique(np.asarray(picture))) > 10
    translations = server.ask("/i18n")
    assert translations["ja"]["nodeDefs"]["LoadJapaneseCLIP"]["inputs"].keys() == {
        "folder",
        "part",
        "dtype",
    }


def test_a_wrong_folder_is_one_sentence(server: Server) -> None:
    known = server.wait("/object_info")
    path = PACK / "example_workflows" / "text_to_image.json"
    prompt = api_prompt(json.loads(path.read_text(encoding="utf-8")), known)
    for node in prompt.values():
        node["inputs"].pop("ckpt_name", None)
        if node["class_type"] == "LoadJapaneseCLIP":
            node["inputs"]["folder"] = "no such folder"
    with pytest.raises(urllib.error.HTTPError) as failed:
        server.ask("/prompt", {"prompt": prompt})
    said = failed.value.read().decode()
    failed.value.close()
    assert "'no such folder' is no folder in" in said and "copy the export there" in said
