"""Export: what a stock pipeline loads is the checkpoint, bit for bit; what is damaged, missing or in the way is one line and leaves nothing."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from sentencepiece import SentencePieceTrainer

from distill import export, pipeline_folder, tokenizers

ROOT = Path(__file__).resolve().parent.parent
PROMPTS = ["赤い丸", "青い四角の左に大きな緑の三角"]


def write_checkpoint(run: Path, teacher: Path, vocabulary: int, step: int) -> dict[str, torch.Tensor]:
    """Random students of the teacher's shape, keyed as the training writes them, with the manifest last and `latest` after it."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(step)
    tensors = {}
    for name, subfolder, kind in (("clip_l", "text_encoder", CLIPTextModel), ("clip_bigg", "text_encoder_2", CLIPTextModelWithProjection)):
        config = json.loads((teacher / subfolder / "config.json").read_text())
        config |= {"vocab_size": vocabulary, "bos_token_id": vocabulary - 2, "eos_token_id": vocabulary - 1}
        for key, tensor in kind(CLIPTextConfig.from_dict(config)).state_dict().items():
            prefix = "" if key.startswith(("text_model.", "text_projection.")) else "text_model."
            tensors[f"{name}.{prefix}{key}"] = torch.randn_like(tensor) * 0.3
    folder = run / "distill" / "checkpoints" / f"step_{step:06d}"
    folder.mkdir(parents=True)
    save_file(tensors, folder / "student.safetensors")
    digest = hashlib.sha256((folder / "student.safetensors").read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps({"student.safetensors": digest}))
    (run / "distill" / "latest").write_text(folder.name + "\n")
    return tensors


@pytest.fixture(scope="session")
def spiece_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("spiece") / "spiece.model"
    things = [f"{colour}{shape}" for colour in ("赤い", "青い", "緑の") for shape in ("丸", "四角", "三角")]
    sentences = [f"{first}の{side}に大きな{second}があります。" for first in things for second in things for side in ("左", "右", "上")]
    with open(path, "wb") as file:
        size = {"vocab_size": 80, "hard_vocab_limit": False}
        SentencePieceTrainer.train(sentence_iterator=iter(sentences), model_writer=file, model_type="unigram", minloglevel=2, **size)
    return path


@pytest.fixture
def run_dir(tiny_sdxl: Path, tmp_path: Path, spiece_model: Path) -> Path:
    vocabulary = tokenizers.build(spiece_model, tmp_path / "initial_student" / "tokenizer")
    write_checkpoint(tmp_path, tiny_sdxl / "base", len(vocabulary), step=500)
    return tmp_path


@pytest.fixture
def command_line(tiny_sdxl: Path, run_dir: Path) -> Callable[..., int]:
    def call(*overrides: str) -> int:
        settings = [f"run={run_dir}", f"distill.base={tiny_sdxl}/base", f"distill.refiner={tiny_sdxl}/refiner", *overrides]
        return export.main([str(ROOT / "configs" / "toyworld.yaml"), *settings])

    return call


