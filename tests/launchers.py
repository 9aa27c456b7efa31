"""Trainings on a tiny toyworld recipe under each launcher, for tests that stop, kill or hang them.

`Training` starts one in a run folder of its own and knows its processes; `LAUNCHERS` are the ways
to start it.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from conftest import write_initial_student, write_pairs
from slurm_commands import SCONTROL, SRUN

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
SLURM = {
    "SLURM_JOB_ID": "4321",
    "SLURM_JOB_NODELIST": "node-[1-2]",
    "SLURM_NTASKS": "2",
    "SLURM_CPUS_PER_TASK": "1",
    "MASTER_ADDR": "127.0.0.1",
}
LAUNCHERS = ("none", "torchrun", "deepspeed", "srun", "slurm.sbatch", "torchrun.sh")


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def prepare_run(tiny_sdxl: Path, folder: Path) -> None:
    """The pairs and the initial student of `folder/run`, and the commands of a node in
    `folder/bin`.
    """
    write_pairs(
        folder / "run" / "pairs",
        [(caption.text, caption.en) for caption in captions.pairs(40, "train", 0)],
        "train",
    )
    write_initial_student(tiny_sdxl / "base", folder / "run" / "initial_student")
    python = f'#!/bin/bash\nexec "{sys.executable}" "$@"\n'
    torchrun = f'#!/bin/bash\nexec "{sys.executable}" -m torch.distributed.run "$@"\n'
    (folder / "bin").mkdir()
    for name, text in {
        "srun": SRUN,
        "scontrol": SCONTROL,
        "python": python,
        "torchrun": torchrun,
    }.items():
        (folder / "bin" / name).write_text(text)
        (folder / "bin" / name).chmod(0o755)


class Training:
    """One start of a training, two processes except under `none`; `process` is what the user
    started.
    """

    def __init__(
        self, launcher: str, tiny_sdxl: Path, folder: Path, *overrides: str, **variables: str
    ) -> None:
        self.run = folder / "run"
        recipe = [
            "configs/toyworld.yaml",
            f"run={self.run}",
            f"distill.base={tiny_sdxl}/base",
            f"distill.refiner={tiny_sdxl}/refiner",
        ]
        arguments = [*recipe, *SETTINGS, *overrides]
        # in the environment of every process of this start
        self.mark = f"DISTILL_TEST={folder}.{time.monotonic_ns()}"
        environment = os.environ | {
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            "STATE": str(folder),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "DS_ACCELERATOR": "cpu",
            "PORT": free_port(),
            "GPUS": "2",
        }
        environment |= dict([self.mark.split("=", 1)]) | variables
        if "srun" in launcher or "slurm" in launcher:
            environment |= SLURM | {"MASTER_PORT": free_port()} | variables
        words = [*_command(launcher), *arguments]
        self.process = subprocess.Popen(
            words,
            cwd=ROOT,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # under nohup a child would ignore it too
            preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
        )

    def members(self) -> dict[int, str]:
        """Every process of this start that is alive, by number: its command line."""
        found = {}
        for folder in Path("/proc").iterdir():
            try:
                if folder.name.isdigit() and self.mark.encode() in (
                    folder / "environ"
                ).read_bytes().split(b"\0"):
                    found[int(folder.name)] = (
                        (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                    )
            except OSError:
                continue
        return found

    def workers(self) -> list[int]:
        """The training processes themselves, oldest first."""
        launching = ("torch.distributed.run", "torchrun", "deepspeed", "srun", "bash")
        return sorted(
            pid
            for pid, words in self.members().items()
            if "distill.train" in words and not any(name in words for name in launching)
        )

    def wait_for(self, state: str, seconds: float = 120.0) -> None:
        """Waits until status.json says so, or, for "saved", until there is a checkpoint."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if (
                (self.run / "distill" / "latest").is_file()
                if state == "saved"
                else self.status().get("state") == state
            ):
                return
            assert self.process.poll() is None, self.process.communicate()[1][-3000:]
            time.sleep(0.05)
        self.kill()
        raise AssertionError(f"not {state} within {seconds} s")

    def kill(self) -> None:
        for pid in self.members():
            os.kill(pid, signal.SIGKILL)

    def status(self) -> dict[str, object]:
        path = self.run / "distill" / "status.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    def end(self, seconds: float) -> tuple[int, str]:
        """Waits for the end of every process; the exit code of what was started, and its stderr.

        Kills those that stay.
        """
        deadline = time.monotonic() + seconds
        left = self.members()
        # While a process starts another program its environment cannot be read: what was started is
        # asked by itself.
        while (left or self.process.poll() is None) and time.monotonic() < deadline:
            time.sleep(0.1)
            left = self.members()
        self.kill()
        complaint = self.process.communicate(timeout=20)[1]
        assert not left, f"still there after {seconds} s: {left}\n{complaint[-3000:]}"
        return self.process.returncode, complaint


def _command(launcher: str) -> list[str]:
    if launcher == "none":
        return [sys.executable, "-m", "distill.train"]
    if launcher == "torchrun":
        return [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc_per_node",
            "2",
            "-m",
            "distill.train",
        ]
    if launcher == "deepspeed":
        return [
            sys.executable,
            "-m",
            "deepspeed.launcher.runner",
            "--num_gpus",
            "2",
            "--master_port",
            free_port(),
            "--module",
            "distill.train",
        ]
    if launcher == "srun":
        task = (
            "RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS exec python "
            '-m distill.train "$@"'
        )
        return ["srun", "bash", "-c", task, "task"]
    return [
        "bash",
        f"configs/{launcher}",
        *(["1", "127.0.0.1"] if launcher == "torchrun.sh" else []),
    ]
