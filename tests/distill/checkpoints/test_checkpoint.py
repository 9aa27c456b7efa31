"""Damaged checkpoints, stale tokens, teachers that are missing or broken: one clear line each, and
nothing made is lost.
"""

import errno
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file

from configs import artefact
from configs.errors import DataError, RecipeError
from configs.files import file_sha256
from configs.schema.load import load_recipe
from configs.schema.recipe import Recipe
from distill.checkpoints import checkpoint
from distill.checkpoints.tensor_file import TensorFile
from distill.encoders.family import SDXL
from distill.encoders.teacher import load_text_encoders
from distill.run import run_folder
from distill.tokens import store, token_pairs
from distill.train import loop, metrics_file


def write_checkpoint(run: Path, step: int) -> Path:
    folder = run / "checkpoints" / f"step_{step:06d}"
    folder.mkdir(parents=True)
    (folder / "student.safetensors").write_bytes(b"weights")
    (folder / "state_00000.safetensors").write_bytes(b"moments")
    artefact.seal(folder, made_from={})
    (run / "latest").write_text(folder.name)
    return folder


def flip(path: Path, place: int) -> None:
    damaged = bytearray(path.read_bytes())
    damaged[place % len(damaged)] ^= 1
    path.write_bytes(damaged)


DAMAGE = {
    "bit flipped": lambda folder: flip(folder / "state_00000.safetensors", 3),
    "truncated": lambda folder: (folder / "student.safetensors").write_bytes(b"weig"),
    "file missing": lambda folder: (folder / "state_00000.safetensors").unlink(),
    "no manifest": lambda folder: (folder / "manifest.json").unlink(),
    "manifest torn": lambda folder: (folder / "manifest.json").write_text('{"code_version": "0.1'),
    "manifest leads out": lambda folder: (folder / "manifest.json").write_text(
        (folder / "manifest.json").read_text().replace("student.safetensors", "../../latest")
    ),
    "of an earlier version": lambda folder: (folder / "engine").mkdir(),
    "a file in its place": lambda folder: (shutil.rmtree(folder), folder.write_text("x")),
}


@pytest.mark.parametrize("case", DAMAGE)
@pytest.mark.parametrize("pointer", ["right", "missing", "torn", "leads out"])
def test_the_newest_whole_checkpoint_is_taken_whatever_latest_says(
    tmp_path: Path, case: str, pointer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert checkpoint.newest(tmp_path) is None
    older, newer = write_checkpoint(tmp_path, 999_000), write_checkpoint(tmp_path, 1_000_000)
    (tmp_path / "checkpoints" / ".step_1000001.partial").mkdir()
    (tmp_path / "checkpoints" / "step_1000002.incomplete").mkdir()
    if pointer == "missing":
        (tmp_path / "latest").unlink()
    elif pointer != "right":
        (tmp_path / "latest").write_text({"torn": "", "leads out": "../../elsewhere"}[pointer])
    assert checkpoint.newest(tmp_path) == newer and not capsys.readouterr().err
    DAMAGE[case](newer)
    assert checkpoint.newest(tmp_path) == older
    said = capsys.readouterr().err
    if case == "a file in its place":
        assert not said
    else:
        assert said.count("\n") == 1 and str(newer) in said
        assert said.endswith(f"Passed over for {older}\n")
    (older / "student.safetensors").unlink()
    with pytest.raises(DataError, match=r"step_999000.*missing.*No other is whole.*to start again"):
        checkpoint.newest(tmp_path)


STEPS = st.integers(1, 2_000_000)


@settings(max_examples=300, deadline=None)
@given(found=st.dictionaries(STEPS, st.booleans(), max_size=8), saved=STEPS, keep=st.integers(1, 4))
def test_pruning_keeps_the_newest_whole_ones_and_never_the_one_just_saved(
    found: dict[int, bool], saved: int, keep: int
) -> None:
    found[saved] = True
    names = {f"step_{step:06d}": good for step, good in found.items()}
    outdated = checkpoint.outdated(names, f"step_{saved:06d}", keep)
    gone = {int(name.removeprefix("step_")) for name in outdated}
    left = {step for step in found if found[step] and step <= saved} - gone
    assert saved in left and gone <= {step for step in found if step < saved}
    assert len(left) == min(keep, sum(good and step <= saved for step, good in found.items()))
    assert all(step < min(left) for step in gone if found[step])
    assert not [step for step in found if step < saved and not found[step] and step not in gone]


@settings(max_examples=60, deadline=None)
@given(
    keep=st.integers(1, 3),
    story=st.lists(st.tuples(st.integers(1, 9), st.booleans()), min_size=1, max_size=12),
)
def test_no_story_of_saves_damage_and_going_back_loses_a_whole_checkpoint(
    keep: int, story: list[tuple[int, bool]]
) -> None:
    """Each chapter makes some steps and saves; then the newest may be damaged, found so when the
    run continues from the one before.
    """
    found: dict[str, bool] = {}
    step = 0
    for made, damage in story:
        step += made
        before = {name for name, good in found.items() if good}
        saved = f"step_{step:06d}"
        found[saved] = True
        for name in checkpoint.outdated(found, saved, keep):
            del found[name]
        good = {name for name, good in found.items() if good}
        assert saved in good and len(good) >= min(keep, len(before | {saved}))
        if damage:
            found[saved] = False
            step = max((int(name[5:]) for name, good in found.items() if good), default=0)


def test_a_tensor_file_is_what_safetensors_reads(tmp_path: Path) -> None:
    torch.manual_seed(0)
    shapes = {"a.weight": (3, 5), "ü": (7,), "empty": (0, 4), "one": (), "b": (2, 3, 4)}
    tensors = {name: torch.randn(shape) for name, shape in shapes.items()}
    file = TensorFile(tmp_path / "x.safetensors", shapes)
    for name, tensor in tensors.items():
        file.write(name, tensor)
    assert file.close() == file_sha256(tmp_path / "x.safetensors")
    read = load_file(tmp_path / "x.safetensors")
    assert read.keys() == tensors.keys()
    assert all(read[name].equal(tensor) for name, tensor in tensors.items())
    with safe_open(tmp_path / "x.safetensors", "pt") as opened:
        assert opened.metadata() == {"format": "pt"}


@pytest.mark.parametrize("where", ["open", "write"])
def test_a_tensor_file_that_cannot_be_written_takes_all_tensors_first(
    tmp_path: Path, where: str
) -> None:
    """The process that fails goes on gathering with the others."""
    path = tmp_path / "missing" / "x.safetensors" if where == "open" else Path("/dev/full")
    file = TensorFile(path, {"a": (1000,), "b": (5_000_000,), "c": (3,)})
    for name, count in (("a", 1000), ("b", 5_000_000), ("c", 3)):
        file.write(name, torch.zeros(count))
    with pytest.raises(OSError) as caught:
        file.close()
    assert caught.value.errno == (errno.ENOENT if where == "open" else errno.ENOSPC)


def recipe(tmp_path: Path, **distill: object) -> Recipe:
    tree = {
        "name": "x",
        "run": str(tmp_path / "run"),
        "corpora": {
            "sources": [{"kind": "toyworld", "pairs": 10, "held_out_pairs": 2}],
            "language_id": {"model": "x"},
        },
        "vocab_init": {"tokenizer": "x", "sentence_encoder": "x"},
        "distill": {
            "base": "x",
            "objective": {"position": 1.0},
            "steps": 200,
            "batch_size": 8,
            "learning_rate": 1e-3,
        }
        | distill,
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree))
    return load_recipe(path)


