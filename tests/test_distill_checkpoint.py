"""Damaged checkpoints, stale tokens, teachers that are missing or broken: one clear line each, and nothing made is lost."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from configs import artefact, schema
from configs.errors import DataError, RecipeError
from configs.files import file_sha256
from distill import checkpoint, metrics_file, run_folder, tokens, train
from distill.teacher import load_text_encoders


def write_checkpoint(run: Path, name: str) -> Path:
    folder = run / "checkpoints" / name
    folder.mkdir(parents=True)
    (folder / "student.safetensors").write_bytes(b"weights")
    (folder / "manifest.json").write_text(json.dumps({"student.safetensors": file_sha256(folder / "student.safetensors")}))
    (run / "latest").write_text(name)
    return folder


def test_the_newest_checkpoint_is_read_only_when_it_is_whole(tmp_path: Path) -> None:
    assert checkpoint.latest(tmp_path) is None
    write_checkpoint(tmp_path, "step_000010")
    folder = write_checkpoint(tmp_path, "step_000020")
    assert checkpoint.latest(tmp_path) == folder
    (folder / "student.safetensors").write_bytes(b"weightz")  # one flipped bit
    with pytest.raises(DataError, match=r"student\.safetensors: missing or damaged.*name an older checkpoint"):
        checkpoint.latest(tmp_path)
    (folder / "manifest.json").unlink()
    with pytest.raises(DataError, match="not a whole checkpoint"):
        checkpoint.latest(tmp_path)
    (tmp_path / "latest").unlink()  # without it a run would silently start again at step 0
    with pytest.raises(DataError, match="latest: missing though there are checkpoints"):
        checkpoint.latest(tmp_path)


def recipe(tmp_path: Path, **distill: object) -> schema.Recipe:
    tree = {
        "name": "x",
        "run": str(tmp_path / "run"),
        "corpora": {"sources": [{"kind": "toyworld", "pairs": 10, "held_out_pairs": 2}], "language_id": {"model": "x"}},
        "vocab_init": {"tokenizer": "x", "sentence_encoder": "x"},
        "distill": {"base": "x", "objective": {"position": 1.0}, "steps": 200, "batch_size": 8, "learning_rate": 1e-3} | distill,
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree))
    return schema.load(path)


def test_a_run_belongs_to_one_recipe(tmp_path: Path) -> None:
    run_folder.claim_run(recipe(tmp_path), tmp_path / "run")
    run_folder.claim_run(recipe(tmp_path), tmp_path / "run")
    with pytest.raises(DataError, match=r"holds another recipe's run \(distill.seed was 0, is 7\)"):
        run_folder.claim_run(recipe(tmp_path, seed=7), tmp_path / "run")
    with pytest.raises(RecipeError, match="batch_size: 8 pairs cannot be shared by 3 processes"):
        train.check_batch(recipe(tmp_path).distill, 3)


def test_a_loss_that_is_no_number_stops_the_run() -> None:
    with pytest.raises(DataError, match=r"step 9: loss/total is nan; lower distill.learning_rate"):
        train.check_finite({"loss/total": float("nan")}, 9)


def test_the_learning_rate_warms_up_and_ends_at_zero(tmp_path: Path) -> None:
    settings = recipe(tmp_path, warmup_steps=10).distill
    rates = [train.learning_rate(step, settings) for step in range(200)]
    assert rates[9] == rates[10] == max(rates) == 1e-3 and rates[0] == 1e-4 and rates[-1] < 1e-6 and sorted(rates[10:], reverse=True) == rates[10:]


def test_a_metrics_line_cut_off_by_a_kill_is_left_out_and_any_other_damage_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert [row["step"] for row in metrics_file.read(path)] == [1, 2] and capsys.readouterr().err == ""
    path.write_bytes(b'{"step": 1}\n{"st\xffp": 2}\n[3]\n{"step": 4, "loss": "x"}\n{"step": 5}\n{"step": 6}\n')
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
        load_text_encoders(base)
    assert str(base) in str(caught.value) and "\n" not in str(caught.value)


def test_tokens_need_their_inputs_and_hold_every_row(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"initial_student: missing; run python -m vocab_init"):
        tokens.prepare(recipe(tmp_path))
    for side in tokens.SIDES:
        np.save(tmp_path / f"{side}_ids.npy", np.arange(5, dtype=np.uint16))
        np.save(tmp_path / f"{side}_offsets.npy", np.array([0, 2, 5]))
    np.save(tmp_path / "sources.npy", np.array([1, 0], np.uint16))
    artefact.seal(tmp_path, {}, {"sources": ["wmt", "laion"]})
    loaded = tokens.load(tmp_path)
    assert loaded.source_N is not None and [loaded.source_names[index] for index in loaded.source_N] == ["laion", "wmt"]
    assert len(loaded) == 2 and loaded.row("ja", 1).tolist() == [2, 3, 4] and loaded.lengths("ja", np.array([1, 0])).tolist() == [3, 2]
