"""SIGTERM, SIGUSR1, SIGHUP and SIGINT at five moments of a training under four launchers, and a
worker that hangs.

All processes must have ended EXIT_SECONDS after the signal, with the right exit code and
`status.json`; the same command then finishes with the bytes of an undisturbed run. Signals are sent
as in practice: Ctrl-C and a hang-up to the terminal's whole process group, Slurm's to the tasks it
started, all others to the launcher only.
"""

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from configs.schema.distill import Distill
from tests.faults import compare, processes, world
from tests.faults.case import Case, Outcome, failed, passed
from tests.faults.client import ROOT, Slot, environment
from tests.faults.world import World
from tests.slurm_commands import SCONTROL, SRUN

EXIT_SECONDS = 25.0
WAIT_SECONDS = 300.0  # for the moment to come
HUNG_SETTING, HUNG_SECONDS, HUNG_SPARE = "hung_after_seconds", 10.0, 30.0
MOMENTS = ("preparing", "first-step", "middle", "saving", "end")
SIGNALS = {
    "TERM": signal.SIGTERM,
    "USR1": signal.SIGUSR1,
    "HUP": signal.SIGHUP,
    "INT": signal.SIGINT,
}
LAUNCHERS = ("none", "torchrun", "deepspeed", "srun")


def cases(made: World, slot: Slot, asked: argparse.Namespace) -> list[Case]:
    result = [
        Case(f"signals/{launcher}-{name}/{moment}", partial(stop, made, launcher, name, moment))
        for launcher in LAUNCHERS
        for name in SIGNALS
        for moment in MOMENTS
    ]
    return [
        *result,
        *(Case(f"signals/hung-worker/rank-{rank}", partial(hang, made, rank)) for rank in (0, 1)),
    ]


def stop(
    made: World, launcher: str, name: str, moment: str, folder: Path, rng: random.Random, slot: Slot
) -> Outcome:
    made.copy("prepared", folder, slot)
    canary = f"FAULTS_CASE={folder}"
    process = start(launcher, folder, slot)
    try:
        if not wait_for(moment, folder / "run", process):
            return failed("no such moment", f"ended with {process.poll()} before: {tail(folder)}")
        send(launcher, name, process, folder)
        sent = time.monotonic()
        left = processes.gone(canary, EXIT_SECONDS)
        seconds = time.monotonic() - sent
        if left:
            return failed(
                "still running",
                f"{len(left)} processes {seconds:.0f} s after the signal: "
                f"{'; '.join(left.values())[:300]}",
            )
        if problem := _code(launcher, name, process.wait()) or _status(folder / "run", name):
            return failed("wrong exit", f"{problem}; {tail(folder)}")
    finally:
        processes.end(canary)
        process.wait()
    count = 1 if launcher == "none" else 2
    ended = slot.run(world.TRAIN, folder, *world.LONG, processes=count)
    if ended.code:
        return failed("not continued", f"exit {ended.code}: {ended.text[-300:]}")
    reference = made.state("long" if count == 1 else "long_pair", slot) / "run"
    differs = compare.difference(
        *(compare.made_by(compare.results(run), "distill/") for run in (folder / "run", reference))
    )
    return failed("other results", differs) if differs else passed("stopped, continued bit-equal")


def hang(made: World, rank: int, folder: Path, rng: random.Random, slot: Slot) -> Outcome:
    """One of two workers is stopped (SIGSTOP): everything must end within the setting's bound."""
    if HUNG_SETTING not in Distill.model_fields:
        return failed("no bound", f"the recipe has no distill.{HUNG_SETTING}")
    made.copy("prepared", folder, slot)
    canary = f"FAULTS_CASE={folder}"
    process = start("torchrun", folder, slot, f"distill.{HUNG_SETTING}={HUNG_SECONDS}")
    try:
        if not wait_for("first-step", folder / "run", process):
            return failed("no such moment", tail(folder))
        workers = {
            pid: line
            for pid, line in processes.alive(canary).items()
            if "distill.train" in line and "torch.distributed" not in line
        }
        victim = next(
            pid
            for pid in workers
            if f"\0RANK={rank}\0".encode()
            in b"\0" + Path(f"/proc/{pid}/environ").read_bytes() + b"\0"
        )
        os.kill(victim, signal.SIGSTOP)
        left = processes.gone(canary, HUNG_SECONDS + HUNG_SPARE)
        if left:
            return failed(
                "still running",
                f"{len(left)} processes {HUNG_SECONDS + HUNG_SPARE:.0f} s after a worker hung; "
                f"{tail(folder)}",
            )
    finally:
        processes.end(canary)
        process.wait()
    ended = slot.run(
        world.TRAIN, folder, *world.LONG, f"distill.{HUNG_SETTING}={HUNG_SECONDS}", processes=2
    )
    return (
        failed("not continued", f"exit {ended.code}: {ended.text[-300:]}")
        if ended.code
        else passed("ended in time, continued")
    )


