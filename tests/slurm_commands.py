"""Stand-ins for Slurm's `srun` and `scontrol` on one machine, as texts of scripts.

They write below $STATE: `tasks`, the numbers of the processes that srun started; `requeued`, the
jobs queued again.
"""

import sys

# Slurm starts its tasks with every signal's default, and hands what srun receives on to the tasks,
# not to their children.
SRUN = f"""#!{sys.executable}
import os, signal, subprocess, sys, time
words = sys.argv[1:]
while words[0].startswith("--"):
    words.pop(0)
sent = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGINT)
tasks = []
for number in sent:
    signal.signal(number, lambda number, _: [task.send_signal(number) for task in tasks])
for task in range(int(os.environ["SLURM_NTASKS"])):
    named = dict(os.environ, SLURM_PROCID=str(task), SLURM_LOCALID=str(task))
    tasks.append(subprocess.Popen(words, env=named))
path = os.path.join(os.environ["STATE"], "tasks")
with open(path + ".new", "w") as file:
    file.write(" ".join(str(task.pid) for task in tasks))
os.rename(path + ".new", path)
first_end = None
while any(task.poll() is None for task in tasks):
    time.sleep(0.05)
    if first_end is None and any(task.poll() is not None for task in tasks):
        first_end = time.monotonic()
    if first_end is not None and time.monotonic() - first_end > 60:  # --wait=60
        [task.kill() for task in tasks]
sys.exit(max(128 - task.returncode if task.returncode < 0 else task.returncode for task in tasks))
"""
SCONTROL = """#!/bin/bash
case "$1" in
    show) echo 127.0.0.1; echo node-2 ;;
    requeue) echo "$2" >> "$STATE/requeued" ;;
esac
"""
