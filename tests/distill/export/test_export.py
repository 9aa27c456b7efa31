"""Export: what a stock pipeline loads is the checkpoint, bit for bit; what is damaged, missing or
in the way is one line and leaves nothing.
"""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import write_checkpoint
from safetensors.torch import load_file, save_file
from sentencepiece import SentencePieceTrainer

from configs import artefact, files, references
from configs.schema.load import load_recipe
from distill.export import __main__ as export_entry
from distill.export import exporting, pipeline_folder
from distill.run import inputs, run_folder
from distill.sdxl.repository import Repository, StoredEncoder, fetch
from distill.tokenizer import portable
from distill.verify import __main__ as verify_entry
from distill.verify import readings
from distill.verify.readings import PROMPTS as PROMPTS_OF_VERIFICATION

ROOT = Path(__file__).resolve().parents[3]
PROMPTS = ["赤い丸", "青い四角の左に大きな緑の三角"]


@pytest.fixture(scope="session")
def spiece_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("spiece") / "spiece.model"
    things = [
        f"{colour}{shape}"
        for colour in ("赤い", "青い", "緑の")
        for shape in ("丸", "四角", "三角")
    ]
    sentences = [
        f"{first}の{side}に大きな{second}があります。"
        for first in things
        for second in things
        for side in ("左", "右", "上")
    ]
    with open(path, "wb") as file:
        size = {"vocab_size": 80, "hard_vocab_limit": False}
        SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_writer=file,
            model_type="unigram",
            minloglevel=2,
            **size,
        )
    return path


@pytest.fixture
def run_dir(tiny_sdxl: Path, tmp_path: Path, spiece_model: Path) -> Path:
    vocabulary = portable.build(spiece_model, tmp_path / "initial_student" / "tokenizer")
    write_checkpoint(tmp_path, tiny_sdxl / "base", len(vocabulary), step=500)
    return tmp_path


@pytest.fixture
def command_line(tiny_sdxl: Path, run_dir: Path) -> Callable[..., int]:
    def call(*overrides: str) -> int:
        settings = [
            f"run={run_dir}",
            f"distill.base={tiny_sdxl}/base",
            f"distill.refiner={tiny_sdxl}/refiner",
            *overrides,
        ]
        return export_entry.main([str(ROOT / "configs" / "toyworld.yaml"), *settings])

    return call