def start(launcher: str, folder: Path, slot: Slot, *more: str) -> "subprocess.Popen[bytes]":
    recipe = ["recipe.yaml", *world.LONG, *more]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = environment(slot.canary) | {"FAULTS_CASE": str(folder), "PYTHONUNBUFFERED": "1"}
    words = {
        "none": [sys.executable, "-m", "distill.train"],
        "torchrun": [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            "2",
            "-m",
            "distill.train",
        ],
        "deepspeed": [
            str(Path(sys.executable).with_name("deepspeed")),
            "--num_gpus",
            "2",
            "--master_port",
            str(port),
            "--module",
            "distill.train",
        ],
        "srun": ["bash", str(ROOT / "configs" / "slurm.sbatch")],
    }[launcher]
    if launcher == "srun":
        settings |= {
            "SLURM_JOB_ID": str(port),
            "SLURM_JOB_NODELIST": "node",
            "SLURM_NTASKS": "2",
            "SLURM_CPUS_PER_TASK": "1",
            "STATE": str(folder),
        }
        settings["PATH"] = f"{_stand_ins(folder)}:{settings['PATH']}"
    with open(folder / "log_launcher.txt", "wb") as log:
        return subprocess.Popen(
            [*words, *recipe],
            cwd=folder,
            env=settings,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _stand_ins(folder: Path) -> Path:
    (folder / "bin").mkdir()
    for name, text in {
        "srun": SRUN,
        "scontrol": SCONTROL,
        "python": f'#!/bin/bash\nexec "{sys.executable}" "$@"\n',
    }.items():
        path = folder / "bin" / name
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755)
    return folder / "bin"


def wait_for(moment: str, run: Path, process: "subprocess.Popen[bytes]") -> bool:
    limit = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < limit:
        if _reached(moment, run / "distill"):
            return True
        if process.poll() is not None:
            return False
        time.sleep(0.005)
    return False


def _reached(moment: str, run: Path) -> bool:
    if moment == "preparing":
        return (run / "status.json").is_file()
    if moment == "saving":
        return any((run / "checkpoints").glob("*step*")) or any(
            (run / "checkpoints").glob(".*step*")
        )
    metrics = run / "metrics.jsonl"
    rows = metrics.read_bytes().count(b"\n") if metrics.is_file() else 0
    return (
        rows
        >= {"first-step": 1, "middle": world.LONG_STEPS // 2, "end": world.LONG_STEPS - 3}[moment]
    )


def send(launcher: str, name: str, process: "subprocess.Popen[bytes]", folder: Path) -> None:
    number = SIGNALS[name]
    if launcher == "srun":
        for task in (folder / "tasks").read_text(encoding="utf-8").split():
            os.kill(int(task), number)
    elif name in ("INT", "HUP"):
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)


def _code(launcher: str, name: str, code: int) -> str:
    """What is wrong with the exit code; launchers return 1, or die of the signal, whatever their
    workers return.
    """
    if launcher in ("torchrun", "deepspeed"):
        return ""
    expected = (130, 0) if name == "INT" else (75, 0)
    return "" if code in expected else f"exit code {code} where {expected[0]} was due"


def _status(run: Path, name: str) -> str:
    path = run / "distill" / "status.json"
    try:
        status = json.loads(path.read_text(encoding="utf-8"))
        found = (status["state"], status["exit_code"])
    except (OSError, ValueError, KeyError) as error:
        return f"status.json: {type(error).__name__} {error}"
    stopped = {("saved_and_stopped", 130 if name == "INT" else 75), ("finished", 0)}
    return "" if found in stopped else f"status.json says {found}"


def tail(folder: Path) -> str:
    text = (folder / "log_launcher.txt").read_text(encoding="utf-8", errors="replace").strip()
    return text.replace("\r", "\n").splitlines()[-1][:300] if text else ""
