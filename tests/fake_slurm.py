"""A Slurm of one machine: sbatch, srun, squeue and scontrol as far as arrays of jobs need them.

Out: `install` puts the commands into a folder for PATH. Each array element is a process of its own
     session, as many at once as `%` allows, and a line of the queue (a file) until it ends; arrays
     wait for those they depend on. `state/submitted` has a line an array.
"""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

COMMANDS = ("sbatch", "srun", "squeue", "scontrol")


def install(folder: Path, state: Path) -> Path:
    """The folder for PATH."""
    (state / "queue").mkdir(parents=True)
    folder.mkdir()
    for command in COMMANDS:
        (folder / command).write_text(
            f'#!/bin/sh\nSTATE="{state}" exec "{sys.executable}" -S -E "{__file__}" {command} '
            '"$@"\n'
        )
        (folder / command).chmod(0o755)
    return folder


def kill_jobs(state: Path) -> None:
    """Ends every array and its elements."""
    for line in (state / "pids").read_text().split() if (state / "pids").exists() else []:
        try:
            os.killpg(int(line), 9)
        except ProcessLookupError:
            continue


def sbatch(state: Path, arguments: list[str]) -> None:
    script = Path(arguments.pop())
    text = script.read_text()
    assert "SLURM_MEM_PER_NODE" not in os.environ, "srun would refuse --mem-per-cpu beside it"
    given = dict(one.removeprefix("--").partition("=")[::2] for one in arguments)
    directives = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(.*))?$", text, re.M))
    if directives["partition"] == "nowhere":
        sys.exit("sbatch: error: invalid partition specified: nowhere")
    with open(state / "submitted", "a") as file:
        print(directives["job-name"], directives["array"], file=file)
    job = len((state / "submitted").read_text().splitlines())
    (state / f"{job}.sh").write_text(text)
    last, _, at_once = directives["array"].removeprefix("0-").partition("%")
    elements = list(range(int(last) + 1))
    for element in elements:
        (state / "queue" / f"{job}_{element}").write_text(directives["job-name"])
    print("Submitted batch job", job, flush=True)
    if os.fork():
        return
    os.setsid()
    with open(state / "pids", "a") as file:
        print(os.getpid(), file=file)
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)  # whoever called sbatch reads to the end of its output
    variables = dict(one.split("=") for one in given["export"].split(",")[1:])
    run_array(
        state,
        job,
        elements,
        int(at_once or len(elements)),
        directives["output"].strip("'"),
        variables,
        given.get("dependency"),
    )


def run_array(
    state: Path,
    job: int,
    elements: list[int],
    at_once: int,
    output: str,
    variables: dict[str, str],
    dependency: str | None,
) -> None:
    while dependency and list((state / "queue").glob(f"{dependency.removeprefix('afterany:')}_*")):
        time.sleep(0.02)
    running: dict[int, subprocess.Popen[bytes]] = {}
    while elements or running:
        while elements and len(running) < at_once:
            element = elements.pop(0)
            slurm = {
                "SLURM_ARRAY_TASK_ID": str(element),
                "SLURM_JOB_ID": str(job),
                "SLURM_NODELIST": "node-1",
            }
            with open(output.replace("%A", str(job)).replace("%a", str(element)), "wb") as log:
                command = ["bash", str(state / f"{job}.sh")]
                running[element] = subprocess.Popen(
                    command, stdout=log, stderr=log, env=os.environ | variables | slurm
                )
        for element, process in list(running.items()):
            if process.poll() is not None:
                (state / "queue" / f"{job}_{element}").unlink()
                del running[element]
        time.sleep(0.02)


def srun(state: Path, arguments: list[str]) -> None:
    while arguments[0].startswith("--"):
        arguments.pop(0)
    os.execvp(arguments[0], arguments)


def squeue(state: Path, arguments: list[str]) -> None:
    (name,) = (one.removeprefix("--name=") for one in arguments if one.startswith("--name="))
    for path in (state / "queue").iterdir():
        if path.read_text() == name:
            print("RUNNING")


def scontrol(state: Path, arguments: list[str]) -> None:
    assert arguments[:2] == ["show", "hostnames"]
    print(arguments[2])


if __name__ == "__main__":
    called = {"sbatch": sbatch, "srun": srun, "squeue": squeue, "scontrol": scontrol}[sys.argv[1]]
    called(Path(os.environ["STATE"]), sys.argv[2:])
