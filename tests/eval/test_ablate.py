"""eval.ablate: every combination once, in folders of its own, gone on with after a failure."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from eval import ablate, compare_runs

# Stands for every stage: notes what it is called with, "paints", and writes the summary; fails
# while the file `full` is there, waits while `slow` is.
STAGE = """
import json, pathlib, sys, time
overrides = dict(word.split("=", 1) for word in sys.argv[2:])
run = pathlib.Path(overrides["run"])
print("at work")
if (run / "full").exists():
    sys.exit("stage: the disk is full")
with (run / "calls.jsonl").open("a") as file:
    file.write(json.dumps([sys.argv[0].rpartition("/")[2], overrides["distill.seed"]]) + "\\n")
while (run / "slow").exists():
    time.sleep(0.01)
if "paint" in sys.argv[0]:
    picture = run / "eval" / "pictures" / "teacher" / "0000.png"
    picture.parent.mkdir(parents=True, exist_ok=True)
    if not picture.exists():
        picture.write_text(overrides["distill.seed"])
if "summary" in sys.argv[0]:
    (run / "summary.json").write_text("{}")
"""
NAMES = ("prepare", "train", "paint", "summary")


@pytest.fixture
def stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Replaces the stages by STAGE; returns the runs that are compared, a list a call."""
    for name in NAMES:
        (tmp_path / f"ablate_{name}.py").write_text(
            STAGE if name != "prepare" else "", encoding="utf-8"
        )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(ablate, "STAGES", tuple(f"ablate_{name}" for name in NAMES))
    monkeypatch.setattr(ablate, "PREPARE", "ablate_prepare")
    monkeypatch.setattr(ablate, "PAINT", "ablate_paint")
    compared: list[list[str]] = []
    monkeypatch.setattr(
        compare_runs, "compare", lambda runs, out: compared.append([run.name for run in runs])
    )
    return compared


def test_every_combination_is_run_once_and_a_failed_one_goes_on(
    stages: list[list[str]],
    finished_run: Callable[..., str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    call = [finished_run(), "distill.steps=300", "--vary", "distill.seed", "0", "1"]
    call += ["--vary", "distill.objective", "{position: 1}", "{position: 1, pooled: 0.5}"]
    folder = tmp_path / "run" / "ablation"
    names = [
        f"seed-{seed}_objective-{objective}"
        for seed in (0, 1)
        for objective in ("position-1", "position-1-pooled-0.5")
    ]
    (folder / names[2]).mkdir(parents=True)
    (folder / names[2] / "full").touch()
    assert ablate.main(call) == 4
    error = capsys.readouterr().err
    assert f"1 of 4 runs failed: {names[2]}: python -m ablate_train ended with 1: stage:" in error
    assert stages == [[names[0], names[1], names[3]]]  # the others are compared all the same
    (folder / names[2] / "full").unlink()
    assert ablate.main([*call, "--at-once", "2"]) == 0
    assert stages[1] == names
    for i, name in enumerate(names):
        calls = [
            json.loads(line)
            for line in (folder / name / "calls.jsonl").read_text(encoding="utf-8").splitlines()
        ]
        seed = str(i // 2)
        one = [["ablate_train.py", seed], ["ablate_paint.py", seed], ["ablate_summary.py", seed]]
        assert calls == one * (1 if i == 2 else 2)  # the real stages then find that all is done
        assert (folder / name / "pairs" / "manifest.json").samefile(
            tmp_path / "run" / "pairs" / "manifest.json"
        )
        # the first run's pictures of the teacher are everybody's
        painted = folder / name / "eval" / "pictures" / "teacher" / "0000.png"
        assert painted.read_text(encoding="utf-8") == "0"


def test_stopped_it_stops_its_stages(
    stages: list[list[str]], finished_run: Callable[..., str], tmp_path: Path
) -> None:
    """SIGTERM while the first run's stage is at work: it ends too, and no other begins."""
    folder = tmp_path / "run" / "ablation"
    for seed in (0, 1):
        (folder / f"seed-{seed}").mkdir(parents=True)
        (folder / f"seed-{seed}" / "slow").touch()
    begun = folder / "seed-0" / "calls.jsonl"

    def stop() -> None:
        while not begun.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop, daemon=True).start()
    assert ablate.main([finished_run(), "--vary", "distill.seed", "0", "1"]) == 75
    assert len(begun.read_text(encoding="utf-8").splitlines()) == 1
    assert not (folder / "seed-1" / "calls.jsonl").exists() and not stages


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--vary", "distill.stepz", "1"], "distill.stepz"),
        (["--vary", "distill.seed"], "give its values behind it"),
        (["--vary", "distill.seed", "1", "1"], "give each value once"),
        (["--vary", "distill.seed", "1", "--at-once", "0"], "--at-once: 0 is below 1"),
    ],
)
def test_a_mistake_is_one_line_before_any_work(
    words: list[str],
    said: str,
    stages: list[list[str]],
    finished_run: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert ablate.main([finished_run(), *words]) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.splitlines()) == 1 and not stages
