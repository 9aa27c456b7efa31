"""The examples for several nodes, as far as one machine goes: two processes, a stand-in for Slurm,
DeepSpeed's own parser.

The stand-in signals what Slurm signals, the tasks it started and neither their children nor the
batch script (proctrack/cgroup).
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from launchers import ROOT, Training, prepare_run

from configs import command
from distill.train import __main__ as train_entry

LONG = "distill.steps=4000"  # so that no test waits for a training that has ended


@pytest.fixture
def start(tiny_sdxl: Path, tmp_path: Path) -> Iterator[Callable[..., Training]]:
    """Starts a training on one run folder, under the launcher that is named; ends what a failed
    test leaves.
    """
    prepare_run(tiny_sdxl, tmp_path)
    started: list[Training] = []

    def begin(launcher: str, *overrides: str, **variables: str) -> Training:
        started.append(Training(launcher, tiny_sdxl, tmp_path, *overrides, **variables))
        return started[-1]

    yield begin
    for one in started:
        one.kill()


def stopped_and_saved(training: Training, code: int) -> str:
    """Checks how a training ended that was stopped after its first checkpoint; what it said."""
    found, complaint = training.end(25)
    status = training.status()
    assert found == code, complaint[-3000:]
    assert (status["state"], status["exit_code"]) == (
        "saved_and_stopped",
        130 if code == 130 else 75,
    )
    latest = (training.run / "distill" / "latest").read_text(encoding="utf-8").strip()
    assert latest == f"step_{status['step']:06d}" and "which is saved" in str(status["message"])
    assert (
        sum(
            "run the same command to go on" in line
            for line in complaint.splitlines()
            if "distill.train: " in line
        )
        == 1
    )
    return complaint


def test_a_slurm_job_stops_on_the_signal_is_queued_again_and_resumes(
    start: Callable[..., Training], tmp_path: Path
) -> None:
    job = start("slurm.sbatch")
    job.wait_for("saved")
    tasks = [int(task) for task in (tmp_path / "tasks").read_text().split()]
    assert len(tasks) == 2
    for task in tasks:
        assert Path(f"/proc/{task}/cmdline").read_bytes().split(b"\0")[1:3] == [
            b"-m",
            b"distill.train",
        ], "a shell would die of it"
        os.kill(task, signal.SIGUSR1)
    stopped_and_saved(job, 75)
    assert (tmp_path / "requeued").read_text() == "4321\n"

    again = start("slurm.sbatch")
    assert again.end(120)[0] == 0
    assert again.status()["state"] == "finished" and again.status()["exit_code"] == 0
    assert (tmp_path / "requeued").read_text() == "4321\n", "a finished job is not queued again"


def test_a_slurm_job_that_fails_is_not_queued_again(
    start: Callable[..., Training], tmp_path: Path
) -> None:
    code, complaint = start("slurm.sbatch", "distill.step=1").end(60)
    assert code == 2 and "distill.step" in complaint and not (tmp_path / "requeued").exists()


@pytest.mark.parametrize(
    ("launcher", "number", "code"),
    [
        ("none", signal.SIGINT, 130),
        ("none", signal.SIGHUP, 75),
        ("torchrun.sh", signal.SIGUSR1, 75),
        # these launchers die of the signal themselves; their processes notice it, save and end
        ("torchrun", signal.SIGUSR1, -signal.SIGUSR1),
        ("deepspeed", signal.SIGTERM, -signal.SIGTERM),
    ],
)
def test_a_signal_to_what_was_started_saves_and_leaves_no_process(
    start: Callable[..., Training], launcher: str, number: signal.Signals, code: int
) -> None:
    training = start(launcher, LONG)
    training.wait_for("saved")
    training.process.send_signal(number)
    stopped_and_saved(training, code)


def test_a_signal_while_rank_0_prepares_ends_all(start: Callable[..., Training]) -> None:
    query_bank = (
        "distill.objective.cross_attention=1",
        "distill.query_bank.prompts=64",
        "distill.query_bank.inference_steps=500",
    )
    training = start("srun", *query_bank)
    training.wait_for("preparing")
    os.kill(training.workers()[1], signal.SIGTERM)  # the one that waits: it tells rank 0
    code, complaint = training.end(25)
    assert code == 75, complaint[-3000:]
    assert training.status()["state"] == "saved_and_stopped"
    assert sum("distill.train: stopped by SIGTERM" in line for line in complaint.splitlines()) == 1


@pytest.mark.parametrize("stopped_rank", [0, 1])
def test_a_process_that_hangs_ends_the_training_within_the_bound(
    start: Callable[..., Training], stopped_rank: int
) -> None:
    training = start("srun", LONG, "distill.hung_after_seconds=12")
    training.wait_for("saved")
    tasks = [int(task) for task in (training.run.parent / "tasks").read_text().split()]
    os.kill(tasks[stopped_rank], signal.SIGSTOP)
    _, complaint = training.end(12 * 1.1 + 3 + 5)
    lines = [line for line in complaint.splitlines() if "distill.train: rank" in line]
    assert (
        len(lines) == 1
        and f"rank {1 - stopped_rank} has been" in lines[0]
        and f"rank {stopped_rank}" in lines[0]
    ), complaint[-3000:]
    assert training.status()["state"] == "failed" and training.status()["exit_code"] == 4


def test_a_second_training_on_the_run_is_refused_in_one_line(
    start: Callable[..., Training],
) -> None:
    training = start("none", LONG, HOME="/dev/null")  # nor does it need a home folder to write to
    training.wait_for("training")
    code, complaint = start("srun", LONG).end(60)
    refusals = [line for line in complaint.splitlines() if "distill.train: " in line]
    assert code == 4 and len(refusals) == 1 and "is writing it" in refusals[0], complaint[-3000:]
    training.process.send_signal(signal.SIGTERM)
    stopped_and_saved(training, 75)


def test_a_stage_ends_on_a_signal_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def body() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except Exception as error:  # as libraries do
            raise AssertionError("taken for a failure") from error

    before = signal.getsignal(signal.SIGTERM)
    assert command.guard("corpora.prepare", body) == 75
    assert (
        capsys.readouterr().err
        == "corpora.prepare: stopped by SIGTERM; run the same command to go on\n"
    )
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_deferred_signal_is_noted_a_second_answered_a_third_ends_at_once() -> None:
    program = """if True:
        import os, signal, time
        from configs import command, signals
        signals.REPEATED_SECONDS = 0.1
        def body():
            signals.defer()
            for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
                os.kill(os.getpid(), number)
                time.sleep(0.3 if number != signal.SIGINT else 30)
                print(signals.requests.number, flush=True)
        command.guard("distill.train", body)
    """
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 75 and done.stdout.startswith("15\n15\n"), done.stderr
    second, third = done.stderr.splitlines()
    assert (
        "one more signal ends it at once" in second and "ended at once by a third signal" in third
    )


@pytest.mark.parametrize(
    ("flag", "code"),
    [("--local-rank=0", 2), ("--local_rank=1", 2), ("--local_rankx=1", 2), ("--local_ranks", 2)],
)
def test_the_launchers_own_flag_is_taken_and_no_other(
    flag: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    known = flag in ("--local-rank=0", "--local_rank=1")
    try:
        assert train_entry.main([flag, "configs/toyworld.yaml", "distill.nothing=1"]) == code
    except SystemExit as end:
        assert end.code == code and not known
    assert ("distill.nothing" in capsys.readouterr().err) == known


@pytest.mark.parametrize("script", ["slurm.sbatch", "torchrun.sh"])
def test_a_script_parses(script: str) -> None:
    subprocess.run(["bash", "-n", ROOT / "configs" / script], check=True)


def test_deepspeed_reads_the_hostfile() -> None:
    program = (
        "from deepspeed.launcher.runner import fetch_hostfile; "
        "print(dict(fetch_hostfile('configs/deepspeed.hostfile')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.splitlines()[-1] == "{'node-1': 8, 'node-2': 8}", done.stderr
