"""Whatever a training reads is damaged in five ways: it is refused in one line, or made again with
a line and the same numbers.
"""

import hashlib
import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from conftest import write_initial_student, write_pairs, write_tiny_sdxl
from safetensors import safe_open

from configs.errors import DataError, one_line
from configs.schema.load import load_recipe
from configs.schema.recipe import Recipe
from corpora.toyworld import captions
from distill.encoders.family import SDXL
from distill.objective import painting, random_attention, recording, teacher_statistics
from distill.run import inputs, run_folder
from distill.tokens import token_pairs
from distill.train import preparation

PROJECTION = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"
UNET, ENCODER = (
    "base/unet/diffusion_pytorch_model.safetensors",
    "base/text_encoder/model.safetensors",
)
MADE_AGAIN = (
    "run/tokens/text_ids.npy",
    "run/tokens/en_clip_l_offsets.npy",
    "run/tokens/manifest.json",
    "run/distill/measured/teacher_statistics.safetensors",
    "run/distill/measured/query_bank.safetensors",
    "run/distill/measured/random_attention.safetensors",
    "run/distill/measured/manifest.json",
    "run/distill/run.json",
    "run/distill/config.yaml",
)
REFUSED = (
    "run/initial_student/token_embeddings.safetensors",
    "run/initial_student/tokenizer/tokenizer.json",
    "run/initial_student/manifest.json",
    "run/pairs/manifest.json",
    "base/tokenizer/tokenizer.json",
    "base/text_encoder_2/config.json",
    ENCODER,
    UNET,
)


def flip(path: Path, _other: Path) -> None:
    content = bytearray(path.read_bytes())
    content[_middle(path)] ^= 1
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path, Path], object]] = {
    "flipped": flip,
    "truncated": lambda path, _: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "emptied": lambda path, _: path.write_bytes(b""),
    "removed": lambda path, _: path.unlink(),
    "replaced": lambda path, other: path.write_bytes(_other_content(path, other)),
}


def _other_content(path: Path, other: Path) -> bytes:
    """Of the other run's file; where both are equal JSON, the same with a space more."""
    return other.read_bytes() + (b" " if other.read_bytes() == path.read_bytes() else b"")


def _middle(path: Path) -> int:
    """Of a UNet: in what training reads of it. Of a recipe: in a setting that counts."""
    if path.name.startswith("diffusion"):
        with safe_open(path, "pt") as file:
            return path.read_bytes().index(file.get_tensor(PROJECTION).numpy().tobytes()) + 2
    if path.suffix == ".yaml":
        return path.read_bytes().index(b"learning_rate: 0.001") + len("learning_rate: 0.001") - 1
    return path.stat().st_size // 2


def make(root: Path, seed: int) -> None:
    """A run that is ready to be trained, with its teacher, and one checkpoint made."""
    write_tiny_sdxl(root, seed)
    write_pairs(
        root / "run" / "pairs",
        [(one.text, one.en) for one in captions.pairs(24, "train", seed)],
        "train",
    )
    write_initial_student(root / "base", root / "run" / "initial_student")
    start(recipe(root, seed))
    folder = root / "run" / "distill" / "checkpoints" / "step_000004"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")


def recipe(root: Path, seed: int = 0) -> Recipe:
    bank = {"prompts": 2, "inference_steps": 4, "queries_per_layer": 20}
    tree = {
        "name": "x",
        "run": "run",
        "corpora": {
            "sources": [{"kind": "toyworld", "pairs": 10, "held_out_pairs": 2}],
            "language_id": {"model": "x"},
        },
        "vocab_init": {"tokenizer": "x", "sentence_encoder": "x"},
        "distill": {
            "base": "base",
            "objective": {"position": 1.0, "cross_attention": 1.0, "random_attention": 1.0},
            "query_bank": bank,
            "random_attention": {"layers": 2, "heads": 2, "head_width": 4},
            "steps": 200,
            "batch_size": 4,
            "learning_rate": 1e-3,
            "precision": "fp32",
            "seed": seed,
        },
    }
    path = root / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree))
    return load_recipe(path)


