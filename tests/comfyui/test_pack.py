"""The node pack without ComfyUI: prompts, the ids it hands over, wrong folders, its files."""

import ast
import importlib.util
import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import comfyui_stand_in
import exports
import pytest
import torch
from safetensors.torch import load_file, save_file
from written_prompts import WRITTEN

from configs.references import TOYWORLD_MODELS
from distill.tokenizer import portable

PACK = exports.ROOT / "comfyui"
API = {"2025": comfyui_stand_in.LaterCLIP, "2026": comfyui_stand_in.AtOnceCLIP}


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("run")
    exports.prepare(run, TOYWORLD_MODELS / "base")
    assert exports.export(run, TOYWORLD_MODELS / "base", TOYWORLD_MODELS / "refiner") == 0
    return run / "export"


@pytest.fixture
def folders(export: Path, tmp_path: Path) -> dict[str, Path]:
    (tmp_path / "embeddings").mkdir()
    return {"diffusers": export, "embeddings": tmp_path / "embeddings"}


@pytest.fixture(params=API)
def node(
    request: pytest.FixtureRequest, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> Any:
    """The node, loaded as ComfyUI loads it, before either form of `CLIP`."""
    comfyui_stand_in.install(monkeypatch, folders, API[request.param])
    for name in ("pack", *(f"pack.{path.stem}" for path in PACK.glob("[a-z]*.py"))):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return load(monkeypatch).NODE_CLASS_MAPPINGS["LoadJapaneseCLIP"]


def load(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "pack", PACK / "__init__.py", submodule_search_locations=[str(PACK)]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "pack", module)
    spec.loader.exec_module(module)
    return module


def tokens(clip: Any, text: str, name: str = "l") -> list[list[tuple[Any, float, int]]]:
    found: list[list[tuple[Any, float, int]]] = clip.tokenizer.tokenize_with_weights(text, True)[
        name
    ]
    return found


@pytest.mark.parametrize(("part", "names"), [("base", "lg"), ("refiner", "g")])
def test_weights_and_ids_are_the_exports(part: str, names: str, node: Any, export: Path) -> None:
    """The table of tokens has our rows, start, end and padding are the config's."""
    (clip,) = node().load(part, part, "fp32")
    state = clip.cond_stage_model.state_dict()
    for name in names:
        folder = export / part / ("text_encoder" if name == "l" else "text_encoder_2")
        stored = load_file(folder / "model.safetensors")
        for key, tensor in stored.items():
            assert torch.equal(state.pop(f"clip_{name}.transformer.{key}"), tensor)
        config = json.loads((folder / "config.json").read_text())
        start, end = config["bos_token_id"], config["eos_token_id"]
        assert end == config["vocab_size"] - 1 != 49407
        settings = getattr(clip.cond_stage_model, f"clip_{name}").settings
        assert settings["special_tokens"] == {"start": start, "end": end, "pad": end}
        assert (settings["layer"], settings["layer_idx"]) == ("hidden", -2)
        assert not settings["layer_norm_hidden_state"]
        (chunk,) = tokens(clip, "", name)
        assert chunk == [(start, 1.0, 0), *[(end, 1.0, 0)] * 76]
    assert {re.sub("clip_.", "", name) for name in state} <= {
        ".logit_scale",
        ".transformer.text_projection.weight",
    }
    assert clip.parameters == sum(one.numel() for one in clip.cond_stage_model.parameters()) - len(
        names
    )


def test_a_weight_leaves_the_words_what_they_are(node: Any) -> None:
    """The text is tokenised once, without its marks."""
    (clip,) = node().load("encoders", "base", "default")

    def ids(text: str) -> list[list[Any]]:
        return [[token for token, *_ in chunk] for chunk in tokens(clip, text)]

    assert ids("大きい(赤い:1.0)丸") == ids("大きい（赤い：１．３）丸") == ids("大きい赤い丸")
    weighted = [weight for _, weight, _ in tokens(clip, "大きい（赤い：１．３）丸")[0]]
    assert set(weighted) == {1.0, 1.3} and weighted.count(1.3) == 1
    first, second = tokens(clip, "赤い丸 BREAK 青い四角")
    assert [one for one, *_ in first] == ids("赤い丸")[0]
    assert [one for one, *_ in second] == ids("青い四角")[0]
    for written in WRITTEN:
        for chunk in tokens(clip, written.prompt):
            words = [word for _, _, word in chunk if word]
            assert len(chunk) == 77 and words == sorted(set(words))
    plain = clip.tokenizer.tokenize_with_weights("(赤い:1.2)丸")
    assert {len(token) for chunks in plain.values() for chunk in chunks for token in chunk} == {2}


def test_ids_are_those_of_the_exported_tokenizer(node: Any, export: Path) -> None:
    (clip,) = node().load("base", "base", "default")
    tokenizer = portable.load(export / "base" / "tokenizer")
    text = "白い背景に、大きい青い四角の左に小さい赤い丸がある"
    wanted = tokenizer(text, padding="max_length", truncation=True).input_ids
    assert [token for token, *_ in tokens(clip, text)[0]] == wanted


def test_an_embedding_is_a_word_of_its_vectors(
    node: Any, folders: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    vectors = {"clip_l": torch.randn(2, 48), "clip_g": torch.randn(2, 80)}
    save_file(vectors, folders["embeddings"] / "neko.safetensors")
    (clip,) = node().load("base", "base", "default")
    plain = [token for token, *_ in tokens(clip, "赤い")[0]]
    end = plain.index(plain[-1])
    chunk = tokens(clip, "赤い (embedding:neko:1.2)、丸 embedding:none 青い")[0]
    assert [token for token, *_ in chunk[:end]] == plain[:end]
    assert all(
        torch.equal(*pair)
        for pair in zip(
            (token for token, *_ in chunk[end : end + 2]), vectors["clip_l"], strict=True
        )
    )
    assert [one[1:] for one in chunk[end : end + 2]] == [(1.2, end), (1.2, end)]
    assert chunk[end + 2][1:] == (1.0, end + 1)
    rest = [token for token, *_ in chunk[end + 2 :]]
    apart = [[token for token, *_ in tokens(clip, text)[0]] for text in ("、丸", "青い")]
    wanted = [one for ids in apart for one in ids[1 : ids.index(ids[-1])]]
    assert rest[: len(wanted) + 1] == [*wanted, plain[-1]]
    assert "embedding:none does not exist" in caplog.text


def english(folder: Path) -> None:
    shutil.copyfile(
        TOYWORLD_MODELS / "base/text_encoder_2/config.json", folder / "text_encoder_2/config.json"
    )


def other_table(folder: Path) -> None:
    path = folder / "text_encoder_2" / "model.safetensors"
    name = "text_model.embeddings.token_embedding.weight"
    save_file({**load_file(path), name: torch.zeros(7, 80)}, path)


def one_missing(folder: Path) -> None:
    path = folder / "text_encoder_2" / "model.safetensors"
    stored = load_file(path)
    stored.pop("text_model.encoder.layers.0.mlp.fc1.weight")
    save_file(stored, path)


WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "refiner for base": (
        lambda folder: shutil.rmtree(folder / "text_encoder"),
        "choose the part refiner",
    ),
    "no tokenizer": (
        lambda folder: (folder / "tokenizer_2/tokenizer.json").unlink(),
        "tokenizer.json is missing; give the encoders, base or refiner folder",
    ),
    "no JSON": (
        lambda folder: (folder / "text_encoder/config.json").write_text("{"),
        "config.json cannot be read; give",
    ),
    "no weights": (
        lambda folder: (folder / "text_encoder/model.safetensors").unlink(),
        "model.safetensors is missing; give",
    ),
    "English ids": (english, "has bos_token_id 0, its tokenizer"),
    "other table": (other_table, "its table of tokens is (7, 80), its config.json says"),
    "one missing": (one_missing, "layers.0.mlp.fc1.weight is missing; fetch the export again"),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("node", ["2025"], indirect=True)
def test_a_wrong_folder_is_one_sentence(
    case: str, node: Any, export: Path, folders: dict[str, Path], tmp_path: Path
) -> None:
    damage, said = WRONG[case]
    shutil.copytree(export / "base", tmp_path / "models" / "x")
    folders["diffusers"] = tmp_path / "models"
    damage(tmp_path / "models" / "x")
    with pytest.raises(ValueError, match=re.escape(said)) as failed:
        node().load("x", "base", "default")
    assert "\n" not in str(failed.value) and type(failed.value).__name__ == "FolderError"
    if case not in ("other table", "one missing"):  # known without reading the weights
        assert node.VALIDATE_INPUTS("x", "base") == str(failed.value)


@pytest.mark.parametrize("node", ["2025"], indirect=True)
def test_folders_are_found_by_their_files(node: Any, export: Path) -> None:
    required = node.INPUT_TYPES()["required"]
    assert required["folder"][0] == ["base", "encoders", "refiner"]
    assert node.VALIDATE_INPUTS("encoders", "refiner") is True
    assert node.VALIDATE_INPUTS() is True  # the values come over links
    for name in ("none", "../export/base", str(export / "base")):
        assert "is no folder in" in node.VALIDATE_INPUTS(name, "base")


def test_the_pack_holds_the_prompt_code_as_it_is() -> None:
    ours = (exports.ROOT / "distill" / "prompt.py").read_text(encoding="utf-8")
    assert (PACK / "prompt.py").read_text(encoding="utf-8") == ours, "run `make pack`"


def test_the_pack_needs_what_comfyui_has() -> None:
    known = {*sys.stdlib_module_names, "torch", "transformers", "comfy", "folder_paths"}
    for path in PACK.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [str(node.module)]
            assert {name.partition(".")[0] for name in names} <= known, path


@pytest.mark.parametrize("node", ["2025"], indirect=True)
def test_texts_and_workflows_name_what_the_node_has(node: Any) -> None:
    required = node.INPUT_TYPES()["required"]
    japanese = json.loads((PACK / "locales/ja/nodeDefs.json").read_text(encoding="utf-8"))
    assert japanese["LoadJapaneseCLIP"]["inputs"].keys() == required.keys()
    paths = sorted((PACK / "example_workflows").glob("*.json"))
    assert len(paths) == 3
    for path in paths:
        workflow = json.loads(path.read_text(encoding="utf-8"))
        nodes = {one["id"]: one for one in workflow["nodes"]}
        for number, origin, slot, target, place, kind in workflow["links"]:
            assert number in nodes[origin]["outputs"][slot]["links"]
            assert nodes[target]["inputs"][place] == {
                "name": nodes[target]["inputs"][place]["name"],
                "type": kind,
                "link": number,
            }
        ours = [one for one in nodes.values() if one["type"] == "LoadJapaneseCLIP"]
        for one in ours:
            folder, part, dtype = one["widgets_values"]
            assert folder == "japanese-sdxl"
            assert part in required["part"][0] and dtype in required["dtype"][0]
        assert ours
