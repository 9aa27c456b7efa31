"""Files and folders whole or not at all, names that must stay inside, locks, records, and errors of
the system as one line.
"""

import errno
import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import zeros

from configs import artefact, command, files, lock
from configs.errors import DataError, SetupError, cause_of_system, one_line
from configs.records import Record

ROOT = Path(__file__).resolve().parents[2]


def test_a_block_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(RuntimeError), files.whole(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    with files.whole(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_what_safetensors_writes_may_be_read_as_the_umask_says(tmp_path: Path) -> None:
    program = (
        "import os; os.umask(0o027)\n"
        "from pathlib import Path; from configs import files; from safetensors.torch import "
        "save_file; from torch import zeros\n"
        f"folder = Path({str(tmp_path)!r})\n"
        "with files.whole(folder / 'x.safetensors') as path: save_file({'a': zeros(2)}, path)\n"
        "with files.whole_folder(folder / 'f') as path:\n    (path / 'sub').mkdir()\n    "
        "save_file({'a': zeros(2)}, path / 'sub' / 'x.safetensors')\n"
    )
    save_file({"a": zeros(2)}, tmp_path / "plain.safetensors")
    subprocess.run(
        [sys.executable, "-c", program], check=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    modes = [
        (tmp_path / name).stat().st_mode & 0o777
        for name in ("x.safetensors", "f/sub/x.safetensors")
    ]
    assert modes == [0o640, 0o640]


def test_a_folder_is_replaced_only_by_a_whole_one(tmp_path: Path) -> None:
    folder = tmp_path / "tokens"
    folder.mkdir()
    (folder / "a").write_text("old")
    with pytest.raises(DataError, match="is there already"), files.whole_folder(folder):
        pass
    with pytest.raises(RuntimeError), files.whole_folder(folder, replace=True) as partial:
        (partial / "a").write_text("half")
        raise RuntimeError
    assert (folder / "a").read_text() == "old"
    with files.whole_folder(folder, replace=True) as partial:
        (partial / "b").write_text("new")
    assert [path.name for path in folder.iterdir()] == ["b"] and list(tmp_path.iterdir()) == [
        folder
    ]


def test_leftovers_of_killed_processes_are_swept(tmp_path: Path) -> None:
    folder = tmp_path / "distill"
    (folder / ".x.partial" / "deep").mkdir(parents=True)
    for path in (
        folder / ".metrics.jsonl.17.partial",
        tmp_path / ".distill.old.partial",
        tmp_path / ".tokens.9.partial",
        folder / "kept",
    ):
        path.write_text("x")
    files.sweep(folder)
    assert sorted(path.name for path in tmp_path.rglob("*")) == [
        ".tokens.9.partial",
        "distill",
        "kept",
    ]


@given(st.text(alphabet="ab./\\\0~-", max_size=12))
def test_a_name_never_leads_out_of_its_folder(name: str) -> None:
    folder = Path("run") / "export"
    try:
        path = files.inside(folder, name)
    except DataError as error:
        assert "leads out" in str(error)
    else:
        assert Path(os.path.normpath(path)).is_relative_to(folder) and "\0" not in str(path)


def test_names_that_lead_out_are_refused() -> None:
    for name in ("../x", "/etc/passwd", "a/../../x", "", "a\\..\\x", "a\0b"):
        with pytest.raises(DataError, match="leads out of the folder"):
            files.inside(Path("folder"), name)
    assert files.inside(Path("folder"), "a/b..c") == Path("folder/a/b..c")


def test_a_disk_without_room_is_told_before_anything_is_written(tmp_path: Path) -> None:
    files.check_room(tmp_path / "not" / "there", 1)
    with pytest.raises(
        SetupError, match=r"the disk is too full, [\d.]+ GB are needed and [\d.]+ GB are free"
    ):
        files.check_room(tmp_path, 1 << 60)


# --- locks ---


def hold(folder: Path, ready: object, end: object) -> None:
    with lock.locked(folder):
        ready.set()
        end.wait(30)


def test_a_folder_is_refused_while_its_owner_lives_and_taken_over_when_it_is_dead(
    tmp_path: Path,
) -> None:
    context = multiprocessing.get_context("spawn")
    folder, ready, end = tmp_path / "run" / "tokens", context.Event(), context.Event()
    owner = context.Process(target=hold, args=(folder, ready, end))
    owner.start()
    assert ready.wait(60)
    with (
        pytest.raises(
            SetupError,
            match=rf"tokens: process {owner.pid} on .* is writing it; wait until it has ended",
        ),
        lock.locked(folder),
    ):
        pass
    owner.kill()
    owner.join()
    leftover = folder.parent / ".tokens.partial"
    leftover.mkdir()
    with lock.locked(folder):
        assert not leftover.exists(), "what the dead owner left is swept away"
    assert not list(folder.parent.iterdir())


def test_an_owner_on_another_machine_is_alive_while_it_touches_its_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "SILENT_SECONDS", 1.0)
    path = tmp_path / ".eval.lock"
    path.write_text(
        json.dumps(
            {
                "host": "node-7",
                "machine": "another",
                "pid": 1,
                "started": "5",
                "command": "eval",
                "slurm_job": "88",
            }
        )
    )
    ended = threading.Event()
    threading.Thread(
        target=lambda: [os.utime(path) for _ in iter(lambda: ended.wait(0.05), True)], daemon=True
    ).start()
    with (
        pytest.raises(SetupError, match="process 1 on node-7, Slurm job 88"),
        lock.locked(tmp_path / "eval"),
    ):
        pass
    ended.set()
    time.sleep(0.2)
    with lock.locked(tmp_path / "eval"):  # silent: dead
        assert path.exists()
    path.write_text("")  # torn by a power cut
    with lock.locked(tmp_path / "eval"):
        assert json.loads(path.read_text())["pid"] == os.getpid()


def test_of_two_that_find_a_dead_owner_one_takes_over(tmp_path: Path) -> None:
    """Many times, since the window is small."""
    program = (
        "import sys, time; from pathlib import Path; from configs import lock; from configs.errors "
        "import SetupError\n"
        "folder, at = Path(sys.argv[1]), float(sys.argv[2])\n"
        "time.sleep(max(0, at - time.time()))\n"
        "try:\n"
        "    with lock.locked(folder):\n        time.sleep(0.5); print('held')\n"
        "except SetupError: print('refused')\n"
    )
    for number in range(5):
        folder = tmp_path / str(number)
        dead = {"machine": lock._machine(), "pid": 2**22 + 5, "started": "1"}
        (tmp_path / f".{number}.lock").write_text(json.dumps(dead))
        words = [sys.executable, "-c", program, str(folder), str(time.time() + 1.5)]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        started = [
            subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment)
            for _ in range(3)
        ]
        assert sorted(process.communicate(timeout=60)[0].strip() for process in started) == [
            "held",
            "refused",
            "refused",
        ]


# --- artefacts and records ---


def test_an_artefact_knows_when_it_is_damaged_and_what_it_was_made_from(tmp_path: Path) -> None:
    folder = tmp_path / "tokens"
    folder.mkdir()
    (folder / "ids.npy").write_bytes(b"ids")
    sealed = artefact.seal(folder, {"pairs": "1", "tokenizer": "2"}, {"rows": 3})
    assert artefact.read(folder, "x") == sealed and sealed.details == {"rows": 3}
    assert artefact.changed(sealed, {"pairs": "1", "tokenizer": "2"}) is None
    assert artefact.changed(sealed, {"pairs": "1", "tokenizer": "3"}) == "tokenizer"
    assert artefact.changed(sealed, {"pairs": "1", "tokenizer": "2", "unet": "9"}) == "unet"
    (folder / "ids.npy").write_bytes(b"idz")
    with pytest.raises(
        DataError,
        match=r"ids\.npy: damaged, its SHA-256 is not the one in manifest\.json; make it again",
    ):
        artefact.read(folder, "make it again")
    (folder / "ids.npy").unlink()
    with pytest.raises(DataError, match=r"ids\.npy: missing"):
        artefact.read(folder, "make it again")
    manifest = json.loads((folder / "manifest.json").read_text())
    for broken in (
        "",
        "{",
        "[1]",
        "null",
        json.dumps(manifest | {"files": {"../../x": "0"}}),
        json.dumps(manifest | {"more": 1}),
    ):
        (folder / "manifest.json").write_text(broken)
        with pytest.raises(DataError) as caught:
            artefact.read(folder, "make it again")
        assert "\n" not in str(caught.value)


class Example(Record):
    step: int


def test_a_record_that_is_damaged_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    Example(step=3).write(path)
    assert Example.read(path, "x").step == 3
    for broken in (b"", b"\xff", b'{"step": "3"}', b'{"step": 3, "x": 1}', b'{"st', b"[" * 100_000):
        path.write_bytes(broken)
        with pytest.raises(
            DataError, match=r"state\.json: damaged, or not of this version \(.+\); do it again"
        ):
            Example.read(path, "do it again")


# --- errors ---


@given(st.text(max_size=3000))
def test_a_message_is_one_printable_line(text: str) -> None:
    line = one_line(text)
    assert len(line.splitlines()) <= 1 and "\x1b" not in line and len(line) < 12_000


def test_long_messages_keep_their_ends() -> None:
    line = one_line("start " + "x" * 10**6 + " end")
    assert line.startswith("start ") and line.endswith(" end") and len(line) < 2100
    assert one_line("a\nb\x1b[31m\u202e") == "a b\\x1b[31m\\u202e"


def test_the_systems_refusal_is_found_behind_a_librarys_words() -> None:
    found = {
        errno.ENOSPC: [
            OSError(errno.ENOSPC, "x"),
            RuntimeError(
                "Error while serializing: I/O error: No space left on device (os error 28)"
            ),
        ],
        errno.EROFS: [OSError("Cannot open. Detail: [errno 30] Read-only file system")],
    }
    found[errno.ENOSPC].append(OSError("1000 requested and 96 written"))
    for number, errors in found.items():
        for error in errors:
            cause = cause_of_system(error)
            assert cause is not None and cause.errno == number
    assert cause_of_system(KeyError("os")) is None and cause_of_system(OSError("no number")) is None


def test_a_full_disk_is_one_line_and_code_4(capsys: pytest.CaptureFixture[str]) -> None:
    def body() -> None:
        with open("/dev/full", "w", buffering=1) as file:
            file.write("x\n")

    assert command.guard("stage", body) == 4
    told = capsys.readouterr().err
    assert (
        told.startswith("stage: no space left on device; free some space") and told.count("\n") == 1
    )


def test_a_thread_that_meets_a_full_disk_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """TensorBoard writes in a thread of its own."""

    def fail() -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "events")

    def body() -> None:
        thread = threading.Thread(target=fail)
        thread.start()
        thread.join()

    before = threading.excepthook
    try:
        assert command.guard("stage", body) == 0
    finally:
        threading.excepthook = before
    told = capsys.readouterr().err
    assert told.startswith("stage: events: no space left on device") and told.count("\n") == 1


def test_a_usage_error_repeats_a_long_value_in_part(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parser = command.Parser("stage", "does")
        parser.add_argument("--seed", type=int)
        parser.parse_args(["--seed", "9" * 5000 + "x"])
    assert ended.value.code == 2 and len(capsys.readouterr().err) < 1000
