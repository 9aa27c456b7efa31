"""A stage's export is what was trained: to the bit on disk, to rounding through stock pipelines,
and as LoRA through diffusers' own loader, for SDXL and SD.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import diffusers
import lora_probe
import pytest
import torch
import yaml
from conftest import write_checkpoint, write_run_record
from groups import run_groups
from safetensors.torch import load_file, save_file

from configs import artefact
from configs.references import TOYWORLD_MODELS
from configs.schema.load import load_recipe
from distill.checkpoints.checkpoint import newest
from distill.sdxl.base import family_of, settled
from distill.sdxl.repository import STEMS
from distill.tokenizer import portable
from distill.verify import __main__ as verify_entry
from finetune.export import __main__ as entry
from finetune.export import lora
from finetune.export import trained as stages
from finetune.export.card import write_pipeline
from finetune.pictures import pipeline as pictures
from finetune.train import models, training

ROOT = Path(__file__).resolve().parents[3]
V4_PYTHON = os.environ.get("V4_PYTHON") or str(ROOT / ".venv-v4" / "bin" / "python")
STEPS, RANK, ALPHA = 2, 2, 6
PROMPTS = ["赤い丸", "青い四角の左に大きな緑の三角"]
# Relative, in fp32: the same sums in another order (a merged LoRA, another class of encoder), which
# differ by processor; 1.1e-6 was seen.
ROUNDING = 1e-5
BOTH = {"trains": ["text", "unet"], "lora": {"rank": RANK, "alpha": ALPHA}}
UNET_FILE = f"unet/{STEMS['unet']}.safetensors"
# by run: which base, and its stages
RUNS = {
    "chain": ("sdxl", {"words": ["text"], "cross": ["cross_attention"], "last": ["unet"]}),
    "whole": ("sdxl", {"pictures": {"trains": ["text", "unet"], "ema_decay": 0.5}}),
    "lora": ("sdxl", {"small": BOTH}),
    "half": ("sd_half", {"cross": ["cross_attention"]}),
    "sd_lora": ("sd", {"small": BOTH}),
    "unet_lora": ("sdxl", {"small": {**BOTH, "trains": ["cross_attention"]}}),
}


def train(paths: list[str]) -> None:
    for path in paths:
        training.train(load_recipe(path))


def write_initial_student(base: Path, folder: Path) -> int:
    """Of toyworld's vocabulary, with random embeddings; returns its size."""
    size = len(portable.build(TOYWORLD_MODELS / "spiece.model", folder / "tokenizer"))
    torch.manual_seed(3)
    embeddings = {}
    for name, part in family_of(str(base)).parts.items():
        width = json.loads((base / part.subfolder / "config.json").read_text())["hidden_size"]
        embeddings[name] = 0.5 * torch.randn(size, width)
    save_file(embeddings, folder / "token_embeddings.safetensors")
    artefact.seal(folder, {})
    return size


def write_run(base: Path, folder: Path, name: str, stages: dict) -> str:
    """A run that is ready to finetune; returns its recipe."""
    run = folder / name
    size = write_initial_student(base, run / "initial_student")
    start = "export" if name in ("chain", "whole") else "initial_student"
    if start == "export":
        write_checkpoint(run, base, size, STEPS)
        write_run_record(run)
    pace = {"steps": STEPS, "batch_size": 4, "learning_rate": 3e-2, "warmup_steps": 0}
    pace |= {"precision": "fp32", "eval_every_steps": STEPS, "save_every_steps": STEPS}
    tree = {
        "name": name,
        "run": str(run),
        "corpora": {
            "sources": [{"kind": "toyworld", "pairs": 24, "held_out_pairs": 2}],
            "language_id": {"model": "x"},
        },
        "vocab_init": {"tokenizer": "toyworld:spiece.model", "sentence_encoder": "x"},
        "distill": {"base": str(base), "objective": {"position": 1.0}, **pace},
        "pictures": {
            "resolution": 32,
            "buckets": None,
            "held_out": 2,
            "sources": [{"kind": "toyworld", "scenes": 8, "licence": "CC0|<own>"}],
        },
        "finetune": {
            "start": start,
            "stages": {
                stage: {**pace, **(more if isinstance(more, dict) else {"trains": more})}
                for stage, more in stages.items()
            },
        },
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    pictures.make(load_recipe(path))
    return str(path)


@pytest.fixture(scope="module")
def runs(
    tiny_sdxl: Path, tiny_sd: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """Recipes of trained runs."""
    folder = tmp_path_factory.mktemp("runs")
    half = folder / "sd_half"
    shutil.copytree(tiny_sd, half)
    weights = {name: tensor.half() for name, tensor in load_file(half / UNET_FILE).items()}
    save_file(weights, half / UNET_FILE, metadata={"format": "pt"})
    (half / "LICENSE").write_text("the base's own")
    bases = {"sdxl": tiny_sdxl / "base", "sd": tiny_sd, "sd_half": half}
    found = {
        name: write_run(bases[base], folder, name, stages) for name, (base, stages) in RUNS.items()
    }
    run_groups(__file__, [(1, "train", {"paths": [path]}) for path in found.values()])
    return found


def reference(path: str, stage: str) -> models.Models:
    """The models as they were trained, adapters unmerged."""
    recipe, family = settled(load_recipe(path))
    found = models.load(recipe, family, stage)
    parameters = models.trained_parameters(found, recipe.finetune.stages[stage])
    weights = checkpoint(path, stage)
    assert set(parameters) == set(weights)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])
    found.unet.eval()
    return found


