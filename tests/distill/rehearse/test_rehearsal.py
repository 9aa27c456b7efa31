"""The rehearsal: each stage once, whatever interrupts it, then a report and nothing else."""

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from configs.errors import SetupError
from configs.schema.load import load_recipe
from distill.rehearse import __main__ as entry
from distill.rehearse import checks, child, rehearsal

RECIPE = "configs/toyworld.yaml"
STAGES = [
    *("corpora.sample", "corpora.prepare", "vocab_init", "distill.tokens", "distill.train"),
    *("distill.train", "distill.export", "distill.verify", "eval.paint"),
]


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[list[str]]:
    """The commands, run by a stand-in that trains in 3 GB: 8 s for the first step, 4 s together for
    two more, of 32 pairs each.
    """
    commands: list[list[str]] = []

    def run(
        words: list[str], environment: dict[str, str], until: Callable[[], bool] | None = None
    ) -> child.Ended:
        commands.append(words)
        if words[0] == "distill.train":
            folder = load_recipe(words[1]).run_dir / "distill"
            folder.mkdir(parents=True, exist_ok=True)
            rows = [{"step": 1, "pairs_per_second": 4.0}, {"step": 3, "pairs_per_second": 8.0}]
            rows = [row | {"memory/process": 5e8} for row in rows]
            (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
        return child.Ended(12.5, 3_000_000_000)

    monkeypatch.setattr(child, "run", run)
    return commands


def rehearse(tmp_path: Path, *more: str) -> int:
    return entry.main([RECIPE, f"run={tmp_path / 'run'}", *more])


def test_the_report_says_what_the_whole_run_will_take(
    ran: list[list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rehearse(tmp_path, "--steps", "4") == 0
    assert [words[0] for words in ran] == STAGES
    folder = tmp_path / "run" / "rehearsal"
    assert {path.name for path in folder.iterdir()} == {"report.json", "report.html"}
    found = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    training = found["training"]
    assert training["steps"] == 6500 and training["batch_size"] == 32
    assert training["hours"] == pytest.approx(6500 * 32 / 16 / 3600)
    assert training["peak_bytes"] == 2.5e9 and 0 < training["planned_bytes"] < 1e9
    shown = capsys.readouterr().out
    assert "6,500 steps of 32 pairs, 3.6 h at this rate" in shown and "2.5 GB" in shown
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "3.6 h" in page and page.count("<tr>") == 10


def test_stages_run_the_recipes_own_batches_on_a_sample(
    ran: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rehearsal.shutil, "rmtree", lambda *_, **__: None)
    assert rehearse(tmp_path, "--steps", "4", "distill.tokens_per_micro_batch=200") == 0
    small = load_recipe(ran[1][1])
    assert ran[0][1:4] == [RECIPE, f"run={tmp_path / 'run'}", "distill.tokens_per_micro_batch=200"]
    own = load_recipe(RECIPE, ["distill.tokens_per_micro_batch=200"])
    changed = {"steps", "warmup_steps", "log_every_steps", "save_every_steps", "eval_every_steps"}
    changed |= {"keep_checkpoints", "statistics_prompts"}
    for name in type(own.distill).model_fields.keys() - changed - {"query_bank"}:
        assert getattr(small.distill, name) == getattr(own.distill, name), name
    assert small.distill.steps == 5 and small.distill.save_every_steps == 4
    assert small.run_dir.is_relative_to(tmp_path / "run" / "rehearsal" / "unfinished")


@pytest.mark.parametrize("stopped", range(len(STAGES)))
def test_no_stage_runs_twice(
    stopped: int, ran: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted in any stage, the same command goes on with that one."""
    run = child.run

    def interrupted(words: list[str], *more: object) -> child.Ended:
        if len(ran) == stopped:
            ran.append([*words, "interrupted"])
            raise KeyboardInterrupt
        return run(words, *more)

    monkeypatch.setattr(child, "run", interrupted)
    assert rehearse(tmp_path) == 130
    assert rehearse(tmp_path) == 0
    expected = [*STAGES[: stopped + 1], *STAGES[stopped:]]
    assert [words[0] for words in ran] == expected
    assert ran[stopped][-1] == "interrupted"
    ran.clear()
    monkeypatch.setattr(child, "run", run)
    assert rehearse(tmp_path) == 0 and len(ran) == len(STAGES), "a finished one is begun anew"


def test_everything_that_is_missing_is_told_at_once(
    ran: list[list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = ["vocab_init.tokenizer=nowhere.model", "corpora.language_id.model=lid.bin"]
    assert rehearse(tmp_path, *missing, "vocab_init.sentence_encoder=no/such/folder") == 3
    said = capsys.readouterr().err
    for name in ("nowhere.model", "lid.bin", "no/such/folder"):
        assert sum(name in line for line in said.splitlines() if line.startswith("missing: ")) >= 1
    assert said.splitlines()[-1].startswith("distill.rehearse: ") and not ran


def test_random_weights_need_a_published_size(
    ran: list[list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rehearse(tmp_path, "--random-weights") == 2
    assert "the sizes of toyworld:base are not published" in capsys.readouterr().err and not ran


def test_a_disk_that_is_too_small_is_told_before_the_work(
    ran: list[list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    usage = type(checks.shutil.disk_usage(tmp_path))
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda _: usage(10**9, 10**9, 10**6))
    assert rehearse(tmp_path) == 3
    assert "1.0 MB free, the whole run needs" in capsys.readouterr().err and not ran


def test_other_processes_train_too_and_wait_for_what_comes_before(
    ran: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes in two threads: rank 0 runs every stage, rank 1 those that train. Rank 1 ends
    after them, though rank 0 has already deleted its record.
    """
    ranks = {threading.main_thread(): 0}
    monkeypatch.setattr(rehearsal.signals, "rank", lambda: ranks[threading.current_thread()])
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(rehearsal, "POLL_SECONDS", 0.01)
    of_rank_1: list[str] = []
    run, training, over = child.run, threading.Barrier(2, timeout=20), threading.Event()

    def by_rank(words: list[str], environment: dict[str, str], *more: object) -> child.Ended:
        if words[0] == "distill.train":
            training.wait()
        if ranks[threading.current_thread()]:
            of_rank_1.append(words[0])
            assert len(of_rank_1) == 1 or over.wait(20)
            return child.Ended(1.0, None)
        assert ("WORLD_SIZE" in environment) == (words[0] == "distill.train")
        return run(words, environment, *more)

    monkeypatch.setattr(child, "run", by_rank)
    given = [RECIPE, f"run={tmp_path / 'run'}"]
    recipe = load_recipe(RECIPE, given[1:])
    other = threading.Thread(target=lambda: rehearsal.rehearse(recipe, given, 3, False))
    ranks[other] = 1
    other.start()
    rehearsal.rehearse(recipe, given, 3, False)
    over.set()
    other.join(20)
    assert not other.is_alive()
    assert of_rank_1 == ["distill.train"] * 2 and [words[0] for words in ran] == STAGES


def test_a_failed_stage_is_one_line_and_a_reached_goal_is_killed(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"python -m json\.tool ended with 2: .*No such file"):
        child.run(["json.tool", str(tmp_path / "none.json")], child.alone())
    flag = tmp_path / "flag"
    program = tmp_path / "sleeper.py"
    program.write_text(
        f"import pathlib, time\nheld = bytearray(200_000_000)\n"
        f"held[::4096] = b'x' * len(held[::4096])\n"
        f"time.sleep(0.5)\npathlib.Path({str(flag)!r}).touch()\ntime.sleep(60)\n"
    )
    started = time.monotonic()
    environment = child.alone() | {"PYTHONPATH": str(tmp_path)}
    ended = child.run(["sleeper"], environment, flag.exists)
    assert time.monotonic() - started < 20
    if sys.platform == "linux":
        assert ended.peak_bytes is not None and 2e8 < ended.peak_bytes < 3e8


def test_a_stage_of_one_process_does_not_see_the_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = ["RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_PORT"]
    launcher += ["TORCHELASTIC_RUN_ID", "GROUP_RANK", "ROLE_WORLD_SIZE"]
    for name in launcher:
        monkeypatch.setenv(name, "1")
    assert not set(launcher) & set(child.alone()) and set(launcher) <= set(os.environ)
    assert child.together(5)["TORCHELASTIC_RESTART_COUNT"] != child.together(4).get(
        "TORCHELASTIC_RESTART_COUNT"
    )
