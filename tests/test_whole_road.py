"""The whole road once on a smaller setting, through the commands a user types: killed halfway,
resumed, exported, painted, summed up.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parent.parent
ROAD_AFTER_TRAINING = (
    "distill.export",
    "eval.compare_hidden_states",
    "eval.generate",
    "eval.summary",
)
SMALL = (
    "corpora.sources.0.pairs=300",
    "corpora.sources.0.held_out_pairs=40",
    "distill.steps=24",
    "distill.warmup_steps=2",
    "distill.batch_size=8",
    "distill.save_every_steps=4",
    "distill.log_every_steps=1",
    "distill.query_bank.prompts=4",
    "distill.query_bank.inference_steps=4",
    "distill.query_bank.queries_per_layer=64",
    "distill.query_bank.queries_per_step=16",
    "eval.pairs=32",
    "eval.timesteps=2",
    "eval.gap_pairs=4",
    "eval.prompts=4",
    "eval.inference_steps=5",
)


def command(
    module: str,
    run: Path,
    *more: str,
    launcher: tuple[str, ...] = ("-m",),
    recipe: str = "toyworld",
) -> list[str]:
    settings = (f"configs/{recipe}.yaml", f"run={run}", *SMALL, *more)
    return [sys.executable, *launcher, module, *settings]


def go(words: list[str]) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        words, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done


def environment() -> dict[str, str]:
    """Offline, as CI is; one thread a process, so that two processes share two cores."""
    return os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default"}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with pairs and initial student: what every training here starts from."""
    run = tmp_path_factory.mktemp("road") / "run"
    for stage in ("corpora.prepare", "vocab_init"):
        go(command(stage, run))
    return run


def copy_of(prepared: Path, name: str) -> Path:
    return Path(shutil.copytree(prepared, prepared.with_name(name)))