def test_stock_pipelines_load_the_export_and_paint(
    command_line: Callable[..., int], run_dir: Path, tiny_sdxl: Path
) -> None:
    from diffusers import StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline

    assert command_line() == 0
    base = StableDiffusionXLPipeline.from_pretrained(run_dir / "export" / "base")
    refiner = StableDiffusionXLImg2ImgPipeline.from_pretrained(run_dir / "export" / "refiner")
    for pipeline in (base, refiner):
        pipeline.set_progress_bar_config(disable=True)

    trained = load_file(run_dir / "distill" / "checkpoints" / "step_000500" / "student.safetensors")
    for name, model in (
        ("clip_l", base.text_encoder),
        ("clip_bigg", base.text_encoder_2),
        ("clip_bigg", refiner.text_encoder_2),
    ):
        state = model.state_dict()
        mine = {
            key.removeprefix(f"{name}."): tensor
            for key, tensor in trained.items()
            if key.startswith(f"{name}.")
        }
        assert len(state) == len(mine)
        assert all(
            torch.equal(state.get(key, state.get(key.removeprefix("text_model."))), tensor)
            for key, tensor in mine.items()
        )
        assert (
            model.dtype == torch.float32
            and model.config.projection_dim
            == json.loads(
                (
                    tiny_sdxl
                    / "base"
                    / ("text_encoder" if name == "clip_l" else "text_encoder_2")
                    / "config.json"
                ).read_text()
            )["projection_dim"]
        )

    embeds, _, pooled, _ = base.encode_prompt(
        PROMPTS, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    ids = base.tokenizer(
        PROMPTS, padding="max_length", max_length=77, truncation=True, return_tensors="pt"
    ).input_ids
    assert (
        ids.shape == (2, 77)
        and ids.max() == base.tokenizer.eos_token_id == base.text_encoder.config.vocab_size - 1
    )
    with torch.no_grad():
        first, second = (
            base.text_encoder(ids, output_hidden_states=True),
            base.text_encoder_2(ids, output_hidden_states=True),
        )
        at_eos = (
            second.last_hidden_state[torch.arange(2), ids.argmax(dim=1)]
            @ base.text_encoder_2.text_projection.weight.T
        )
    assert torch.equal(
        embeds, torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
    )
    torch.testing.assert_close(pooled, at_eos)

    assert (
        refiner.text_encoder is None
        and refiner.config.requires_aesthetics_score
        and not refiner.config.force_zeros_for_empty_prompt
    )
    common = {
        "prompt": PROMPTS[0],
        "num_inference_steps": 4,
        "generator": torch.Generator().manual_seed(0),
        "output_type": "latent",
    }
    latents = base(height=32, width=32, denoising_end=0.5, **common).images
    picture = refiner(image=latents, denoising_start=0.5, **common).images
    assert (
        picture.shape == latents.shape
        and torch.isfinite(picture).all()
        and not torch.equal(picture, latents)
    )


def test_what_lies_on_disk(
    command_line: Callable[..., int], run_dir: Path, tiny_sdxl: Path
) -> None:
    assert command_line() == 0
    base = run_dir / "export" / "base"
    assert sorted(path.name for path in (run_dir / "export").iterdir()) == [
        "base",
        "encoders",
        "refiner",
    ]  # no partial folder stays
    index = json.loads((base / "model_index.json").read_text())
    assert index["tokenizer"] == index["tokenizer_2"] == ["transformers", "PreTrainedTokenizerFast"]
    assert index["text_encoder"] == ["transformers", "CLIPTextModel"]
    assert json.loads((run_dir / "export" / "refiner" / "model_index.json").read_text())[
        "text_encoder"
    ] == [None, None]
    for subfolder in ("text_encoder", "text_encoder_2"):
        tensors = load_file(base / subfolder / "model.safetensors")
        assert all(
            key.startswith(("text_model.", "text_projection.")) and tensor.dtype == torch.float32
            for key, tensor in tensors.items()
        )
    linked = base / "unet" / "diffusion_pytorch_model.safetensors"
    assert linked.samefile(tiny_sdxl / "base" / "unet" / "diffusion_pytorch_model.safetensors")
    verification = json.loads((base / "verification.json").read_text())
    present = {str(path.relative_to(base)) for path in base.rglob("*") if path.is_file()} - {
        "verification.json",
        "README.md",
    }
    assert set(verification["files"]) == present
    assert all(
        hashlib.sha256((base / name).read_bytes()).hexdigest() == digest
        for name, digest in verification["files"].items()
    )
    assert [row["prompt"] for row in verification["prompts"]] == list(PROMPTS_OF_VERIFICATION)
    assert all(
        len(row["norm_of_each_position"]) == 77 and len(row["pooled"]) == 8
        for row in verification["prompts"]
    )
    assert "step_000500" in (base / "README.md").read_text()
    one, *others = (
        run_dir / "export" / name / "text_encoder_2" / "model.safetensors"
        for name in ("encoders", "base", "refiner")
    )
    assert all(one.samefile(other) for other in others)  # the bigG student is on disk once
    for path in (run_dir / "export").rglob("*"):
        if path.suffix in (".json", ".md"):
            assert (
                str(run_dir) not in path.read_text() and str(tiny_sdxl) not in path.read_text()
            ), path


def test_linked_encoders_are_compared_once(
    command_line: Callable[..., int], run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trainer's forward runs once an encoder; the three verifications hold the same numbers."""
    load_tower, loaded = readings.load_tower, []

    def recorded(encoder: StoredEncoder, variant: str | None) -> object:
        loaded.append(encoder.name)
        return load_tower(encoder, variant)

    monkeypatch.setattr(readings, "load_tower", recorded)
    assert command_line() == 0 and loaded == ["clip_l", "clip_bigg"]
    rows = {
        name: json.loads((run_dir / "export" / name / "verification.json").read_text())["prompts"]
        for name in ("encoders", "base", "refiner")
    }
    assert rows["encoders"] == rows["base"]
    assert [row["pooled"] for row in rows["base"]] == [row["pooled"] for row in rows["refiner"]]


def test_encoders_alone_drop_into_any_sdxl(
    command_line: Callable[..., int], run_dir: Path, tiny_sdxl: Path
) -> None:
    from diffusers import StableDiffusionXLPipeline
    from transformers import AutoTokenizer, CLIPTextModel, CLIPTextModelWithProjection

    assert command_line("export.encoders_only=true") == 0
    folder = run_dir / "export" / "encoders"
    names = [
        "README.md",
        "text_encoder",
        "text_encoder_2",
        "tokenizer",
        "tokenizer_2",
        "verification.json",
    ]
    assert (
        sorted(path.name for path in folder.iterdir()) == names
        and not (run_dir / "export" / "base").exists()
    )
    pipeline = StableDiffusionXLPipeline.from_pretrained(tiny_sdxl / "base")
    pipeline.register_modules(
        tokenizer=AutoTokenizer.from_pretrained(folder / "tokenizer"),
        tokenizer_2=AutoTokenizer.from_pretrained(folder / "tokenizer_2"),
        text_encoder=CLIPTextModel.from_pretrained(folder / "text_encoder"),
        text_encoder_2=CLIPTextModelWithProjection.from_pretrained(folder / "text_encoder_2"),
    )
    embeds, _, pooled, _ = pipeline.encode_prompt(
        PROMPTS[0], device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    assert command_line() == 0  # the whole pipelines beside them say the same
    whole = StableDiffusionXLPipeline.from_pretrained(run_dir / "export" / "base")
    again, _, pooled_again, _ = whole.encode_prompt(
        PROMPTS[0], device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    assert torch.equal(embeds, again) and torch.equal(pooled, pooled_again)


def test_a_rerun_does_nothing_and_another_result_is_refused(
    command_line: Callable[..., int], run_dir: Path, tiny_sdxl: Path, capsys
) -> None:
    assert command_line("distill.refiner=null") == 0
    before = {path: path.stat().st_mtime_ns for path in (run_dir / "export").rglob("*")}
    assert command_line("distill.refiner=null") == 0
    assert "base: already exported from step_000500" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in (run_dir / "export").rglob("*")} == before

    write_checkpoint(
        run_dir,
        tiny_sdxl / "base",
        len(portable.load(run_dir / "initial_student" / "tokenizer")),
        step=1000,
    )
    assert command_line("distill.refiner=null") == 3
    line = one_line(capsys)
    assert (
        "holds another export (step_000500 of toyworld" in line
        and "delete it to export step_001000" in line
    )
    (run_dir / "export" / "encoders" / "verification.json").unlink()
    assert command_line() == 3
    assert "holds something that is no export of this project" in one_line(capsys)


def test_another_setting_is_no_finished_export(
    command_line: Callable[..., int], run_dir: Path, capsys
) -> None:
    assert command_line("export.encoders_only=true") == 0
    folder = run_dir / "export" / "encoders"
    assert command_line("export.encoders_only=true", "export.license=mit") == 0
    assert "license: mit" in (folder / "README.md").read_text()
    capsys.readouterr()
    assert command_line("export.encoders_only=true", "export.variants=[fp16]") == 3
    line = one_line(capsys)
    assert "was exported with export.variants=[], the recipe now says [fp16]; delete it" in line
    shutil.rmtree(folder)
    assert command_line("export.encoders_only=true", "export.variants=[fp16]") == 0
    assert (folder / "text_encoder_2" / "model.fp16.safetensors").is_file()


def test_another_sdxl_of_the_same_name_is_no_finished_export(
    command_line: Callable[..., int], tiny_sdxl: Path, tmp_path: Path, capsys
) -> None:
    first, second = (tmp_path / name / "sdxl" for name in ("first", "second"))
    for folder in (first, second):
        shutil.copytree(tiny_sdxl / "base", folder)
    assert command_line("--assemble", str(first)) == 0
    assert command_line("--assemble", str(second)) == 0  # a copy of the same
    flip(second / "unet" / f"{STEM}.safetensors")
    capsys.readouterr()
    assert command_line("--assemble", str(second)) == 3
    line = one_line(capsys)
    assert "put together from another SDXL of this name" in line and "second/sdxl/unet" in line


def test_the_embedded_sdxl_is_assembled_in_a_folder_of_its_own_name(
    command_line: Callable[..., int],
    run_dir: Path,
    tiny_sdxl: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(tiny_sdxl / "base", tmp_path / "sdxl")
    monkeypatch.setattr(references, "EMOJIWORLD_MODELS", tmp_path)
    assert command_line("--assemble", "emojiworld:sdxl") == 0
    assert sorted(path.name for path in (run_dir / "export").iterdir()) == ["encoders", "sdxl"]


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """What the entry wrote to stderr; anything beside its one line must be a library's progress
    bar.
    """
    lines = [
        line
        for line in capsys.readouterr().err.splitlines()
        if line.strip() and "it/s]" not in line
    ]
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
    artefact.seal(path.parent, made_from={})


def rewrite_tensors(run_dir: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    path = step_folder(run_dir) / "student.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    artefact.seal(path.parent, made_from={})


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no training": (
        lambda run: shutil.rmtree(run / "distill"),
        "there is no finished checkpoint; run distill.train first",
    ),
    "no manifest": (
        lambda run: (step_folder(run) / "manifest.json").unlink(),
        "this checkpoint is not whole",
    ),
    "bit flipped": (flip_a_bit, "student.safetensors: damaged, its SHA-256 is not the one in"),
    "file missing": (
        lambda run: (step_folder(run) / "student.safetensors").unlink(),
        "student.safetensors: missing",
    ),
    "truncated": (
        truncate_with_a_manifest_that_agrees,
        "student.safetensors: truncated, or no safetensors file",
    ),
    "not a student": (
        lambda run: rewrite_tensors(run, lambda t: t.clear() or t.update(x=torch.zeros(1))),
        "it is no student of this project",
    ),
    "a tensor missing": (
        lambda run: rewrite_tensors(
            run, lambda t: t.pop("clip_l.text_model.encoder.layers.1.mlp.fc1.weight")
        ),
        "does not fit the config.json beside it",
    ),
    "no tokenizer": (
        lambda run: shutil.rmtree(run / "initial_student"),
        "run python -m vocab_init with this recipe first",
    ),
    "other vocabulary": (
        lambda run: rewrite_tensors(
            run,
            lambda t: t.update(
                {k: v[:-1].contiguous() for k, v in t.items() if "token_embedding" in k}
            ),
        ),
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
    assert (
        "there is no such folder; give an SDXL or SD folder in diffusers layout, its hub name, or "
        in one_line(capsys)
    )
    assert command_line("distill.base=someone/unknown") == 3
    assert (
        "someone/unknown: there is no such folder, and it cannot be fetched from the hub ("
        in one_line(capsys)
    )
    assert not list((run_dir / "export").glob("*base*"))


STEM = "diffusion_pytorch_model"


def edit_new(path: Path, shard: str) -> None:
    path.write_text(json.dumps({"metadata": {}, "weight_map": {"conv_in.weight": shard}}))


def cut_into_shards(folder: Path) -> list[Path]:
    """The weights of one part in two files and their index, as `save_pretrained` writes them."""
    whole = folder / f"{STEM}.safetensors"
    tensors = load_file(whole)
    names = sorted(tensors)
    paths = [folder / f"{STEM}-0000{i}-of-00002.safetensors" for i in (1, 2)]
    for path, some in zip(paths, (names[::2], names[1::2]), strict=True):
        save_file({name: tensors[name] for name in some}, path)
    weight_map = {name: paths[i % 2].name for i, name in enumerate(names)}
    index = json.dumps({"metadata": {}, "weight_map": weight_map})
    (folder / f"{STEM}.safetensors.index.json").write_text(index)
    whole.unlink()
    return paths


BROKEN_SDXL: dict[str, tuple[Callable[[Path], object], str]] = {
    "no UNet": (
        lambda sdxl: shutil.rmtree(sdxl / "unet"),
        "unet: holds no JSON or safetensors file",
    ),
    "truncated": (
        lambda sdxl: cut(sdxl / "unet" / "diffusion_pytorch_model.safetensors"),
        "truncated, or no safetensors file",
    ),
    "pickle": (
        lambda sdxl: (sdxl / "vae" / "diffusion_pytorch_model.safetensors").rename(
            sdxl / "vae" / "diffusion_pytorch_model.bin"
        ),
        "pickle weights can run code when loaded",
    ),
    "no weights of the autoencoder": (
        lambda sdxl: (sdxl / "vae" / "diffusion_pytorch_model.safetensors").unlink(),
        "diffusion_pytorch_model.safetensors: missing; fetch the folder again",
    ),
    "shard missing": (
        lambda sdxl: cut_into_shards(sdxl / "unet")[1].unlink(),
        "diffusion_pytorch_model-00002-of-00002.safetensors: missing, though",
    ),
    "shard of another": (
        lambda sdxl: save_file({"x": torch.ones(1)}, cut_into_shards(sdxl / "unet")[1]),
        "diffusion_pytorch_model-00002-of-00002.safetensors: holds no ",
    ),
    "index of no shards": (
        lambda sdxl: edit_new(sdxl / "vae" / f"{STEM}.safetensors.index.json", "lost.safetensors"),
        "lost.safetensors: missing, though diffusion_pytorch_model.safetensors.index.json lists it",
    ),
    "remote code": (
        lambda sdxl: edit(sdxl / "model_index.json", _class_name=["pipeline", "Mine"]),
        "asks for code of its own",
    ),
    "remote part": (
        lambda sdxl: edit(sdxl / "model_index.json", unet=["unet_of_mine", "Mine"]),
        "comes from 'unet_of_mine', code of its own",
    ),
    "SD 1.x": (
        lambda sdxl: edit(sdxl / "model_index.json", _class_name="StableDiffusionPipeline"),
        "its _class_name is 'StableDiffusionPipeline'",
    ),
    "other width": (
        lambda sdxl: edit(sdxl / "unet" / "config.json", cross_attention_dim=7),
        "its UNet reads 7 numbers, the encoders give 40",
    ),
}


@pytest.mark.parametrize("case", BROKEN_SDXL)
def test_any_sdxl_takes_the_encoders_and_a_broken_one_is_one_line(
    case: str,
    command_line: Callable[..., int],
    run_dir: Path,
    tiny_sdxl: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    broken, sound = tmp_path / "broken", tmp_path / "finetuned-sdxl"
    shutil.copytree(tiny_sdxl / "base", broken)
    shutil.copytree(tiny_sdxl / "base", sound)
    (sound / "pipeline.py").write_text("raise SystemExit")  # never linked, never run
    assert command_line("--assemble", str(sound)) == 0
    assembled = run_dir / "export" / "finetuned-sdxl"
    assert not (run_dir / "export" / "base").exists() and not list(assembled.rglob("*.py"))
    weights = "unet/diffusion_pytorch_model.safetensors"
    assert (assembled / weights).samefile(sound / weights)
    assert (assembled / "text_encoder" / "model.safetensors").samefile(
        run_dir / "export" / "encoders" / "text_encoder" / "model.safetensors"
    )

    damage, line = BROKEN_SDXL[case]
    damage(broken)
    capsys.readouterr()
    assert command_line("--assemble", str(broken)) == 3
    assert line in one_line(capsys)
    assert sorted(path.name for path in (run_dir / "export").iterdir()) == [
        "encoders",
        "finetuned-sdxl",
    ]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_half_precision_lies_beside_the_fp32_weights(
    command_line: Callable[..., int], run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command_line("export.variants=[fp16,bf16]", "export.encoders_only=true") == 0
    folder = run_dir / "export" / "encoders"
    full = load_file(folder / "text_encoder_2" / "model.safetensors")
    for variant, dtype in (("fp16", torch.float16), ("bf16", torch.bfloat16)):
        half = load_file(folder / "text_encoder_2" / f"model.{variant}.safetensors")
        assert half.keys() == full.keys() and all(
            torch.equal(half[name], full[name].to(dtype)) for name in full
        )
        assert verify_entry.main([str(folder), "--variant", variant]) == 0
    shutil.rmtree(folder)
    rewrite_tensors(
        run_dir, lambda tensors: tensors["clip_l.text_model.final_layer_norm.bias"].fill_(1e5)
    )
    capsys.readouterr()
    assert command_line("export.variants=[fp16]", "export.encoders_only=true") == 3
    assert "numbers too large for torch.float16" in one_line(capsys) and not list(
        (run_dir / "export").iterdir()
    )


def test_a_hub_name_fetches_what_is_needed_and_no_more(
    tiny_sdxl: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub
    from huggingface_hub.utils import filter_repo_objects

    files = """model_index.json sd_xl_base_1.0.safetensors
        scheduler/scheduler_config.json text_encoder/config.json LICENSE.md
        text_encoder/model.safetensors text_encoder/model.fp16.safetensors text_encoder/model.onnx
        text_encoder_2/config.json tokenizer/vocab.json unet/config.json
        unet/diffusion_pytorch_model.safetensors unet/diffusion_pytorch_model.fp16.safetensors
        unet/model.onnx vae/config.json vae/diffusion_pytorch_model.safetensors vae_1_0/config.json
        pipeline.py""".split()
    fetched: list[str] = []

    def snapshot_download(name: str, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
        fetched[:] = filter_repo_objects(
            files, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns
        )
        return str(tiny_sdxl / "base")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    for variants, names in (
        ("[]", ["diffusion_pytorch_model"]),
        ("[fp16]", ["diffusion_pytorch_model", "diffusion_pytorch_model.fp16"]),
    ):
        recipe = load_recipe(ROOT / "configs" / "toyworld.yaml", [f"export.variants={variants}"])
        assert (
            fetch("stabilityai/stable-diffusion-xl-base-1.0", *exporting.patterns(recipe))
            == tiny_sdxl / "base"
        )
        weights = [
            f"{part}/{name}.safetensors"
            for part in ("unet", "vae")
            for name in names
            if f"{part}/{name}.safetensors" in files
        ]
        others = [
            "unet/config.json",
            "vae/config.json",
            "model_index.json",
            "scheduler/scheduler_config.json",
            "LICENSE.md",
        ]
        assert sorted(fetched) == sorted([*weights, *others])


def test_an_export_that_reloads_otherwise_is_refused(
    command_line: Callable[..., int],
    run_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def disturb(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str]) -> None:
        bias = "text_model.encoder.layers.0.mlp.fc1.bias"
        save_file(tensors | {bias: tensors[bias] + 1e-3}, path, metadata)

    with monkeypatch.context() as patch:
        patch.setattr(pipeline_folder, "save_file", disturb)
        assert command_line() == 3
    assert "holds other numbers than the checkpoint" in one_line(capsys)
    stock = readings.stock_reading

    def disturbed_stock(repository: Repository, prompts: tuple[str, ...]) -> readings.PromptStates:
        reading = stock(repository, prompts)
        reading.prompt_embeds_BLD[3, 40] *= 1.001
        return reading

    monkeypatch.setattr(readings, "stock_reading", disturbed_stock)
    assert command_line() == 3
    line = one_line(capsys)
    assert (
        "the stock pipeline gives other states than the trainer's for '夕暮れ" in line
        and "(by 1.0e-03)" in line
    )
    assert list((run_dir / "export").iterdir()) == []


def flip(path: Path) -> bytes:
    """Flips a bit in place, as a disk does: hard links see it too. Returns what was there."""
    found = path.read_bytes()
    path.write_bytes(found[:-5] + bytes([found[-5] ^ 1]) + found[-4:])
    return found


def test_damaged_exports_are_made_again(
    command_line: Callable[..., int], run_dir: Path, capsys
) -> None:
    assert command_line("distill.refiner=null") == 0
    path = run_dir / "export" / "encoders" / "text_encoder" / "model.safetensors"
    whole = flip(path)
    assert command_line("distill.refiner=null") == 0
    error = capsys.readouterr().err
    assert all(
        f"{name}/text_encoder/model.safetensors: damaged" in error for name in ("encoders", "base")
    )
    assert (
        path.read_bytes()
        == whole
        == (run_dir / "export" / "base" / "text_encoder" / path.name).read_bytes()
    )


def test_a_damaged_link_to_a_damaged_source_is_not_verified_anew(
    command_line: Callable[..., int], run_dir: Path, tiny_sdxl: Path, tmp_path: Path, capsys
) -> None:
    own = f"distill.base={shutil.copytree(tiny_sdxl / 'base', tmp_path / 'sdxl' / 'base')}"
    assert command_line(own, "distill.refiner=null") == 0
    flip(run_dir / "export" / "base" / "unet" / "diffusion_pytorch_model.safetensors")
    assert command_line(own, "distill.refiner=null") == 3
    assert "damaged, and so is what it was made from" in capsys.readouterr().err


def test_the_tokenizer_is_the_one_that_was_trained_with(
    command_line: Callable[..., int], run_dir: Path, capsys
) -> None:
    path = run_dir / "initial_student" / "tokenizer" / "tokenizer.json"
    path.write_bytes(path.read_bytes() + b" ")
    assert command_line() == 3
    assert "tokenizer.json: damaged" in one_line(capsys)
    artefact.seal(run_dir / "initial_student", {})  # whole, but another
    assert command_line() == 3
    assert "not the one this run was trained with" in one_line(capsys)
    assert not list((run_dir / "export").glob("[!.]*"))


def test_what_is_linked_is_what_the_run_began_with(
    command_line: Callable[..., int], run_dir: Path, tiny_sdxl: Path, tmp_path: Path, capsys
) -> None:
    base = shutil.copytree(tiny_sdxl / "base", tmp_path / "sdxl" / "base")
    own = (f"distill.base={base}", "distill.refiner=null")
    record = run_folder.Run.read(run_dir / "distill" / run_folder.RECORD, "")
    settings = load_recipe("configs/toyworld.yaml", list(own)).distill
    run_folder.Run.seal(
        **record.model_dump(exclude={"sha256", "inputs"}),
        inputs=record.inputs | inputs.of_pipelines(settings),
    ).write(run_dir / "distill" / run_folder.RECORD)
    (base / "vae" / "config.json").write_text(
        (base / "vae" / "config.json").read_text().replace("silu", "gelu")
    )
    assert command_line(*own) == 3
    assert (
        "the pipeline of distill.base: its UNet, autoencoder, scheduler or index has changed"
        in one_line(capsys)
    )
    assert command_line(*own, "--assemble", str(base)) == 0


def test_files_are_copied_where_they_cannot_be_linked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "unet"
    source.mkdir()
    (source / "config.json").write_text("{}")
    (source / "notes.txt").write_text("not a part")
    monkeypatch.setattr(files.os, "link", lambda *_: (_ for _ in ()).throw(OSError("another disk")))
    pipeline_folder.link_files(source, tmp_path / "copy")
    assert [path.name for path in (tmp_path / "copy").iterdir()] == ["config.json"]
    assert not (tmp_path / "copy" / "config.json").samefile(source / "config.json")
