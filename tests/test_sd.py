"""Stable Diffusion 1.x goes the same road as SDXL by its base alone: pairs, first embeddings,
training, export, an unmodified pipeline, evaluation.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from configs.languages import JAPANESE
from configs.references import ModelName
from configs.schema.distill import QueryBank
from configs.schema.load import load_recipe
from configs.schema.recipe import Eval
from corpora import prepare
from corpora.toyworld import captions
from distill.encoders.family import SD
from distill.encoders.student import initial_student
from distill.encoders.teacher import Encoding, load_text_encoders
from distill.encoders.tower import tower_of
from distill.export import pipeline_folder
from distill.export.__main__ import main as export
from distill.model_card.__main__ import main as write_cards
from distill.objective import distances, query_bank, recording
from distill.run import run_folder
from distill.sdxl.pipelines import Pipelines, load_pipelines
from distill.verify.__main__ import main as verify
from eval.compare_hidden_states.__main__ import main as compare_hidden_states
from eval.generate.__main__ import main as generate
from eval.rows import STUDENT, TEACHER
from eval.states import noise_gap
from vocab_init.__main__ import main as vocab_init

ROOT = Path(__file__).resolve().parent.parent
PROMPTS = ["a small red circle", "two big blue squares on grey"]
SMALL = (
    "corpora.sources.0.pairs=120",
    "corpora.sources.0.held_out_pairs=16",
    "distill.objective={cross_attention: 1.0, position: 0.1, random_attention: 0.1}",
    "distill.steps=4",
    "distill.warmup_steps=1",
    "distill.batch_size=8",
    "distill.log_every_steps=1",
    "distill.query_bank.prompts=4",
    "distill.query_bank.inference_steps=4",
    "distill.query_bank.queries_per_layer=64",
    "eval.pairs=8",
    "eval.timesteps=2",
    "eval.gap_pairs=4",
    "eval.prompts=5",
    "eval.inference_steps=3",
    "eval.translator=null",
)


@pytest.fixture(scope="module")
def words(tiny_sd: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The recipe as every command is given it, trained and exported."""
    run = tmp_path_factory.mktemp("sd") / "run"
    given = [str(ROOT / "configs" / "toyworld_sd.yaml"), f"run={run}", f"distill.base={tiny_sd}"]
    given += SMALL
    assert prepare.main(given) == vocab_init(given) == 0
    # A process of its own: DeepSpeed keeps its process group until the process ends.
    done = subprocess.run(
        [sys.executable, "-m", "distill.train", *given],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert export(given) == 0
    return given


def run_of(words: list[str]) -> Path:
    return load_recipe(words[0], words[1:]).run_dir


def test_training_moves_all_of_the_encoder_and_knows_no_pooled_state(
    words: list[str], tiny_sd: Path
) -> None:
    run = run_of(words)
    (folder,) = (run / "distill" / "checkpoints").glob("step_*")
    trained = load_file(folder / "student.safetensors")
    teacher = load_text_encoders(tiny_sd, SD)
    before = dict(initial_student(teacher, run / "initial_student").named_parameters())
    assert trained.keys() == before.keys() and all(name.startswith("clip.") for name in trained)
    assert not [name for name in before if trained[name].equal(before[name])]
    lines = (run / "distill" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    logged = set().union(*map(json.loads, lines))
    assert {"loss/cross_attention", "loss/position", "loss/content_nmse_clip"} <= logged
    assert not [name for name in logged if "pooled" in name]
    assert run_folder.read_config(run / "distill").distill.objective.pooled == 0


def test_the_export_is_a_whole_sd_that_the_stock_pipeline_loads(
    words: list[str], tiny_sd: Path
) -> None:
    from diffusers import StableDiffusionPipeline

    folder = run_of(words) / "export" / "base"
    assert verify([str(folder)]) == verify([str(folder.with_name("encoders"))]) == 0
    index, original = (
        json.loads((one / "model_index.json").read_text(encoding="utf-8"))
        for one in (folder, tiny_sd)
    )
    assert index | {"tokenizer": 0} == original | {"tokenizer": 0}
    for name in ("safety_checker", "feature_extractor", "unet", "vae", "scheduler"):
        files = sorted((tiny_sd / name).iterdir())
        assert files and all(path.samefile(folder / name / path.name) for path in files)

    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    prompts = list(JAPANESE.verification_prompts)
    with torch.no_grad():
        embeds_BLD, _ = pipeline.encode_prompt(prompts, "cpu", 1, False)
    student = load_text_encoders(folder, SD)
    tokens = student.tokenize(prompts)
    stock_BLD = student.models["clip"](tokens.ids["clip"]).last_hidden_state
    tower = tower_of(student.models["clip"], SD.parts["clip"].states)
    ours_BLD, pooled = tower(tokens.ids["clip"], tokens.eos["clip"])
    assert pooled is None and student.encode(prompts).pooled_BP is None
    for one_BLD in (stock_BLD, ours_BLD, student.encode(prompts).states["clip"]):
        torch.testing.assert_close(one_BLD, embeds_BLD, rtol=0, atol=1e-6)
    result = pipeline(prompts[0], num_inference_steps=2)
    assert result.images[0].size == (32, 32) and result.nsfw_content_detected == [False]


def test_an_old_index_gets_the_name_that_newer_transformers_know(
    words: list[str], tiny_sd: Path, tmp_path: Path
) -> None:
    """SD 1.x was published with a CLIPFeatureExtractor; it may also come without a checker."""
    old, encoders = tmp_path / "old", run_of(words) / "export" / "encoders"
    shutil.copytree(tiny_sd, old)
    index = json.loads((old / "model_index.json").read_text(encoding="utf-8"))
    index["feature_extractor"][1] = "CLIPFeatureExtractor"
    index["safety_checker"] = [None, None]
    (old / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    (tmp_path / "new").mkdir()
    pipeline_folder.assemble(tmp_path / "new", encoders, old, SD)
    written = json.loads((tmp_path / "new" / "model_index.json").read_text(encoding="utf-8"))
    assert written["feature_extractor"] == ["transformers", "CLIPImageProcessor"]
    assert written["safety_checker"] == [None, None] and written["requires_safety_checker"]
    assert not (tmp_path / "new" / "safety_checker").exists()
    assert pipeline_folder.verify(tmp_path / "new", {}) <= 1e-5


def test_encoders_of_sd_fit_no_sdxl(
    words: list[str], tiny_sdxl: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export([*words, "--assemble", str(tiny_sdxl / "refiner")]) == 3
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert "'StableDiffusionXLImg2ImgPipeline', not one of" in line and "give an SD folder" in line


def test_evaluation_and_the_card_have_one_encoder(words: list[str]) -> None:
    assert compare_hidden_states(words) == generate(words) == write_cards(words) == 0
    run = run_of(words)
    found = json.loads((run / "eval" / "compare_hidden_states.json").read_text(encoding="utf-8"))
    student = found["rows"][STUDENT]
    assert set(student["states"]) == {"clip"} and set(student["collapse"]) == {"clip_content"}
    assert student["pooled_intervals"]["nmse"]["value"] == pytest.approx(
        student["states"]["clip"]["eos"]["nmse"]
    )
    assert found["rows"][TEACHER]["noise_gap"]["value"] == 0 < student["noise_gap"]["value"]
    assert found["word_order"]["role_swap"]["pooled"] is None
    assert found["word_order"]["role_swap"]["noise"] > 0 < found["word_order"]["role_swap"]["pairs"]
    page = (run / "eval" / "report.html").read_text(encoding="utf-8")
    assert "student of Stable Diffusion's text encoder," in page and "SDXL" not in page
    assert "eos nMSE" in page and "clip_l" not in page and "pooled vector is" not in page
    for kind in ("base", "encoders"):
        card = (run / "export" / kind / "README.md").read_text(encoding="utf-8")
        assert "StableDiffusionPipeline" in card and "\n- stable-diffusion\n" in card
        assert "SDXL" not in card and "XL" not in card and "text_encoder_2" not in card
        assert "nMSE, CLIP, content" in card


def test_the_bank_holds_the_layers_of_an_sd_unet(tiny_sd: Path, tmp_path: Path) -> None:
    """Each layer's queries, projections and influence, recorded through the stock pipeline."""
    bank = load_recipe(ROOT / "configs" / "toyworld_sd.yaml", list(SMALL)).distill.query_bank
    teacher, folders = load_text_encoders(tiny_sd, SD), {"base": str(tiny_sd)}
    recording.record(tmp_path / "bank", folders, teacher, PROMPTS, bank, seed=0)
    layers = query_bank.load(tmp_path / "bank", folders, bank, SD)
    unet = load_pipelines(str(tiny_sd), None, SD).base.unet
    attention = {name: one for name, one in unet.named_modules() if name.endswith("attn2")}
    assert {layer.name for layer in layers} == {f"base.{name}" for name in attention}
    assert sum(layer.share for layer in layers) == pytest.approx(1) and len(layers) >= 3
    encoding = teacher.encode(PROMPTS)
    for layer in layers:
        module = attention[layer.name.removeprefix("base.")]
        assert layer.parts == ("clip",) and layer.to_k_ED.equal(module.to_k.weight.detach())
        assert layer.share > 0 and layer.variance > 0
        wide = layer.output(encoding, torch.arange(4)).shape
        assert wide == (2, module.heads, 4, layer.queries_NHK.shape[2])


def test_attention_in_bf16_teaches_the_same_as_in_fp32(tmp_path: Path) -> None:
    """Training in bf16 holds and computes the layers in bf16. For a student as far from its teacher
    as a trained one (an error of 0.02), the gradient is the same within 2 %.
    """
    folders = {"base": ModelName("toyworld:sd").path}
    teacher, bank = load_text_encoders(folders["base"], SD), QueryBank(prompts=4, inference_steps=4)
    prompts = [one.en for one in captions.pairs(16, "train", 0)]
    recording.record(tmp_path / "bank", folders, teacher, prompts[:4], bank, seed=0)
    states_BLD = teacher.encode(prompts).states["clip"].bfloat16().float()
    generator, chosen = torch.Generator().manual_seed(0), torch.arange(48)
    noise_BLD = torch.randn(states_BLD.shape, generator=generator) * states_BLD.std(dim=(0, 1))
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        student_BLD = (states_BLD + 0.3 * noise_BLD).bfloat16().float().requires_grad_()
        sides = [Encoding({"clip": one}, None) for one in (student_BLD, states_BLD)]
        error = torch.zeros(())
        for layer in query_bank.load(tmp_path / "bank", folders, bank, SD, dtype=dtype):
            outputs = [layer.output(side, chosen) for side in sides]
            assert outputs[0].dtype == dtype
            errors_B = distances.attention_errors(*outputs, layer.variance)
            error = error + layer.share * errors_B.mean()
        error.backward()
        found[dtype] = error.item(), student_BLD.grad
    (exact, wanted_BLD), (rounded, gradient_BLD) = found.values()
    assert 0.01 < exact < 0.04 and rounded == pytest.approx(exact, rel=0.01)
    assert 0 < (gradient_BLD - wanted_BLD).norm() / wanted_BLD.norm() < 0.02


def test_the_noise_gap_of_an_sd_unet(tiny_sd: Path) -> None:
    """0 for the teacher's own states, 1 for the empty prompt's, and what the pipeline predicts."""
    settings = Eval(timesteps=2, inference_steps=4, batch_size=2, guidance_scale=7.5)
    teacher = load_text_encoders(tiny_sd, SD)
    encodings = {
        TEACHER: teacher.encode(PROMPTS),
        "same": teacher.encode(PROMPTS),
        "nothing": teacher.encode(["", ""]),
        noise_gap.EMPTY: teacher.encode([""]),
    }
    compared = [("same", TEACHER), ("nothing", TEACHER), noise_gap.REACTION]
    pipelines = load_pipelines(str(tiny_sd), None, SD)
    found = noise_gap.distances(pipelines, SD, PROMPTS, encodings, {"base": compared}, settings)
    assert set(found) == {"base"} and found["base"].gap("same", 0)["value"] == 0
    assert found["base"].gap("nothing", 0)["value"] == pytest.approx(1, abs=1e-4)

    (first, *_), *_ = noise_gap.record_points(
        Pipelines(pipelines.base, None), PROMPTS, 0, settings.model_copy(update={"timesteps": 4})
    ).values()
    assert first.time_ids_B6 is None
    read = first.sample_BCHW, first.timestep, teacher.encode(PROMPTS).states["clip"]
    with torch.inference_mode():
        expected_BCHW = pipelines.base.unet(*read).sample
    predicted_BCHW = noise_gap.predict(
        pipelines.base.unet, SD.readers["base"], first, encodings[TEACHER]
    )
    torch.testing.assert_close(predicted_BCHW, expected_BCHW)
