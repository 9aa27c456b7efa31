"""Runs cases in several slots at once, each in an empty folder that is kept only if the case fails,
with one progress bar.
"""

import random
import shutil
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue

from tqdm import tqdm

from tests.faults.case import Case, Outcome, failed
from tests.faults.client import Slot
from tests.faults.report import Done


def run_all(
    cases: list[Case], slots: list[Slot], folder: Path, seed: int, keep: bool
) -> list[Done]:
    """Outcomes in the order of `cases`. A bug of the harness in one case fails that case alone."""
    waiting: SimpleQueue[tuple[int, Case]] = SimpleQueue()
    for number, case in enumerate(cases):
        waiting.put((number, case))
    done: dict[int, Done] = {}
    with tqdm(total=len(cases), unit="case", dynamic_ncols=True, smoothing=0.05) as bar:

        def report(number: int, one: Done) -> None:
            done[number] = one
            bar.set_description_str(one.case.group, refresh=False)
            bar.set_postfix_str(
                f"failed {sum(each.outcome.passed is False for each in done.values())}",
                refresh=False,
            )
            bar.update()

        threads = [
            threading.Thread(
                target=_work, args=(waiting, slot, folder, seed, keep, report), daemon=True
            )
            for slot in slots
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                thread.join(0.5)  # so that Ctrl-C is heard
    return [done[number] for number in sorted(done)]


def _work(
    waiting: "SimpleQueue[tuple[int, Case]]",
    slot: Slot,
    folder: Path,
    seed: int,
    keep: bool,
    report: Callable[[int, Done], None],
) -> None:
    while True:
        try:
            number, case = waiting.get_nowait()
        except Empty:
            return
        started = time.monotonic()
        outcome = run_one(case, slot, folder / case.name, seed, keep)
        report(number, Done(case, outcome, time.monotonic() - started))


def run_one(case: Case, slot: Slot, folder: Path, seed: int, keep: bool) -> Outcome:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        outcome = case.run(folder, random.Random(f"{seed}/{case.name}"), slot)
    except Exception:
        outcome = failed("harness error", traceback.format_exc()[-1500:])
    if not keep and outcome.passed is not False:
        shutil.rmtree(folder, ignore_errors=True)
    return outcome
