"""Injects faults into a tiny real run and reports the outcome.

    python -m tests.faults                               # everything: hours on two cores
    python -m tests.faults kills corruption --share 0.1  # a tenth of two parts
    python -m tests.faults --only kills/point-distill.train/0042 --seed 0  # one case, folder kept

Out: a table; with `--out DIR` also `report.json`, `report.md`, and the folders of the cases that
     failed (`DIR/cases`).
Exit codes: 0 all passed, 3 some failed, 2 usage.
"""

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

PARTS = ("kills", "signals", "corruption", "disk", "fuzz", "hostile")


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="python -m tests.faults", description=__doc__.split("\n")[0], allow_abbrev=False
    )
    result.add_argument(
        "parts", nargs="*", metavar="PART", help=f"any of {', '.join(PARTS)}; all when left out"
    )
    result.add_argument("--kills", type=int, default=100, help="random kills (100)")
    result.add_argument(
        "--points",
        type=int,
        help="kill points of each stage, taken evenly; every one when left out",
    )
    result.add_argument("--corruptions", type=int, default=500, help="damaged files (500)")
    result.add_argument("--inputs", type=int, default=10_000, help="fuzzed inputs (10,000)")
    result.add_argument(
        "--share",
        type=float,
        default=1.0,
        help="run this share of the cases, taken evenly from every group (1)",
    )
    result.add_argument("--seed", type=int, default=0)
    result.add_argument("--jobs", type=int, default=2, help="cases at once (2)")
    result.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="CASE",
        help="one case, or all whose name starts so; may be repeated; their folders are kept",
    )
    result.add_argument(
        "--out", type=Path, metavar="DIR", help="where the report and the failed cases' folders go"
    )
    return result


def main(argv: list[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends what it started, as Ctrl-C does
    if unknown := set(arguments.parts) - set(PARTS):
        parser().error(f"there is no part {sorted(unknown)[0]!r}; the parts are {', '.join(PARTS)}")
    keep = arguments.out is not None or bool(arguments.only)
    out = (arguments.out or Path(tempfile.mkdtemp(prefix="faults_"))).resolve()
    try:
        return _run(arguments, out)
    finally:
        if keep:
            print(f"kept: {out}", file=sys.stderr)
        else:
            shutil.rmtree(out, ignore_errors=True)


def _run(arguments: argparse.Namespace, out: Path) -> int:
    from tests.faults import disk, plan, processes, report
    from tests.faults.client import Slot
    from tests.faults.runner import run_all
    from tests.faults.world import World

    started = time.monotonic()
    shutil.rmtree(out / "world", ignore_errors=True)
    shutil.rmtree(out / "cases", ignore_errors=True)
    (out / "world").mkdir(parents=True)
    canary = f"{os.getpid()}-{time.time_ns()}"
    slots = [Slot(canary) for _ in range(arguments.jobs)]
    try:
        named = list(dict.fromkeys(one.partition("/")[0] for one in arguments.only))
        parts = named or arguments.parts or list(PARTS)
        print("making the tiny run that is attacked ...", file=sys.stderr)
        cases = plan.chosen(World(out / "world"), slots[0], parts, arguments)
        if not cases:
            parser().error(f"there is no case {' or '.join(arguments.only)}")
        done = run_all(cases, slots, out / "cases", arguments.seed, keep=bool(arguments.only))
    finally:
        for slot in slots:
            slot.close()
        left = processes.end(f"FAULTS_RUN={canary}")
        disk.unmount_below(out)
    print(report.text(done))
    print(report.failures(done, arguments.seed))
    if left:
        print(f"{left} processes had to be ended by the harness", file=sys.stderr)
    settings = {
        name: value for name, value in vars(arguments).items() if name not in ("out", "parts")
    } | {"parts": " ".join(parts)}
    report.write(out, done, settings, time.monotonic() - started)
    shutil.rmtree(out / "world", ignore_errors=True)
    return 3 if any(one.outcome.passed is False for one in done) else 0


if __name__ == "__main__":
    raise SystemExit(main())