def test_stock_pipelines_load_the_export_and_paint(command_line: Callable[..., int], run_dir: Path, tiny_sdxl: Path) -> None:
    from diffusers import StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline

    assert command_line() == 0
    base = StableDiffusionXLPipeline.from_pretrained(run_dir / "export" / "base")
    refiner = StableDiffusionXLImg2ImgPipeline.from_pretrained(run_dir / "export" / "refiner")
    for pipeline in (base, refiner):
        pipeline.set_progress_bar_config(disable=True)

    trained = load_file(run_dir / "distill" / "checkpoints" / "step_000500" / "student.safetensors")
    for name, model in (("clip_l", base.text_encoder), ("clip_bigg", base.text_encoder_2), ("clip_bigg", refiner.text_encoder_2)):
        state = model.state_dict()
        mine = {key.removeprefix(f"{name}."): tensor for key, tensor in trained.items() if key.startswith(f"{name}.")}
        assert len(state) == len(mine)
        assert all(torch.equal(state.get(key, state.get(key.removeprefix("text_model."))), tensor) for key, tensor in mine.items())
        assert model.dtype == torch.float32 and model.config.projection_dim == json.loads(
            (tiny_sdxl / "base" / ("text_encoder" if name == "clip_l" else "text_encoder_2") / "config.json").read_text()
        )["projection_dim"]

    embeds, _, pooled, _ = base.encode_prompt(PROMPTS, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False)
    ids = base.tokenizer(PROMPTS, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
    assert ids.shape == (2, 77) and ids.max() == base.tokenizer.eos_token_id == base.text_encoder.config.vocab_size - 1
    with torch.no_grad():
        first, second = base.text_encoder(ids, output_hidden_states=True), base.text_encoder_2(ids, output_hidden_states=True)
        at_eos = second.last_hidden_state[torch.arange(2), ids.argmax(dim=1)] @ base.text_encoder_2.text_projection.weight.T
    assert torch.equal(embeds, torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1))
    torch.testing.assert_close(pooled, at_eos)

    assert refiner.text_encoder is None and refiner.config.requires_aesthetics_score and not refiner.config.force_zeros_for_empty_prompt
    common = {"prompt": PROMPTS[0], "num_inference_steps": 4, "generator": torch.Generator().manual_seed(0), "output_type": "latent"}
    latents = base(height=32, width=32, denoising_end=0.5, **common).images
    picture = refiner(image=latents, denoising_start=0.5, **common).images
    assert picture.shape == latents.shape and torch.isfinite(picture).all() and not torch.equal(picture, latents)


def test_what_lies_on_disk(command_line: Callable[..., int], run_dir: Path, tiny_sdxl: Path) -> None:
    assert command_line() == 0
    base = run_dir / "export" / "base"
    assert sorted(path.name for path in (run_dir / "export").iterdir()) == ["base", "refiner"]  # no partial folder stays
    index = json.loads((base / "model_index.json").read_text())
    assert index["tokenizer"] == index["tokenizer_2"] == ["transformers", "PreTrainedTokenizerFast"]
    assert index["text_encoder"] == ["transformers", "CLIPTextModel"]
    assert json.loads((run_dir / "export" / "refiner" / "model_index.json").read_text())["text_encoder"] == [None, None]
    for subfolder in ("text_encoder", "text_encoder_2"):
        tensors = load_file(base / subfolder / "model.safetensors")
        assert all(key.startswith(("text_model.", "text_projection.")) and tensor.dtype == torch.float32 for key, tensor in tensors.items())
    linked = base / "unet" / "diffusion_pytorch_model.safetensors"
    assert linked.samefile(tiny_sdxl / "base" / "unet" / "diffusion_pytorch_model.safetensors")
    verification = json.loads((base / "verification.json").read_text())
    present = {str(path.relative_to(base)) for path in base.rglob("*") if path.is_file()} - {"verification.json"}
    assert set(verification["files"]) == present
    assert all(hashlib.sha256((base / name).read_bytes()).hexdigest() == digest for name, digest in verification["files"].items())
    assert [row["prompt"] for row in verification["embeddings"]["text_encoder_2"]] == list(pipeline_folder.PROMPTS)
    assert "text_embeds" in verification["embeddings"]["text_encoder_2"][0] and "step_000500" in (base / "README.md").read_text()


def test_encoders_alone_drop_into_any_sdxl(command_line: Callable[..., int], run_dir: Path, tiny_sdxl: Path) -> None:
    from diffusers import StableDiffusionXLPipeline
    from transformers import AutoTokenizer, CLIPTextModel, CLIPTextModelWithProjection

    assert command_line("export.encoders_only=true") == 0
    folder = run_dir / "export" / "encoders"
    names = ["README.md", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "verification.json"]
    assert sorted(path.name for path in folder.iterdir()) == names and not (run_dir / "export" / "base").exists()
    pipeline = StableDiffusionXLPipeline.from_pretrained(tiny_sdxl / "base")
    pipeline.register_modules(
        tokenizer=AutoTokenizer.from_pretrained(folder / "tokenizer"),
        tokenizer_2=AutoTokenizer.from_pretrained(folder / "tokenizer_2"),
        text_encoder=CLIPTextModel.from_pretrained(folder / "text_encoder"),
        text_encoder_2=CLIPTextModelWithProjection.from_pretrained(folder / "text_encoder_2"),
    )
    embeds, _, pooled, _ = pipeline.encode_prompt(PROMPTS[0], device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False)
    assert command_line() == 0  # the whole pipelines beside them say the same
    whole = StableDiffusionXLPipeline.from_pretrained(run_dir / "export" / "base")
    again, _, pooled_again, _ = whole.encode_prompt(PROMPTS[0], device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False)
    assert torch.equal(embeds, again) and torch.equal(pooled, pooled_again)