def start(settings: Recipe) -> str:
    """What rank 0 does before the first step; the digest of all numbers that training then has in
    memory.
    """
    run_folder.claim_run(settings, settings.run_dir / "distill")
    preparation.prepare(settings, SDXL)
    work = preparation.load(settings, SDXL)
    digest = hashlib.sha256()
    for side in token_pairs.sides_of(SDXL):
        digest.update(
            work.batches.tokens.ids[side].tobytes() + work.batches.tokens.offsets[side].tobytes()
        )
    tensors = [
        *work.student.state_dict().values(),
        *work.teacher.state_dict().values(),
        *work.loss.statistics.states.values(),
    ]
    for layer in (*work.loss.layers, *work.loss.random_layers):
        tensors += [layer.queries_NHK, layer.to_k_ED, layer.to_v_ED, layer.variance]
    for tensor in tensors:
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


@pytest.fixture(scope="module", autouse=True)
def _no_launcher() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            preparation,
            "Engine",
            lambda student, settings: SimpleNamespace(device=torch.device("cpu")),
        )
        yield


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """One to damage copies of, and another of other pairs, teacher and settings."""
    root = tmp_path_factory.mktemp("runs")
    for seed, name in enumerate(("own", "other")):
        with pytest.MonkeyPatch.context() as patch:
            (root / name).mkdir()
            patch.chdir(root / name)
            make(root / name, seed)
    return root / "own", root / "other"