def metrics(run: Path) -> list[dict[str, float]]:
    return [
        json.loads(line)
        for line in (run / "distill" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    ]


def wait_for_checkpoint(run: Path, process: subprocess.Popen[bytes], name: str) -> None:
    latest = run / "distill" / "latest"
    for _ in range(6000):
        if latest.is_file() and latest.read_text(encoding="utf-8") >= name:
            return
        assert process.poll() is None, "the training ended before it could be killed"
        time.sleep(0.05)
    raise AssertionError(f"no checkpoint {name} within five minutes")


def test_the_whole_road_killed_halfway_and_resumed(prepared: Path) -> None:
    undisturbed, killed = copy_of(prepared, "undisturbed"), copy_of(prepared, "killed")
    go(command("distill.train", undisturbed))
    process = subprocess.Popen(
        command("distill.train", killed),
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_for_checkpoint(killed, process, "step_000004")
    process.kill()
    process.wait()
    made = metrics(killed)[-1]["step"]
    assert made < 24
    go(command("distill.train", killed))

    assert [row["step"] for row in metrics(killed)] == list(range(1, 25))
    assert [row["loss/total"] for row in metrics(killed)] == [
        row["loss/total"] for row in metrics(undisturbed)
    ]
    first, second = (
        load_file(run / "distill" / "checkpoints" / "step_000024" / "student.safetensors")
        for run in (undisturbed, killed)
    )
    assert first.keys() == second.keys() and all(first[name].equal(second[name]) for name in first)
    learnt = [row["loss/cross_attention"] for row in metrics(killed)]
    assert sum(learnt[-8:]) < 0.8 * sum(learnt[:8])  # each step draws other layers: only means tell

    for stage in ROAD_AFTER_TRAINING:
        last = go(command(stage, killed))
    summary = json.loads((killed / "summary.json").read_text(encoding="utf-8"))
    assert set(summary["scene_accuracy"]) == {
        "teacher",
        "student",
        "student_english",
        "teacher_untranslated",
    }
    assert 0 < summary["noise_gap"] < 2 and summary["seconds"]["total"] > 0
    assert (killed / "eval" / "report.html").is_file() and (killed / "eval" / "grid.png").is_file()
    assert "report.html" in last.stdout and "grid.png" in last.stdout
    before = {path: path.stat().st_mtime_ns for path in killed.rglob("*.safetensors")}
    for stage in ("corpora.prepare", "vocab_init", "distill.train", "distill.export"):
        go(command(stage, killed))  # all finished: nothing is done twice
    assert {path: path.stat().st_mtime_ns for path in killed.rglob("*.safetensors")} == before

    changed = subprocess.run(
        command("distill.train", killed, "distill.learning_rate=0.5"),
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert (
        changed.returncode == 3
        and "distill.learning_rate was 0.003, is 0.5" in changed.stderr
        and "Traceback" not in changed.stderr
    )


def test_the_road_in_another_world_and_another_mother_tongue(tmp_path: Path) -> None:
    """Korean in emojiworld: the shipped teacher paints, and its things are counted by how often
    pairs speak of them.
    """
    stages = ("corpora.prepare", "vocab_init", "distill.train", *ROAD_AFTER_TRAINING)
    for stage in stages:
        last = go(
            command(
                stage,
                tmp_path,
                "eval.prompts=20",
                "eval.inference_steps=20",
                recipe="emojiworld_ko",
            )
        )
    assert "Korean" in last.stdout
    pictures = json.loads((tmp_path / "eval" / "pictures.json").read_text(encoding="utf-8"))
    assert pictures["rows"].keys() >= {"teacher", "student"}
    for row, numbers in pictures["rows"].items():
        found = numbers["things_by_frequency"]
        assert "unseen" in found and len(found) > 1, row
        right, total = (sum(part[which] for part in found.values()) for which in ("right", "total"))
        assert total > 30 and (row != "teacher" or right > 0.5 * total), row
    assert (tmp_path / "eval" / "report.html").is_file()


def test_a_signal_saves_first_and_says_how_to_go_on(prepared: Path) -> None:
    run = copy_of(prepared, "stopped")
    process = subprocess.Popen(
        command("distill.train", run, "distill.steps=400"),
        cwd=ROOT,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for_checkpoint(run, process, "step_000004")  # type: ignore[arg-type]
    process.send_signal(signal.SIGTERM)
    _, complaint = process.communicate(timeout=300)
    assert (
        process.returncode == 75
        and "run the same command to go on" in complaint.strip().splitlines()[-1]
    )
    assert metrics(run)[-1]["step"] == int(
        (run / "distill" / "latest").read_text(encoding="utf-8").removeprefix("step_")
    )


def test_two_processes_and_micro_batches_train_the_same_student(prepared: Path) -> None:
    """One process; two under torchrun; one in micro-batches: the same losses to 1e-5, step by step.

    In bf16: nearly.
    """
    runs = {name: copy_of(prepared, name) for name in ("alone", "torchrun", "micro", "bf16")}
    short = "distill.steps=6"
    go(command("distill.train", runs["alone"], short))
    go(command("distill.train", runs["micro"], short, "distill.tokens_per_micro_batch=160"))
    go(
        command(
            "distill.train",
            runs["torchrun"],
            short,
            launcher=("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m"),
        )
    )
    go(command("distill.train", runs["bf16"], short, "distill.precision=bf16"))
    expected = [row["loss/total"] for row in metrics(runs["alone"])]
    assert len(expected) == 6
    for name in ("torchrun", "micro"):
        assert [row["loss/total"] for row in metrics(runs[name])] == pytest.approx(
            expected, rel=1e-5
        ), name
    assert [row["loss/total"] for row in metrics(runs["bf16"])] == pytest.approx(expected, rel=0.1)
    masters = load_file(
        runs["bf16"] / "distill" / "checkpoints" / "step_000006" / "student.safetensors"
    )
    name = "clip_l.text_model.encoder.layers.0.mlp.fc1.weight"
    assert masters[name].dtype == torch.float32 and not masters[name].equal(
        masters[name].bfloat16().float()
    )
