"""Runs functions in groups of processes, one group after the other, forked from one process that
has the libraries at hand.

DeepSpeed starts once a process, and importing it takes longer than what most tests do with it.
"""

import gc
import importlib
import json
import os
import socket
import subprocess
import sys
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
IMPORTED_LATE = [
    "deepspeed",
    "deepspeed.runtime.zero.muon.muon_optimizer",
    "torch._dynamo",
]  # by what every child does


def run_groups(test_file: str, groups: list[tuple[int, str, dict]]) -> None:
    """Of each group the number of processes, and a function of the test file with its keywords;
    asserts that all end well.
    """
    test = Path(test_file)
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}:{test.parent}",
        "OMP_NUM_THREADS": "1",
        "DS_ACCELERATOR": "cpu",
    }
    command = [sys.executable, __file__, test.stem, json.dumps(groups)]
    ended = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert ended.returncode == 0, (ended.stdout + ended.stderr)[-4000:]


def main() -> int:
    module = importlib.import_module(sys.argv[1])
    for library in IMPORTED_LATE:
        importlib.import_module(library)
    gc.freeze()  # DeepSpeed collects garbage at every start: not among the libraries
    for processes, name, keywords in json.loads(sys.argv[2]):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        children = []
        for rank in range(processes):
            child = os.fork()
            if not child:
                os.environ.update(
                    RANK=str(rank),
                    LOCAL_RANK=str(rank),
                    WORLD_SIZE=str(processes),
                    MASTER_ADDR="127.0.0.1",
                    MASTER_PORT=str(port),
                )
                os._exit(_in_child(getattr(module, name), keywords))
            children.append(child)
        ended = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        if any(ended):
            return 1
    return 0


def _in_child(function, keywords: dict) -> int:
    from distill.parallel import engine

    try:
        engine.start()
        function(**keywords)
        engine.stop()
        return 0
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stderr.flush()


if __name__ == "__main__":
    raise SystemExit(main())