def test_a_run_belongs_to_one_recipe(tmp_path: Path) -> None:
    run_folder.claim_run(recipe(tmp_path), tmp_path / "run")
    run_folder.claim_run(recipe(tmp_path), tmp_path / "run")
    with pytest.raises(DataError, match=r"holds another recipe's run \(distill.seed was 0, is 7\)"):
        run_folder.claim_run(recipe(tmp_path, seed=7), tmp_path / "run")
    with pytest.raises(RecipeError, match="batch_size: 8 a step cannot be shared by 3 processes"):
        recipe(tmp_path).distill.check_processes(3)


def test_the_learning_rate_warms_up_and_ends_at_zero(tmp_path: Path) -> None:
    settings = recipe(tmp_path, warmup_steps=10).distill
    rates = [loop.learning_rate(step, settings) for step in range(200)]
    assert (
        rates[9] == rates[10] == max(rates) == 1e-3
        and rates[0] == 1e-4
        and rates[-1] < 1e-6
        and sorted(rates[10:], reverse=True) == rates[10:]
    )


def test_a_metrics_line_cut_off_by_a_kill_is_left_out_and_any_other_damage_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert [row["step"] for row in metrics_file.read(path)] == [
        1,
        2,
    ] and capsys.readouterr().err == ""
    path.write_bytes(
        b'{"step": 1}\n{"st\xffp": 2}\n[3]\n{"step": 4, "loss": "x"}\n{"step": 5}\n{"step": 6}\n'
    )
    assert [row["step"] for row in metrics_file.read(path)] == [1, 5, 6]
    assert "line 2 and 2 more damaged, left out" in capsys.readouterr().err
    metrics_file.resume(path, 5, log_every_steps=1)
    assert path.read_text() == '{"step": 1}\n{"step": 5}\n'
    assert (tmp_path / metrics_file.DAMAGED).read_bytes().count(b"\n") == 3
    capsys.readouterr()
    path.unlink()
    metrics_file.resume(path, 5, log_every_steps=1)
    assert "holds no row of steps 1 to 5, which are done" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["missing", "no_encoder", "corrupt", "truncated"])
def test_a_teacher_that_cannot_be_loaded(tiny_sdxl: Path, tmp_path: Path, damage: str) -> None:
    base = Path(shutil.copytree(tiny_sdxl / "base", tmp_path / "base"))
    weights = base / "text_encoder" / "model.safetensors"
    if damage == "missing":
        shutil.rmtree(base)
    elif damage == "no_encoder":
        shutil.rmtree(base / "text_encoder_2")
    else:
        weights.write_bytes(b"\xff" * 500 if damage == "corrupt" else weights.read_bytes()[:-100])
    with pytest.raises(DataError) as caught:
        load_text_encoders(base, SDXL)
    assert str(base) in str(caught.value) and "\n" not in str(caught.value)


def test_tokens_need_their_inputs_and_hold_every_row(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"initial_student: missing; run python -m vocab_init"):
        store.prepare(recipe(tmp_path), SDXL)
    for side in token_pairs.sides_of(SDXL):
        np.save(tmp_path / f"{side}_ids.npy", np.arange(5, dtype=np.uint16))
        np.save(tmp_path / f"{side}_offsets.npy", np.array([0, 2, 5]))
    np.save(tmp_path / "sources.npy", np.array([1, 0], np.uint16))
    artefact.seal(tmp_path, {}, {"sources": ["wmt", "laion"]})
    loaded = token_pairs.load(tmp_path, SDXL)
    assert loaded.source_N is not None and [
        loaded.source_names[index] for index in loaded.source_N
    ] == ["laion", "wmt"]
    assert (
        len(loaded) == 2
        and loaded.row("text", 1).tolist() == [2, 3, 4]
        and loaded.lengths("text", np.array([1, 0])).tolist() == [3, 2]
    )
