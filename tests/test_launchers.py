"""The examples for several nodes, as far as one machine goes: two processes, a stand-in for Slurm, DeepSpeed's own parser.

The stand-in signals what Slurm signals, the tasks it started and neither their children nor the batch script (proctrack/cgroup).
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import write_initial_student, write_pairs

from corpora.toyworld import captions

ROOT = Path(__file__).resolve().parent.parent
STEPS = 200
SETTINGS = (
    f"distill.steps={STEPS}",
    "distill.warmup_steps=2",
    "distill.batch_size=4",
    "distill.objective.cross_attention=0",  # no UNet to listen to first
    "distill.objective.position=1",
    "distill.save_every_steps=20",
    "distill.log_every_steps=5",
)
SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do shift; done
for ((task = 0; task < SLURM_NTASKS; task++)); do
    SLURM_PROCID=$task SLURM_LOCALID=$task "$@" &
    tasks+=($!)
done
echo "${tasks[@]}" > "$STATE/tasks.new" && mv "$STATE/tasks.new" "$STATE/tasks"
highest=0
for task in "${tasks[@]}"; do wait "$task"; code=$?; ((code > highest)) && highest=$code; done
exit "$highest"
"""
SCONTROL = """#!/bin/bash
case "$1" in
    show) echo 127.0.0.1; echo node-2 ;;
    requeue) echo "$2" >> "$STATE/requeued" ;;
esac
"""


@pytest.fixture
def start(tiny_sdxl: Path, tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Runs a script of configs/ on a tiny toyworld recipe, in a run folder of its own, as the environment of a node would."""
    write_pairs(tmp_path / "run" / "pairs", [(caption.ja, caption.en) for caption in captions.pairs(40, "train", 0)], "train")
    write_initial_student(tiny_sdxl / "base", tmp_path / "run" / "initial_student")
    python = f'#!/bin/bash\nexec "{sys.executable}" "$@"\n'
    torchrun = f'#!/bin/bash\nexec "{sys.executable}" -m torch.distributed.run "$@"\n'
    (tmp_path / "bin").mkdir()
    for name, text in {"srun": SRUN, "scontrol": SCONTROL, "python": python, "torchrun": torchrun}.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)

    def begin(script: str, *first: str, override: str = "distill.seed=0", **variables: str) -> subprocess.Popen[str]:
        path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
        environment = os.environ | {"PATH": path, "STATE": str(tmp_path), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"} | variables
        recipe = ["configs/toyworld.yaml", f"run={tmp_path / 'run'}", f"distill.base={tiny_sdxl}/base", f"distill.refiner={tiny_sdxl}/refiner"]
        words = ["bash", f"configs/{script}", *first, *recipe, *SETTINGS, override]
        return subprocess.Popen(words, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)

    return begin


def wait_for_checkpoint(run: Path, process: subprocess.Popen[str]) -> None:
    for _ in range(2400):
        if (run / "distill" / "latest").is_file():
            return
        assert process.poll() is None, process.communicate()[1][-3000:]
        time.sleep(0.05)
    raise AssertionError("no checkpoint within two minutes")


def finished(process: subprocess.Popen[str], run: Path) -> bool:
    """Whether the training ended as it must: by the steps in order, whatever came between."""
    _, complaint = process.communicate(timeout=300)
    rows = [json.loads(line) for line in (run / "distill" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["step"] for row in rows] == list(range(5, rows[-1]["step"] + 1, 5)), complaint[-3000:]
    assert (run / "distill" / "latest").read_text(encoding="utf-8") == f"step_{rows[-1]['step']:06d}", complaint[-3000:]
    return rows[-1]["step"] == STEPS


def test_a_slurm_job_stops_on_the_signal_is_queued_again_and_resumes(start: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    slurm = {"SLURM_JOB_ID": "4321", "SLURM_JOB_NODELIST": "node-[1-2]", "SLURM_NTASKS": "2", "SLURM_CPUS_PER_TASK": "1"}
    run = tmp_path / "run"
    job = start("slurm.sbatch", **slurm)
    wait_for_checkpoint(run, job)
    tasks = [int(task) for task in (tmp_path / "tasks").read_text().split()]
    assert len(tasks) == 2
    for task in tasks:
        assert Path(f"/proc/{task}/cmdline").read_bytes().split(b"\0")[1:3] == [b"-m", b"distill.train"], "a shell would die of the signal"
        os.kill(task, signal.SIGUSR1)
    assert not finished(job, run) and job.returncode == 75
    assert (tmp_path / "requeued").read_text() == "4321\n"

    again = start("slurm.sbatch", **slurm)
    assert finished(again, run) and again.returncode == 0
    assert (tmp_path / "requeued").read_text() == "4321\n", "a finished job is not queued again"


def test_a_slurm_job_that_fails_is_not_queued_again(start: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    slurm = {"SLURM_JOB_ID": "1", "SLURM_JOB_NODELIST": "node-1", "SLURM_NTASKS": "2", "SLURM_CPUS_PER_TASK": "1"}
    job = start("slurm.sbatch", override="distill.step=1", **slurm)
    _, complaint = job.communicate(timeout=60)
    assert job.returncode == 2 and "distill.step" in complaint and not (tmp_path / "requeued").exists()


def test_torchrun_hands_the_signal_on_and_waits(start: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    node = start("torchrun.sh", "1", "127.0.0.1", GPUS="2", PORT=port)
    wait_for_checkpoint(tmp_path / "run", node)
    node.send_signal(signal.SIGUSR1)
    assert not finished(node, tmp_path / "run") and node.returncode == 1


@pytest.mark.parametrize("script", ["slurm.sbatch", "torchrun.sh"])
def test_a_script_parses(script: str) -> None:
    subprocess.run(["bash", "-n", ROOT / "configs" / script], check=True)


def test_deepspeed_reads_the_hostfile() -> None:
    program = "from deepspeed.launcher.runner import fetch_hostfile; print(dict(fetch_hostfile('configs/deepspeed.hostfile')))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines()[-1] == "{'node-1': 8, 'node-2': 8}", done.stderr
