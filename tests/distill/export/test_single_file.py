"""`--single-file`: one file in the original names is the exported folder, bit for bit, as diffusers
reads it; anybody's single file takes our encoders; what cannot be written is one line.
"""

import json
import shutil
from pathlib import Path

import exports
import original_layout
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from configs.references import TOYWORLD_MODELS
from distill.encoders.family import SD
from distill.export import single_file

SIDES = ("base", "refiner")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("run")
    exports.prepare(run, TOYWORLD_MODELS / "base")
    models = (TOYWORLD_MODELS / "base", TOYWORLD_MODELS / "refiner")
    assert exports.export(run, *models, "--single-file") == 0
    return run


def pipeline_of(side: str):
    import diffusers

    kind = "StableDiffusionXLPipeline" if side == "base" else "StableDiffusionXLImg2ImgPipeline"
    return getattr(diffusers, kind)


def parts(pipeline) -> dict[str, dict[str, torch.Tensor]]:
    names = ("unet", "vae", "text_encoder", "text_encoder_2")
    models = {name: getattr(pipeline, name, None) for name in names}
    return {name: model.state_dict() for name, model in models.items() if model is not None}


def assert_equal(mine: dict, theirs: dict) -> None:
    assert mine.keys() == theirs.keys()
    for part, tensors in theirs.items():
        assert mine[part].keys() == tensors.keys()
        assert all(torch.equal(mine[part][name], one) for name, one in tensors.items()), part


@pytest.mark.parametrize("side", SIDES)
def test_diffusers_reads_the_file_as_the_folder(run: Path, side: str) -> None:
    folder = run / "export" / side
    read = pipeline_of(side).from_single_file(
        str(folder.with_name(f"{side}.safetensors")), config=str(folder), local_files_only=True
    )
    stored = pipeline_of(side).from_pretrained(folder)
    assert_equal(parts(read), parts(stored))
    assert read.tokenizer_2("赤い丸").input_ids == stored.tokenizer_2("赤い丸").input_ids
    assert read.tokenizer_2.eos_token_id == read.text_encoder_2.config.vocab_size - 1


@pytest.mark.parametrize("side", SIDES)
def test_the_names_are_those_of_the_original_code(run: Path, side: str) -> None:
    """By the converter that the tests of distill/unpack have of their own."""
    folder = run / "export" / side
    wanted = {
        name: one
        for found in original_layout.parts(folder, side).values()
        for name, one in found.items()
        if not name.endswith(("position_ids", "logit_scale"))  # of old files; read by nobody
    }
    found = load_file(folder.with_name(f"{side}.safetensors"))
    flags = {name: found.pop(name) for name in ("v_pred", "ztsnr")}  # toyworld's prediction
    assert all(one.numel() == 0 for one in flags.values())
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], one) for name, one in wanted.items())


def test_any_single_file_takes_our_encoders(run: Path, tmp_path: Path) -> None:
    """The two lines of docs/programs.md."""
    from diffusers import StableDiffusionXLPipeline

    base = TOYWORLD_MODELS / "base"
    file = original_layout.write(base, tmp_path / "community.safetensors", "base")
    folder = str(run / "export" / "base")
    ours = StableDiffusionXLPipeline.from_pretrained(folder)
    pipeline = StableDiffusionXLPipeline.from_single_file(
        str(file),
        config=folder,
        text_encoder=ours.text_encoder,
        text_encoder_2=ours.text_encoder_2,
        local_files_only=True,
    )
    unet = {"unet": StableDiffusionXLPipeline.from_pretrained(base).unet.state_dict()}
    assert_equal(parts(pipeline), parts(ours) | unet)
    assert pipeline.tokenizer("赤い丸").input_ids == ours.tokenizer("赤い丸").input_ids


def test_an_sd_with_attention_in_its_autoencoder(tiny_sd: Path, tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline

    exports.prepare(tmp_path, tiny_sd, SD)
    settings = ("distill.objective.pooled=0", "--single-file")
    assert exports.export(tmp_path, tiny_sd, None, *settings) == 0
    folder = tmp_path / "export" / "base"
    read = StableDiffusionPipeline.from_single_file(
        str(folder.with_name("base.safetensors")), config=str(folder), local_files_only=True
    )
    assert_equal(parts(read), parts(StableDiffusionPipeline.from_pretrained(folder)))


def test_it_is_written_once_and_again_for_another_export(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "base"
    shutil.copytree(run / "export" / "base", folder)
    single_file.write(folder)
    assert "written from base, read again and compared" in capsys.readouterr().out
    path = folder.with_name("base.safetensors")
    before = path.stat().st_ino
    single_file.write(folder)
    assert "already written from base" in capsys.readouterr().out
    assert path.stat().st_ino == before
    (folder / "verification.json").write_text("{}")
    single_file.write(folder)
    assert path.stat().st_ino != before
    with safe_open(path, "pt") as file:
        assert file.metadata()["format"] == "pt"


def without_encoders(folder: Path, path: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    index["text_encoder"] = [None, None]
    index["text_encoder_2"] = [None, None]
    (folder / "model_index.json").write_text(json.dumps(index))


def others_file(folder: Path, path: Path) -> None:
    save_file({"x": torch.zeros(1)}, path)


def no_safetensors(folder: Path, path: Path) -> None:
    path.write_text("a picture")


REFUSED = {
    "without encoders": (without_encoders, "makes no single file here"),
    "another file": (others_file, "--single-file did not write it; move it away"),
    "no safetensors": (no_safetensors, "is in the way and no safetensors"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_written_is_one_line(
    case: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from configs import command

    damage, said = REFUSED[case]
    folder = tmp_path / "base"
    shutil.copytree(run / "export" / "base", folder)
    damage(folder, folder.with_name("base.safetensors"))
    before = sorted(path.name for path in tmp_path.iterdir())
    assert command.guard("distill.export", lambda: single_file.write(folder)) == 3
    printed = capsys.readouterr().err
    assert said in printed and printed.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_without_a_pipeline_there_is_no_file(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = (TOYWORLD_MODELS / "base", None)
    assert exports.export(run, *models, "--single-file", "export.encoders_only=true") == 3
    assert "leaves no pipeline to write" in capsys.readouterr().err