@pytest.fixture
def copy(runs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(runs[0], tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


@pytest.fixture(scope="module")
def numbers(runs: tuple[Path, Path]) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(runs[0])
        return start(recipe(runs[0]))


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", [*MADE_AGAIN, *REFUSED])
def test_nothing_damaged_is_used(
    name: str,
    damage: str,
    copy: Path,
    runs: tuple[Path, Path],
    numbers: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    DAMAGES[damage](copy / name, runs[1] / name)
    capsys.readouterr()
    if name in REFUSED or (name.endswith("run.json") and damage == "replaced"):
        with pytest.raises(DataError) as caught:
            start(recipe(copy))
        message = str(caught.value)
        assert one_line(message) == message and any(
            words in message for words in (name.split("/")[1], "this run began")
        )
        return
    assert start(recipe(copy)) == numbers
    said = capsys.readouterr().err
    assert any(
        Path(name).name in line or Path(name).parent.name in line
        for line in said.splitlines()
        if "again" in line
    )
    capsys.readouterr()
    assert start(recipe(copy)) == numbers and "again" not in capsys.readouterr().err


@pytest.mark.parametrize("damage", DAMAGES)
def test_pairs_are_checked_where_they_are_read(
    damage: str, copy: Path, runs: tuple[Path, Path]
) -> None:
    name = "run/pairs/train-00000.parquet"
    DAMAGES[damage](copy / name, runs[1] / name)
    shutil.rmtree(copy / "run" / "tokens")
    with pytest.raises(DataError, match=r"train-00000\.parquet: .*python -m corpora\.prepare"):
        start(recipe(copy))


@pytest.mark.parametrize(
    ("name", "what"),
    [
        (ENCODER, "distill.base's text encoders"),
        (UNET, "the UNet of distill.base"),
        ("run/pairs/manifest.json", "the pairs"),
    ],
)
def test_before_the_first_checkpoint_what_is_made_from_changed_inputs_is_made_again(
    name: str,
    what: str,
    copy: Path,
    runs: tuple[Path, Path],
    numbers: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.rmtree(copy / "run" / "distill" / "checkpoints")
    for other in (runs[1] / name).parent.glob("*"):
        shutil.copy(other, copy / name if other.name == Path(name).name else (copy / name).parent)
    assert start(recipe(copy)) != numbers
    assert f"{what} has changed since it was made; it is made again" in capsys.readouterr().err
    found, settings = inputs.of_training(recipe(copy), SDXL), recipe(copy).distill
    assert found | inputs.of_pipelines(settings) == run_folder.read_inputs(copy / "run" / "distill")


def test_a_lost_record_does_not_let_other_inputs_in(copy: Path, runs: tuple[Path, Path]) -> None:
    (copy / "run" / "distill" / "run.json").unlink()
    shutil.copy(runs[1] / UNET, copy / UNET)
    with pytest.raises(
        DataError, match=r"the UNet of distill\.base has changed since this run began"
    ):
        start(recipe(copy))


def test_another_recipes_config_is_not_taken_for_the_runs_own(
    copy: Path, runs: tuple[Path, Path]
) -> None:
    config = "run/distill/config.yaml"
    shutil.copy(runs[1] / config, copy / config)
    with pytest.raises(DataError, match="its settings are not those this run began with"):
        start(recipe(copy, seed=1))
    (copy / config).unlink()
    with pytest.raises(DataError, match=r"config\.yaml is missing"):
        start(recipe(copy, seed=1))


def test_harmless_settings_may_change_and_the_version_of_the_code_is_named(copy: Path) -> None:
    run, settings = copy / "run" / "distill", recipe(copy)
    more = {"keep_checkpoints": 9, "log_every_steps": 3, "save_every_steps": 7}
    changed = settings.model_copy(update={"distill": settings.distill.model_copy(update=more)})
    run_folder.claim_run(changed, run)
    assert run_folder.read_config(run).distill.keep_checkpoints == 9
    other = settings.distill.model_copy(update={"compile": True})
    with pytest.raises(DataError, match=r"distill\.compile was False, is True"):
        run_folder.claim_run(settings.model_copy(update={"distill": other}), run)
    record = run_folder.Run.read(run / "run.json", "").model_dump(exclude={"sha256"})
    run_folder.Run.seal(**record | {"code_version": "9.9", "settings_sha256": "x"}).write(
        run / "run.json"
    )
    run_folder.claim_run(
        settings, run
    )  # an older version of the same settings, with another digest
    with open(run / "config.yaml", "a", encoding="utf-8") as file:
        file.write("of_the_future: 1\n")
    with pytest.raises(DataError, match=r"of_the_future.*written by version 9\.9, this is "):
        run_folder.claim_run(settings, run)


@pytest.mark.parametrize(
    ("module", "name", "calls", "kept"),
    [
        (random_attention, "record", 0, {"teacher_statistics.record"}),
        (painting, "paint_base", 0, {"teacher_statistics.record", "random_attention.record"}),
        (recording, "write_json", 3, {"teacher_statistics.record", "painting.paint_base"}),
    ],
)
def test_what_was_measured_before_an_interruption_is_not_measured_again(
    module: Any,
    name: str,
    calls: int,
    kept: set[str],
    copy: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At real size each measurement takes minutes. The end is the same to the bit."""
    folder = copy / "run" / "distill"
    expected = start(recipe(copy))
    shutil.rmtree(folder / "measured")
    original, count = getattr(module, name), itertools.count()

    def interrupted(*arguments: Any) -> Any:
        if next(count) == calls:
            raise KeyboardInterrupt
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(module, name, interrupted)
        with pytest.raises(KeyboardInterrupt):
            start(recipe(copy))
    assert not (folder / "measured").exists()
    modules = {
        one.__name__.rpartition(".")[2]: one
        for one in (teacher_statistics, random_attention, recording, painting)
    }
    with monkeypatch.context() as patch:
        for one in kept:
            of_module, _, function = one.partition(".")
            patch.setattr(modules[of_module], function, lambda *_: pytest.fail("measured again"))
        assert start(recipe(copy)) == expected
    assert {path.name for path in folder.glob("measured*")} == {"measured"}
    assert not {path.name for path in (folder / "measured").iterdir()} - {
        "teacher_statistics.safetensors",
        "random_attention.safetensors",
        "query_bank.safetensors",
        "manifest.json",
    }