def checkpoint(path: str, stage: str) -> dict[str, torch.Tensor]:
    return load_file(newest(folder_of(path, stage, ".")) / "student.safetensors")


def folder_of(path: str, stage: str, name: str) -> Path:
    return load_recipe(path).run_dir / "finetune" / stage / name


def stock(family, folder: Path):
    kind = getattr(diffusers, family.pipelines[0])
    return kind.from_pretrained(folder, trust_remote_code=False, use_safetensors=True)


def of_trainer(found: models.Models) -> dict[str, torch.Tensor]:
    """States, noise and (SDXL) the pooled state."""
    with torch.no_grad():
        encoding = found.towers(found.text.tokenize(PROMPTS))
    states_BLD, pooled_BP = encoding.context(found.family.readers["base"]), encoding.pooled_BP
    noise = lora_probe.noise_of(found.unet, states_BLD, pooled_BP)
    return {"states": states_BLD, "noise": noise} | (
        {} if pooled_BP is None else {"pooled": pooled_BP}
    )


def distance(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """The largest difference, relative to the largest number."""
    assert set(ours) == set(theirs)
    return max(
        float((ours[name] - other).abs().max() / other.abs().max())
        for name, other in theirs.items()
    )


def of_folder(folder: Path, family) -> dict[str, torch.Tensor]:
    return lora_probe.read(stock(family, folder), PROMPTS)


def tensors(folder: Path, family) -> dict[str, torch.Tensor]:
    """A pipeline's text encoders and UNet under the checkpoint's names."""
    parts = {name: f"{part.subfolder}/model.safetensors" for name, part in family.parts.items()}
    return {
        f"{part}.{name}": tensor
        for part, file in {**parts, "unet": UNET_FILE}.items()
        for name, tensor in load_file(folder / file).items()
    }


def test_the_export_is_the_checkpoint_to_the_bit(
    runs: dict[str, str], capsys, tmp_path: Path
) -> None:
    path = runs["whole"]
    assert entry.main([path]) == 0
    folder, family = folder_of(path, "pictures", "export"), settled(load_recipe(path))[1]
    trained, exported = checkpoint(path, "pictures"), tensors(folder, family)
    assert set(trained) == set(exported)
    assert all(trained[name].equal(exported[name]) for name in trained)
    assert all(tensor.dtype == torch.float32 for tensor in exported.values())
    assert distance(of_folder(folder, family), of_trainer(reference(path, "pictures"))) < ROUNDING
    assert verify_entry.main([str(folder)]) == 0
    assert not list(folder.glob(".*"))
    base = Path(load_recipe(path).distill.base)
    vae = "vae/diffusion_pytorch_model.safetensors"
    assert (folder / vae).samefile(base / vae)
    card = (folder / "README.md").read_text()
    (folder / "README.md").write_bytes(b"\xf6" + card.encode())
    assert entry.main([path]) == 0 and (folder / "README.md").read_text() == card
    assert (
        "| toyworld:toyworld | CC0\\|\\<own\\> | 8 | " in card and "2 of them were held out" in card
    )
    assert "has no safety checker" in card and str(base.parent) not in card
    japanese = ("## 使い方", "日本語のプロンプトがそのまま使えます", "## できないこと")
    assert all(one in card for one in japanese) and "## What it cannot do" in card
    korean = stages.find(load_recipe(path, ["language=ko"]), None)
    shutil.copytree(folder, tmp_path / "korean")
    write_pipeline(tmp_path / "korean", korean)
    card = (tmp_path / "korean" / "README.md").read_text()
    assert "for Korean prompts" in card and "## How to use it" in card
    assert not any(one in card for one in japanese)

    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*")}
    capsys.readouterr()
    assert entry.main([path]) == 0
    assert "export: already exported from step_000002" in capsys.readouterr().out
    assert before == {file: file.stat().st_mtime_ns for file in folder.rglob("*")}
    flipped = bytearray((folder / UNET_FILE).read_bytes())
    flipped[-1] ^= 64
    (folder / UNET_FILE).write_bytes(flipped)
    assert entry.main([path]) == 0
    assert "damaged" in capsys.readouterr().err
    assert all(trained[name].equal(value) for name, value in tensors(folder, family).items())


def test_a_newer_checkpoint_is_exported_in_place_of_the_old(runs: dict[str, str], capsys) -> None:
    path = runs["chain"]
    run = load_recipe(path).run_dir / "finetune" / "last"
    assert entry.main([path]) == 0
    later = run / "checkpoints" / "step_000003"
    try:
        shutil.copytree(run / "checkpoints" / "step_000002", later)
        weights = load_file(later / "student.safetensors")
        name = next(iter(weights))
        save_file({**weights, name: weights[name] + 1}, later / "student.safetensors")
        (later / artefact.MANIFEST).unlink()
        artefact.seal(later, {})
        capsys.readouterr()
        assert entry.main([path]) == 0
        out = capsys.readouterr().out
        assert "made again" in out and "written from step_000003" in out
        exported = load_file(run / "export" / UNET_FILE)[name.removeprefix("unet.")]
        assert exported.equal(weights[name] + 1)
    finally:
        shutil.rmtree(later)


def test_what_a_stage_did_not_train_is_what_it_started_from(runs: dict[str, str]) -> None:
    path = runs["chain"]
    recipe = load_recipe(path)
    family, base = settled(recipe)[1], Path(recipe.distill.base)
    for stage in recipe.finetune.stages:
        assert entry.main([path, "--stage", stage]) == 0
    words, cross, last = (
        tensors(folder_of(path, stage, "export"), family) for stage in recipe.finetune.stages
    )
    unet = folder_of(path, "words", "export") / UNET_FILE
    assert unet.samefile(base / UNET_FILE)
    text = checkpoint(path, "words")
    assert text and not any(name.startswith("unet.") for name in text)
    for exported in (words, cross, last):  # also two stages later
        assert all(exported[name].equal(text[name]) for name in text)
    moved = {name for name in cross if not cross[name].equal(words[name])}
    learnt = checkpoint(path, "cross")
    assert moved == set(learnt) and all(".attn2." in name for name in moved)
    assert all(cross[name].equal(learnt[name]) for name in learnt)
    found = of_folder(folder_of(path, "last", "export"), family)
    assert distance(found, of_trainer(reference(path, "last"))) < ROUNDING


def test_a_half_precision_base_stays_one(runs: dict[str, str]) -> None:
    path = runs["half"]
    assert entry.main([path]) == 0
    folder = folder_of(path, "cross", "export")
    exported, trained = load_file(folder / UNET_FILE), checkpoint(path, "cross")
    before = load_file(Path(load_recipe(path).distill.base) / UNET_FILE)
    assert set(exported) == set(before)
    for name, tensor in exported.items():
        whole = trained.get(f"unet.{name}")
        assert tensor.equal(before[name] if whole is None else whole.half())
    checker = stock(settled(load_recipe(path))[1], folder).safety_checker
    assert type(checker).__name__ == "StableDiffusionSafetyChecker"
    card = (folder / "README.md").read_text()
    assert "safety checker was kept" in card and "`LICENSE`" in card
    assert verify_entry.main([str(folder)]) == 0

    assert entry.main([path, "export.variants=[bf16]"]) == 0
    more = load_file(folder / "unet" / f"{STEMS['unet']}.bf16.safetensors")
    name = next(iter(trained))
    assert more[name.removeprefix("unet.")].equal(trained[name].bfloat16())
    assert (folder / "text_encoder" / "model.bf16.safetensors").is_file()
    assert load_file(folder / UNET_FILE)[name.removeprefix("unet.")].dtype == torch.float16


@pytest.mark.parametrize("run", ["lora", "sd_lora", "unet_lora"])
def test_lora_is_the_same_merged_and_in_both_formats(
    runs: dict[str, str], run: str, tmp_path: Path
) -> None:
    path = runs[run]
    recipe, family = settled(load_recipe(path))
    trained = of_trainer(reference(path, "small"))
    assert entry.main([path]) == 0
    export, folder = (folder_of(path, "small", name) for name in ("export", "lora"))
    assert distance(of_folder(export, family), trained) < ROUNDING
    assert verify_entry.main([str(export)]) == 0

    for form in ("diffusers", "kohya"):
        assert entry.main([path, "--lora", form]) == 0
    start = start_encoders(path, tmp_path / "start")
    card = (folder / "README.md").read_text()
    assert "It belongs to the text encoders and tokenizers in `encoders/` only" in card
    for file in (lora.DIFFUSERS, f"{run}.safetensors"):
        pipeline = lora_probe.with_encoders(Path(recipe.distill.base), start)
        before = lora_probe.read(pipeline, PROMPTS)
        moved = {
            name for name in trained if distance({name: before[name]}, {name: trained[name]}) > 1e-2
        }
        assert moved == ({"noise"} if run == "unet_lora" else set(trained))
        pipeline.load_lora_weights(str(folder), weight_name=file)
        assert distance(lora_probe.read(pipeline, PROMPTS), trained) < 1e-4, file
        # as the card says: merged text encoders, and the UNet's changes alone
        assert f"`{file}`" in card
        lines = card.partition("```python\n")[2].partition("```")[0].replace(lora.DIFFUSERS, file)
        lines = lines.replace('HERE = "."', f'HERE = "{folder}"')
        lines = lines.replace(
            f'BASE = "{Path(recipe.distill.base).name}"', f'BASE = "{recipe.distill.base}"'
        )
        names: dict = {}
        exec(compile(lines, "README.md", "exec"), names)
        assert distance(lora_probe.read(names["pipeline"], PROMPTS), trained) < 1e-4, file

    kohya = load_file(folder / f"{run}.safetensors")
    text = {"lora": ["lora_te1", "lora_te2"], "sd_lora": ["lora_te"], "unet_lora": []}[run]
    projection = "text_model_encoder_layers_0_self_attn_q_proj.lora_down.weight"
    assert all(f"{prefix}_{projection}" in kohya for prefix in text)
    assert {name.partition("_text_model")[0] for name in kohya if "_text_model" in name} == set(
        text
    )
    assert {float(value) for name, value in kohya.items() if name.endswith(".alpha")} == {ALPHA}
    for part in family.parts.values():
        file = Path(part.subfolder, "model.safetensors")
        assert (folder / "encoders" / file).read_bytes() == (export / file).read_bytes()
    assert verify_entry.main([str(folder / "encoders")]) == 0


def start_encoders(path: str, folder: Path) -> Path:
    """The text encoders that the stage `small` started from, as an export has them."""
    found = stages.find(load_recipe(path), "small")
    stages.write_encoders(folder, found, models.load(found.recipe, found.family, found.name))
    return folder


@pytest.mark.slow
@pytest.mark.skipif(shutil.which(V4_PYTHON) is None, reason="no second environment: `make test`")
@pytest.mark.parametrize("run", ["lora", "sd_lora"])
def test_older_diffusers_read_a_lora_alike(runs: dict[str, str], run: str, tmp_path: Path) -> None:
    path = runs[run]
    trained = of_trainer(reference(path, "small"))
    start = start_encoders(path, tmp_path / "start")
    (tmp_path / "prompts.json").write_text(json.dumps(PROMPTS), encoding="utf-8")
    for form in ("diffusers", "kohya"):
        assert entry.main([path, "--lora", form]) == 0
        found = stages.find(load_recipe(path), None)
        file = found.folder / lora.FOLDER / lora.file_name(found, form)
        out = tmp_path / f"{form}.safetensors"
        base, environment = load_recipe(path).distill.base, {**os.environ, "OMP_NUM_THREADS": "1"}
        words = [V4_PYTHON, "tests/lora_probe.py", base, start, file]
        words += [tmp_path / "prompts.json", out]
        done = subprocess.run(
            [*map(str, words)], cwd=ROOT, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert distance(load_file(out), trained) < 1e-4, form


def test_refusals_are_one_line(runs: dict[str, str], tmp_path: Path, capsys) -> None:
    def line(code: int, *words: str) -> str:
        capsys.readouterr()
        assert entry.main(list(words)) == code
        said = capsys.readouterr().err.strip().splitlines()
        assert len(said) == 1, said
        return said[0]

    path = runs["chain"]
    assert "trained without lora" in line(2, path, "--lora", "kohya")
    assert "it has words, cross, last" in line(2, path, "--stage", "other")
    assert "no finished checkpoint" in line(3, path, f"run={tmp_path}/none")
    tree = yaml.safe_load(Path(path).read_text())
    del tree["finetune"]
    (tmp_path / "plain.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    assert "has no such section" in line(2, str(tmp_path / "plain.yaml"))
    folder = folder_of(runs["half"], "cross", "export")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "mine.txt").write_text("mine")
    assert "no export of this project" in line(3, runs["half"])
    assert (folder / "mine.txt").exists()
    shutil.rmtree(folder)
    student = load_recipe(runs["half"]).run_dir / "initial_student"
    before = (student / artefact.MANIFEST).read_bytes()
    shutil.copy(student / "tokenizer" / "tokenizer.json", student / "more.json")
    artefact.seal(student, {})
    assert "the initial student has changed" in line(3, runs["half"])
    (student / "more.json").unlink()
    (student / artefact.MANIFEST).write_bytes(before)