def test_a_rerun_does_nothing_and_another_result_is_refused(
    command_line: Callable[..., int], run_dir: Path, tiny_sdxl: Path, capsys
) -> None:
    assert command_line("distill.refiner=null") == 0
    before = {path: path.stat().st_mtime_ns for path in (run_dir / "export").rglob("*")}
    assert command_line("distill.refiner=null") == 0
    assert "base: already exported from step_000500" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in (run_dir / "export").rglob("*")} == before

    write_checkpoint(run_dir, tiny_sdxl / "base", len(tokenizers.load(run_dir / "initial_student" / "tokenizer")), step=1000)
    assert command_line("distill.refiner=null") == 3
    line = one_line(capsys)
    assert "holds another export (step_000500 of toyworld" in line and "delete it to export step_001000" in line
    (run_dir / "export" / "base" / "verification.json").unlink()
    assert command_line() == 3
    assert "holds something that is no export of this project" in one_line(capsys)


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """What the entry wrote to stderr; anything beside its one line must be a library's progress bar."""
    lines = [line for line in capsys.readouterr().err.splitlines() if line and "Loading weights" not in line]
    assert len(lines) == 1 and lines[0].startswith("distill.export: ")
    return lines[0]


def step_folder(run_dir: Path) -> Path:
    return run_dir / "distill" / "checkpoints" / "step_000500"


def flip_a_bit(run_dir: Path) -> None:
    path = step_folder(run_dir) / "student.safetensors"
    damaged = bytearray(path.read_bytes())
    damaged[-5] ^= 1
    path.write_bytes(damaged)


def truncate_with_a_manifest_that_agrees(run_dir: Path) -> None:
    path = step_folder(run_dir) / "student.safetensors"
    path.write_bytes(path.read_bytes()[:-40])
    (path.parent / "manifest.json").write_text(json.dumps({path.name: hashlib.sha256(path.read_bytes()).hexdigest()}))


