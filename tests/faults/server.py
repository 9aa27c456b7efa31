"""A process that has imported everything and forks a child for each command: imports take longer
than the tiny runs.

In:  one JSON request per line on standard input (`client.Command`).
Out: one answer per line: the exit codes of the run's processes, whether it was killed or ran out of
     time, its seconds.
It ends when its input ends; its children end with it.
"""

import contextlib
import ctypes
import glob
import importlib
import json
import os
import resource
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

PRELOADED = (
    "corpora.pipeline",
    "corpora.filters.sentence_encoder",
    "datatrove",
    "deepspeed",
    "diffusers",
    "distill.checkpoints.checkpoint",
    "distill.train.log",
    "distill.model_card",
    "distill.export.pipeline_folder",
    "distill.sdxl.pipelines",
    "distill.train.preparation",
    "distill.verify.readings",
    "distill.verify",
    "eval.compare_hidden_states",
    "eval.generate",
    "eval.pictures.agreement",
    "eval.pictures.painting",
    "finetune.export.exporting",
    "finetune.pictures.pipeline",
    "finetune.train.training",
    "sentence_transformers",
    "torch.utils.tensorboard",
    "vocab_init.transplant",
)
GRACE_SECONDS = 25.0  # that a launcher gives the other processes when one has died
PR_SET_PDEATHSIG = 1
PARENT = os.getppid()


def main() -> int:
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for name in PRELOADED:
        with contextlib.suppress(ImportError):  # another version of the project may have moved it
            importlib.import_module(name)
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(supervise(json.loads(line))), file=answers, flush=True)
    return 0


def supervise(request: dict[str, Any]) -> dict[str, Any]:
    """Starts the processes of one run, kills them when it is time, and waits until all have
    ended.
    """
    started = time.monotonic()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    children = [_start(request, rank, port) for rank in range(request["processes"])]
    codes: dict[int, int] = {}
    killed = timed_out = False
    dead_since: float | None = None
    while len(codes) < len(children):
        for child in [child for child in children if child not in codes]:
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid:
                codes[child] = os.waitstatus_to_exitcode(status)
        seconds = time.monotonic() - started
        if not killed and _is_time(request, seconds):
            killed = True
            _signal(
                [
                    children[victim]
                    for victim in request["victims"]
                    if children[victim] not in codes
                ],
                signal.SIGKILL,
            )
        if dead_since is None and any(code != 0 for code in codes.values()):
            dead_since = seconds  # what a launcher does: the others are asked to end, then killed
            _signal([child for child in children if child not in codes], signal.SIGTERM)
        if (
            seconds > request["limit"]
            or (dead_since is not None and seconds > dead_since + GRACE_SECONDS)
            or os.getppid() != PARENT
        ):
            timed_out = timed_out or seconds > request["limit"]
            _signal([child for child in children if child not in codes], signal.SIGKILL)
        time.sleep(0.003)
    for child in children:
        with contextlib.suppress(OSError):
            os.killpg(child, signal.SIGKILL)  # its workers
    return {
        "codes": [codes[child] for child in children],
        "killed": killed,
        "timed_out": timed_out,
        "seconds": time.monotonic() - started,
    }


def _is_time(request: dict[str, Any], seconds: float) -> bool:
    if request["kill_when"] is not None:
        return bool(glob.glob(request["kill_when"], include_hidden=True))
    return request["kill_after"] is not None and seconds > request["kill_after"]


def _signal(children: list[int], number: int) -> None:
    for child in children:
        with contextlib.suppress(OSError):
            os.kill(child, number)


def _start(request: dict[str, Any], rank: int, port: int) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        _be(request, rank, port)
        code = _run(request, rank)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        os._exit(code)


def _be(request: dict[str, Any], rank: int, port: int) -> None:
    """Makes this child what a freshly started process of the run would be."""
    os.setsid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(
            number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        )
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(request["folder"])
    sys.argv = [request["entry"], *request["arguments"]]
    if request["processes"] > 1:
        place = {
            "RANK": rank,
            "LOCAL_RANK": rank,
            "WORLD_SIZE": request["processes"],
            "LOCAL_WORLD_SIZE": request["processes"],
        }
        os.environ.update(
            {name: str(value) for name, value in place.items()}
            | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        )
    if request["file_bytes"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_bytes"], request["file_bytes"]))
    if request["memory_bytes"] is not None:
        resource.setrlimit(resource.RLIMIT_AS, (request["memory_bytes"], request["memory_bytes"]))
    for name, value in request["patches"].items():
        module, _, attribute = name.partition(":")
        setattr(importlib.import_module(module), attribute, value)


def entry_point(name: str) -> Callable[[list[str]], int]:
    """`main` of what `python -m NAME` runs: a module, or a package's `__main__`."""
    module = importlib.import_module(name)
    if hasattr(module, "__path__"):
        module = importlib.import_module(f"{name}.__main__")
    main: Callable[[list[str]], int] = module.main
    return main


def _run(request: dict[str, Any], rank: int) -> int:
    from tests.faults.hook import Hook

    entry = entry_point(request["entry"])
    if request["hook"] is None or rank:
        return int(entry(request["arguments"]))
    hook = Hook(Path(request["folder"], "run"), **request["hook"])
    hook.install()
    code = int(entry(request["arguments"]))
    hook.write(Path(request["log"] + ".operations"))
    return code


if __name__ == "__main__":
    raise SystemExit(main())
