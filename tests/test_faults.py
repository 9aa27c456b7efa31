"""A slice of the fault-injection harness (`python -m tests.faults`, docs/reliability.md): some
cases of every part, and the harness itself.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults import compare, verdict
from tests.faults.case import Case, evenly, failed, passed
from tests.faults.client import Ended
from tests.faults.plan import share_of
from tests.faults.report import Done, markdown

ROOT = Path(__file__).resolve().parent.parent
# One case of each; a group's name stands for one of its cases.
SLICE = (
    "kills/random-distill.train/000",
    "kills/point-distill.train/0120",
    "signals/none-TERM/middle",
    "corruption/tokens-flipped",
    "corruption/initial_student-truncated",
    "disk/full-vocab_init",
    "fuzz/recipe",
    "fuzz/override",
    "fuzz/corpus",
    "fuzz/prompt",
)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, object]]:
    """By the group of each case: what came of it."""
    out = tmp_path_factory.mktemp("faults")
    few = [
        "--kills",
        "4",
        "--corruptions",
        "2000",
        "--inputs",
        "200",
        "--share",
        "0.001",
        "--out",
        str(out),
    ]
    only = [word for case in SLICE for word in ("--only", case)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults", *few, *only],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode in (0, 3) and "processes had to be ended" not in done.stderr, (
        done.stderr[-3000:]
    )
    cases = json.loads((out / "report.json").read_text(encoding="utf-8"))["cases"]
    return {one["case"].rpartition("/")[0]: one for one in cases}


@pytest.mark.parametrize("case", SLICE)
def test_a_fault_is_survived(outcomes: dict[str, dict[str, object]], case: str) -> None:
    found = outcomes[case if case in outcomes else case.rpartition("/")[0]]
    assert found["passed"] is True, found


def test_what_counts_as_a_clear_refusal() -> None:
    def of(code: int, text: str) -> str:
        return verdict.problem(Ended(code, False, False, 0.0, text))

    assert of(3, "bar 1%\rbar 2%\nprog: file: damaged; fetch it again\n") == ""
    assert of(3, "Traceback (most recent call last):\n  x\nprog: y\n") == "traceback"
    assert (of(1, "x"), of(0, "x"), of(3, "\n")) == ("exit 1", "exit 0", "no message")
    assert (
        of(3, "prog: \x1b[2J") == "control characters"
        and of(3, "x" * 3000) == "a message of 3,000 characters"
    )


def test_only_checkpoints_whose_files_are_right_count_as_whole(tmp_path: Path) -> None:
    digest = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"  # of "foo"
    for name, content, manifest in (
        ("step_000004", "foo", {"a": digest}),
        ("step_000008", "bar", {"a": digest}),
        ("step_1000000", "foo", None),
    ):
        folder = tmp_path / "distill" / "checkpoints" / name
        folder.mkdir(parents=True)
        (folder / "a").write_text(content)
        if manifest:
            (folder / "manifest.json").write_text(json.dumps(manifest))
    assert compare.whole_checkpoints(tmp_path) == [4]
    (tmp_path / "distill" / "checkpoints" / "step_1000000" / "manifest.json").write_text(
        json.dumps({"files": {"a": digest}, "step": 1})
    )
    assert compare.whole_checkpoints(tmp_path) == [4, 1_000_000]


def test_a_report_counts_and_a_share_takes_some_of_every_group() -> None:
    cases = [
        Case(f"part/{kind}/{n}", lambda folder, rng, slot: passed("fine"))
        for kind in "ab"
        for n in range(10)
    ]
    assert [case.name for case in share_of(cases, 0.1)] == ["part/a/5", "part/b/5"]
    assert evenly(range(5), 2) == [0, 4] and evenly(range(3), 9) == [0, 1, 2]
    done = [
        Done(case, passed("fine", 4) if number else failed("hung", "x"), 1.0)
        for number, case in enumerate(cases)
    ]
    assert "| part/a | 10 | 37 | 9 | 1 | 0 | 9 fine, 1 hung |" in markdown(done)