def rewrite_tensors(run_dir: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    path = step_folder(run_dir) / "student.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    (path.parent / "manifest.json").write_text(json.dumps({path.name: hashlib.sha256(path.read_bytes()).hexdigest()}))


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no training": (lambda run: shutil.rmtree(run / "distill"), "there is no finished checkpoint; run distill.train first"),
    "no latest": (lambda run: (run / "distill" / "latest").unlink(), "latest: missing though there are checkpoints"),
    "no manifest": (lambda run: (step_folder(run) / "manifest.json").unlink(), "not a whole checkpoint"),
    "bit flipped": (flip_a_bit, "missing or damaged (not the manifest's SHA-256)"),
    "file missing": (lambda run: (step_folder(run) / "student.safetensors").unlink(), "missing or damaged"),
    "truncated": (truncate_with_a_manifest_that_agrees, "student.safetensors: cannot be read"),
    "not a student": (lambda run: rewrite_tensors(run, lambda t: t.clear() or t.update(x=torch.zeros(1))), "it is no student of this project"),
    "a tensor missing": (
        lambda run: rewrite_tensors(run, lambda t: t.pop("clip_l.text_model.encoder.layers.1.mlp.fc1.weight")),
        "the checkpoint's clip_l does not fit the teacher's config.json",
    ),
    "no tokenizer": (lambda run: shutil.rmtree(run / "initial_student"), "run python -m vocab_init first"),
    "other vocabulary": (
        lambda run: rewrite_tensors(run, lambda t: t.update({k: v[:-1].contiguous() for k, v in t.items() if "token_embedding" in k})),
        "BOS, EOS and length are",
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_one_line_and_leaves_nothing(
    case: str, command_line: Callable[..., int], run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage, line = DAMAGE[case]
    damage(run_dir)
    assert command_line() == 3
    assert line in one_line(capsys)
    assert not (run_dir / "export").exists() or not list((run_dir / "export").iterdir())


def test_a_teacher_that_is_none_is_refused(
    command_line: Callable[..., int], run_dir: Path, tiny_sdxl: Path, tmp_path: Path, capsys
) -> None:
    assert command_line("distill.base=nowhere/at/all") == 3
    assert "there is no such folder; give an SDXL folder in diffusers layout, or its hub name" in one_line(capsys)
    assert command_line("distill.base=someone/unknown") == 3
    assert "someone/unknown: cannot be fetched (" in one_line(capsys)
    copy = tmp_path / "copy"
    shutil.copytree(tiny_sdxl / "base", copy)
    shutil.rmtree(copy / "vae")
    assert command_line(f"distill.base={copy}") == 3
    assert "vae: holds no JSON or safetensors file" in one_line(capsys)
    (copy / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    assert command_line(f"distill.base={copy}") == 3
    assert "its _class_name is 'StableDiffusionPipeline'" in one_line(capsys)
    assert list((run_dir / "export").iterdir()) == []


def test_a_hub_name_fetches_what_is_needed_and_no_more(tiny_sdxl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub.utils import filter_repo_objects

    files = """model_index.json sd_xl_base_1.0.safetensors scheduler/scheduler_config.json text_encoder/config.json
        text_encoder/model.safetensors text_encoder/model.fp16.safetensors text_encoder/model.onnx text_encoder_2/config.json
        tokenizer/vocab.json unet/config.json unet/diffusion_pytorch_model.safetensors unet/diffusion_pytorch_model.fp16.safetensors
        unet/model.onnx vae/config.json vae/diffusion_pytorch_model.safetensors vae_1_0/config.json""".split()
    fetched: list[str] = []

    def snapshot_download(name: str, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
        fetched.extend(filter_repo_objects(files, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns))
        return str(tiny_sdxl / "base")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert export.teacher_folder("stabilityai/stable-diffusion-xl-base-1.0") == tiny_sdxl / "base"
    weights = [f"{part}/diffusion_pytorch_model.safetensors" for part in ("unet", "vae")]
    configs = [f"{part}/config.json" for part in ("text_encoder", "text_encoder_2", "unet", "vae")]
    assert sorted(fetched) == sorted([*weights, *configs, "model_index.json", "scheduler/scheduler_config.json"])


def test_an_export_that_reloads_otherwise_is_refused(
    command_line: Callable[..., int], run_dir: Path, monkeypatch, capsys
) -> None:
    write = pipeline_folder.write_encoder

    def write_and_disturb(folder: Path, config: dict, name: str, source: pipeline_folder.Source) -> None:
        write(folder, config, name, source)
        tensors = load_file(folder / "model.safetensors")
        tensors["text_model.encoder.layers.0.mlp.fc1.bias"][0] += 1e-3
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    monkeypatch.setattr(pipeline_folder, "write_encoder", write_and_disturb)
    assert command_line() == 3
    assert "text_encoder: reloads to other hidden states than the checkpoint's" in one_line(capsys)
    assert list((run_dir / "export").iterdir()) == []


def test_files_are_copied_where_they_cannot_be_linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "unet"
    source.mkdir()
    (source / "config.json").write_text("{}")
    (source / "notes.txt").write_text("not a part")
    monkeypatch.setattr(pipeline_folder.os, "link", lambda *_: (_ for _ in ()).throw(OSError("another disk")))
    pipeline_folder.link_part(source, tmp_path / "copy")
    assert [path.name for path in (tmp_path / "copy").iterdir()] == ["config.json"]
    assert not (tmp_path / "copy" / "config.json").samefile(source / "config.json")
