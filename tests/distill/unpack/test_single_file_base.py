"""A recipe and a command may name the single file itself: it is unpacked once, beside the hub's
cache, and its digest stands in the records.
"""

from pathlib import Path

import huggingface_hub
import original_layout
import pytest
import torch
from conftest import write_checkpoint
from safetensors.torch import load_file, save_file

from configs.errors import DataError, RecipeError
from configs.files import file_sha256
from configs.references import TOYWORLD_MODELS, ModelName, looks_like_hub_name
from configs.schema.load import load_recipe
from configs.schema.recipe import Recipe
from distill.encoders.family import SD, SDXL
from distill.encoders.teacher import load_text_encoders
from distill.export import __main__ as export_entry
from distill.objective.projections import Projections
from distill.plan import shapes
from distill.run import inputs
from distill.sdxl.base import family_of, settled
from distill.sdxl.pipelines import load_base
from distill.sdxl.repository import fetch
from distill.tokenizer import portable
from distill.unpack import kinds, writing
from distill.verify.record import AGREEMENT, TEACHER_FILE, VERIFICATION, Verification

TOYWORLD = str(Path(__file__).resolve().parents[3] / "configs" / "toyworld.yaml")


@pytest.fixture
def unpacked(tiny_sdxl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The cache in the test's own folder; what is unpacked, in order. The miniature's configs stand
    in for the published ones, which no miniature has.
    """
    done: list[Path] = []
    stock = writing.write

    def write(source: Path, folder: Path, **more: object) -> None:
        done.append(source)
        refiner = "refiner" in source.name
        stock(source, folder, like=tiny_sdxl / ("refiner" if refiner else "base"), **more)

    monkeypatch.setattr(huggingface_hub.constants, "HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(writing, "write", write)
    return done


@pytest.fixture
def files(tiny_sdxl: Path, tmp_path: Path) -> dict[str, Path]:
    return {
        kind: original_layout.write(tiny_sdxl / kind, tmp_path / f"{kind}.safetensors", kind)
        for kind in ("base", "refiner")
    }


def recipe(files: dict[str, Path], *overrides: str) -> Recipe:
    names = [f"distill.{kind}={path}" for kind, path in files.items()]
    return load_recipe(TOYWORLD, [*names, *overrides])


def test_a_recipe_names_files_as_it_names_folders(
    files: dict[str, Path], unpacked: list[Path], tiny_sdxl: Path, tmp_path: Path
) -> None:
    asked = recipe(files, f"distill.query_bank.unets={{again: {files['base']}}}")
    found, family = settled(asked, unpack=False)
    assert family is SDXL and not unpacked  # by the header alone
    found, family = settled(asked)
    assert unpacked == [files["base"], files["refiner"]]
    settings = found.distill
    mine, theirs = (
        load_text_encoders(folder, family).encode(["a red ring", ""]).named()
        for folder in (settings.base.path, tiny_sdxl / "base")
    )
    for name in theirs:  # to rounding, which differs by the weights' addresses on some processors
        torch.testing.assert_close(mine[name], theirs[name], rtol=1e-5, atol=1e-5)
    assert settings.base == str(files["base"])  # what was written stays
    for unet, kind in (("base", "base"), ("refiner", "refiner"), ("again", "base")):
        folder = tiny_sdxl / kind
        assert Projections(settings.unets[unet].path).sha256() == Projections(str(folder)).sha256()
    assert inputs._single_files(settings) == {
        "the file of distill.base": file_sha256(files["base"]),
        "the file of distill.refiner": file_sha256(files["refiner"]),
        "the file of distill.query_bank.unets.again": file_sha256(files["base"]),
    }
    folders = recipe({kind: tiny_sdxl / kind for kind in files}).distill
    assert inputs._single_files(folders) == {}
    # Known by what it holds, not by its name; another content is another model.
    unpacked_base = Path(settings.base.path)
    moved = files["base"].rename(tmp_path / "moved.safetensors")
    assert fetch(str(moved)) == unpacked_base
    tensors = load_file(moved)
    save_file({name: one + 1 if "decoder" in name else one for name, one in tensors.items()}, moved)
    other = fetch(str(moved))
    assert len(unpacked) == 3 and other != fetch(str(files["refiner"]))
    assert load_base(ModelName(moved).path, SDXL).vae is not None


def test_it_is_unpacked_whole_or_not_at_all(
    files: dict[str, Path], unpacked: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(writing, "_set_scheduler", lambda *_: (_ for _ in ()).throw(OSError(28)))
        with pytest.raises(OSError):
            settled(recipe(files))
    assert not list((tmp_path / "cache").rglob("*.safetensors"))
    settled(recipe(files))
    assert unpacked == [files["base"], files["base"], files["refiner"]]


def test_a_wrong_file_is_one_line_wherever_it_is_named(
    files: dict[str, Path], unpacked: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lora = tmp_path / "lora.safetensors"
    save_file({"lora_te1_x.lora_down.weight": torch.zeros(1)}, lora)
    for ask in (lambda: settled(recipe({"base": lora})), lambda: fetch(str(lora))):
        with pytest.raises(DataError, match="a LoRA, which changes a model"):
            ask()
    arguments = [TOYWORLD, f"run={tmp_path / 'run'}", f"distill.base={lora}"]
    assert export_entry.main(arguments) == 3
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(DataError, match="holds text encoders and no UNet"):
        family_of(str(without_unet(files["base"], tmp_path)))
    missing = tmp_path / "models" / "nowhere.safetensors"
    with pytest.raises(DataError, match=r"nowhere\.safetensors: there is no such folder"):
        fetch(str(missing))
    assert not looks_like_hub_name("models/nowhere.safetensors") and not unpacked


def without_unet(file: Path, place: Path) -> Path:
    tensors = load_file(file)
    path = place / "encoders.safetensors"
    save_file({name: one for name, one in tensors.items() if "conditioner" in name}, path)
    return path


def test_the_family_and_the_plan_need_the_header_alone(
    tiny_sd: Path, unpacked: list[Path], tmp_path: Path
) -> None:
    file = original_layout.write(tiny_sd, tmp_path / "sd.safetensors", "sd")
    assert family_of(str(file)) is SD
    config = shapes.read_config(str(file), "unet")
    assert config == kinds.SD_1.part_configs()["unet"] and not unpacked
    with pytest.raises(RecipeError, match="is an SD, which has no refiner"):
        settled(recipe({"base": file, "refiner": file}))


def test_an_export_of_files_and_one_assembled_with_a_file(
    files: dict[str, Path], unpacked: list[Path], tiny_sdxl: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    tokenizer = run / "initial_student" / "tokenizer"
    vocabulary = portable.build(TOYWORLD_MODELS / "spiece.model", tokenizer)
    write_checkpoint(run, tiny_sdxl / "base", len(vocabulary), step=500)
    settings = [TOYWORLD, f"run={run}", *(f"distill.{name}={path}" for name, path in files.items())]
    assert export_entry.main(settings) == 0 and export_entry.main(settings) == 0
    digest = file_sha256(files["base"])
    for folder in ("base", "encoders"):
        made_from = Verification.read(run / "export" / folder / VERIFICATION, "").made_from
        assert made_from["teacher"] == "base.safetensors" and made_from[TEACHER_FILE] == digest
        card = (run / "export" / folder / "README.md").read_text(encoding="utf-8")
        assert digest in card and str(tmp_path) not in card
    tuned = tmp_path / "tuned.safetensors"
    tensors = load_file(files["base"])
    unet = "model.diffusion_model."
    save_file(
        {name: one * 2 if name.startswith(unet) else one for name, one in tensors.items()}, tuned
    )
    tuned_again = [*settings, "--assemble", str(tuned)]
    assert export_entry.main(tuned_again) == 0 and export_entry.main(tuned_again) == 0
    made_from = Verification.read(run / "export" / "tuned" / VERIFICATION, "").made_from
    assert made_from["teacher"] == "tuned.safetensors" and made_from[AGREEMENT] == "1.0000"
    assert load_base(str(run / "export" / "tuned"), SDXL).unet is not None
