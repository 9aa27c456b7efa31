"""Who does the pieces: workers that are killed, jobs of a stand-in for Slurm, tasks of a Ray of one
machine where Ray is installed.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import fake_slurm
import pytest

from configs.errors import DataError, RecipeError, SetupError
from configs.schema.executors import Local, Ray, Slurm
from configs.schema.load import load_recipe
from corpora import executor, prepare
from corpora.executor import pieces, slurm
from corpora.sources import part
from corpora.toyworld import captions

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests"
PYTHONPATH = os.pathsep.join(
    map(str, (ROOT, TESTS, TESTS / "corpora"))
)  # a node imports the tasks below
SLURM = Slurm(kind="slurm", partition="cpu", time=30)


@dataclass
class Deadly:
    """A task that notes each try with the number of its process; then piece 1 is killed, fails or
    waits until it may go on.
    """

    folder: Path
    ill: str = ""
    tries: int = 99  # of piece 1 that go wrong
    rows: tuple[int, ...] = (1, 1, 1)

    def __call__(self, data: object, rank: int, world_size: int) -> None:
        with open(self.folder / f"{rank}.pid", "a") as file:
            print(os.getpid(), file=file)
        if self.ill == "waits":
            while not (self.folder / "go").exists():
                time.sleep(0.02)
        elif self.ill and rank == 1 and self.tried(1) <= self.tries:
            if self.ill == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise (DataError if self.ill == "damaged" else KeyError)("bad.tsv: is damaged")

    def files(self, rank: int) -> list[Path]:
        return [self.folder / f"{rank}.pid"]

    def tried(self, rank: int) -> int:
        return len((self.folder / f"{rank}.pid").read_text().split())


def test_a_killed_worker_is_replaced_and_its_piece_done_again(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    task = Deadly(tmp_path, "killed", tries=1)
    executor.run(task, tmp_path / "logs", 2, "clean", Local())
    assert task.tried(1) == 2 and {
        path.name for path in (tmp_path / "logs" / "completions").iterdir()
    } == {"00000", "00001", "00002"}
    assert (
        "a worker was killed, perhaps for lack of memory; going on with 1" in capfd.readouterr().err
    )


def test_a_finished_piece_is_trusted_only_while_its_files_are_as_they_were_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = Deadly(tmp_path)
    executor.run(task, tmp_path / "logs", 1, "clean", Local())
    executor.run(task, tmp_path / "logs", 1, "clean", Local())
    assert [task.tried(rank) for rank in range(3)] == [
        1,
        1,
        1,
    ] and "again" not in capsys.readouterr().err
    (tmp_path / "0.pid").unlink()
    (tmp_path / "1.pid").write_text("7\n")  # damaged
    (tmp_path / "logs" / "seals" / "00002.json").write_text('{"fil')
    executor.run(task, tmp_path / "logs", 1, "clean", Local())
    assert [task.tried(rank) for rank in range(3)] == [1, 2, 2]
    assert capsys.readouterr().err.count("its piece is done again") == 3


def test_a_piece_that_always_kills_its_worker_is_told_and_not_waited_for(tmp_path: Path) -> None:
    task = Deadly(tmp_path, "killed")
    with pytest.raises(
        SetupError, match=r"a worker was killed 3 times at piece 1 of clean.*corpora\.workers"
    ):
        executor.run(task, tmp_path / "logs", 2, "clean", Local())
    assert task.tried(1) == 3


KILLED_WITH_PIECES = """
import os, sys, threading, time
from pathlib import Path
from configs.schema.executors import Local
from corpora import executor
from test_executor import SLURM, Deadly
folder, where = Path(sys.argv[1]), {"local": Local(), "slurm": SLURM}[sys.argv[2]]
def watch():
    while len(list(folder.glob("*.pid"))) < 2:
        time.sleep(0.05)
    os.kill(os.getpid(), 9)
if __name__ == "__main__":
    threading.Thread(target=watch, daemon=True).start()
    executor.run(Deadly(folder, "waits"), folder / "logs", 2, "clean", where)
"""


def run_and_kill(folder: Path, where: str) -> None:
    (folder / "kill.py").write_text(KILLED_WITH_PIECES, encoding="utf-8")
    words = [sys.executable, str(folder / "kill.py"), str(folder), where]
    ended = subprocess.run(
        words,
        env={**os.environ, "PYTHONPATH": PYTHONPATH},
        capture_output=True,
        check=False,
        timeout=300,
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()[-500:]
    assert len(list(folder.glob("*.pid"))) == 2


def test_no_worker_outlives_a_killed_run(tmp_path: Path) -> None:
    """datatrove's own `run` leaves a process behind, and whoever reads our output through a pipe
    waits for it for ever.
    """
    run_and_kill(tmp_path, "local")  # it returned: the pipes are closed, so both workers have ended


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The state folder of a fake Slurm on PATH."""
    state = tmp_path / "slurm"
    monkeypatch.setenv(
        "PATH", f"{fake_slurm.install(tmp_path / 'bin', state)}{os.pathsep}{os.environ['PATH']}"
    )
    monkeypatch.setenv("PYTHONPATH", PYTHONPATH)
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "500")  # the waiting process is a job itself
    monkeypatch.setattr(slurm, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(slurm, "SETTLE_SECONDS", 0.2)
    yield state
    fake_slurm.kill_jobs(state)


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[str]]:
    """Arguments of `corpora.prepare` for a small TSV in four parts, in a run folder named after the
    executor; paths are relative, one has a blank.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(part, "PART_ROWS", 60)
    lines = [f"{one.text}\t{one.en}\n" for one in captions.pairs(220, "train", seed=3)]
    Path("a.tsv").write_text("ja\ten\n" + "".join(lines), encoding="utf-8")
    source = "corpora.sources=[{kind: tsv, name: a, path: a.tsv, licence: CC0}]"

    def arguments(where: str) -> list[str]:
        kind = where.partition("kind: ")[2].partition(",")[0]
        return [
            str(ROOT / "configs/toyworld.yaml"),
            source,
            "corpora.held_out_pairs=20",
            f"corpora.executor={{{where}}}",
            f"run=by {kind}",
        ]

    return arguments


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_slurm_makes_the_same_bytes(
    command: Callable[[str], list[str]], cluster: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Of four pieces, three jobs in two arrays: one job does two pieces, one array begins where the
    other ended.
    """
    assert prepare.main(command("kind: local")) == 0
    on_slurm = (
        "kind: slurm, partition: cpu, time: 02:00:00, pieces_per_job: 2, max_array_size: "
        "1, "
        "sbatch_args: {account: me}"
    )
    assert prepare.main([*command(on_slurm), "corpora.workers=2"]) == 0
    assert contents(Path("by slurm/pairs")) == contents(Path("by local/pairs"))
    assert [line.split()[1] for line in (cluster / "submitted").read_text().splitlines()] == [
        "0-0%2",
        "0-0%2",
    ]
    script = (cluster / "1.sh").read_text()
    assert (
        "#SBATCH --account=me\n" in script
        and "#SBATCH --time=02:00:00\n" in script
        and "mail" not in script
        and "qos" not in script
    )
    shown = capfd.readouterr().err
    assert "clean: submitted as clean-" in shown and "INFO" not in shown


def test_a_killed_head_waits_for_the_jobs_that_run(tmp_path: Path, cluster: Path) -> None:
    run_and_kill(tmp_path, "slurm")
    (tmp_path / "go").touch()
    task = Deadly(tmp_path, "waits")
    executor.run(task, tmp_path / "logs", 2, "clean", SLURM)
    assert [task.tried(rank) for rank in range(3)] == [1, 1, 1], "a piece was done twice"
    assert len((cluster / "submitted").read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("ill", "kind", "message"),
    [
        ("damaged", DataError, r"bad\.tsv: is damaged"),
        ("killed", SetupError, "a job was killed, perhaps for lack of memory or time"),
        ("buggy", SetupError, "a job ended with KeyError: .*"),
    ],
)
def test_failed_jobs_are_one_line_and_cost_only_their_pieces(
    tmp_path: Path, cluster: Path, ill: str, kind: type[Exception], message: str
) -> None:
    task = Deadly(tmp_path, ill, tries=1)
    with pytest.raises(
        kind,
        match=rf"^{message} \(1 of 3 pieces are not done and no job is left; their logs: "
        rf".*slurm_logs; the same command",
    ):
        executor.run(task, tmp_path / "logs", 3, "clean", SLURM)
    logs = "".join(path.read_text() for path in (tmp_path / "logs" / "slurm_logs").iterdir())
    assert ill == "killed" or "is damaged" in logs
    executor.run(
        task, tmp_path / "logs", 1, "clean", Local()
    )  # the markers are the same everywhere
    assert [task.tried(rank) for rank in range(3)] == [1, 2, 1]


def test_without_a_cluster_it_says_so(
    tmp_path: Path,
    cluster: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SetupError, match="sbatch refused the jobs"):
        executor.run(
            Deadly(tmp_path),
            tmp_path / "logs",
            1,
            "clean",
            SLURM.model_copy(update={"partition": "nowhere"}),
        )
    assert "invalid partition" in capfd.readouterr().err
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    with pytest.raises(
        SetupError, match=r"squeue: no such command.*corpora\.executor={kind: local}"
    ):
        executor.run(Deadly(tmp_path), tmp_path / "logs", 1, "clean", SLURM)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SetupError, match="Ray is not installed; pip install"):
        executor.run(Deadly(tmp_path), tmp_path / "logs", 1, "clean", Ray(kind="ray"))


@pytest.fixture(scope="module")
def ray_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ray]:
    """A Ray of this machine, started as a cluster is: by `ray start`, before anyone connects.

    Nobody else can, so it needs no token.
    """
    os.environ["RAY_AUTH_MODE"] = (
        "disabled"  # read when ray is imported; with tokens Ray would write into the home folder
    )
    pytest.importorskip("ray", reason="Ray is not installed: pip install -e '.[ray]'")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [
        "start",
        "--head",
        "--block",
        "--node-ip-address=127.0.0.1",
        f"--port={port}",
        "--num-cpus=2",
    ]
    words += ["--include-dashboard=false", "--disable-usage-stats"]
    main = "from ray.scripts.scripts import main; main()"
    elsewhere, quiet = tmp_path_factory.mktemp("elsewhere"), subprocess.DEVNULL
    with subprocess.Popen(
        [sys.executable, "-c", main, *words], cwd=elsewhere, stdout=quiet, stderr=quiet
    ) as head:
        yield Ray(kind="ray", address=f"127.0.0.1:{port}", mem_per_cpu_gb=1)
        head.terminate()
    assert not list(elsewhere.iterdir()), "a worker took a path of the recipe for one of its own"


def test_ray_makes_the_same_bytes(ray_cluster: Ray, command: Callable[[str], list[str]]) -> None:
    assert prepare.main(command("kind: local")) == 0
    assert (
        prepare.main(
            [
                *command(f"kind: ray, address: {ray_cluster.address}, mem_per_cpu_gb: 1"),
                "corpora.workers=2",
            ]
        )
        == 0
    )
    assert contents(Path("by ray/pairs")) == contents(Path("by local/pairs"))


def test_ray_tries_a_killed_piece_again(
    ray_cluster: Ray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{PYTHONPATH}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    tasks = {ill: Deadly(tmp_path / ill, ill) for ill in ("killed", "damaged")}
    tasks["killed_once"] = Deadly(tmp_path / "killed_once", "killed", tries=1)
    for task in tasks.values():
        task.folder.mkdir()
    executor.run(tasks["killed_once"], tmp_path / "1", 2, "clean", ray_cluster)
    with pytest.raises(SetupError, match="piece 1 of clean was killed 3 times"):
        executor.run(tasks["killed"], tmp_path / "2", 2, "clean", ray_cluster)
    with pytest.raises(DataError, match=r"^bad\.tsv: is damaged$"):
        executor.run(tasks["damaged"], tmp_path / "3", 2, "clean", ray_cluster)
    assert {ill: task.tried(1) for ill, task in tasks.items()} == {
        "killed_once": 2,
        "killed": 3,
        "damaged": 1,
    }


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("{kind: slrum}", "corpora.executor.kind: there is no kind 'slrum'; did you mean 'slurm'?"),
        ("{kind: slurm, time: 30}", "corpora.executor.partition: missing"),
        (
            "{kind: slurm, partition: a, time: 30, partitions: b}",
            "corpora.executor.partitions: there is no such key (its value is 'b'); did you",
        ),
        (
            "{kind: slurm, partition: a, time: 30, sbatch_args: {array: 3}}",
            "corpora.executor.sbatch_args cannot set 'array'",
        ),
    ],
)
def test_a_wrong_section_is_one_line(settings: str, message: str) -> None:
    with pytest.raises(RecipeError) as error:
        load_recipe(ROOT / "configs/toyworld.yaml", [f"corpora.executor={settings}"])
    assert message in str(error.value)


@dataclass
class Numbered:
    """Writes which worker did each piece, once every worker has one."""

    folder: Path
    rows: tuple[int, ...] = (1, 1, 1)

    def files(self, rank: int) -> list[Path]:
        return [self.folder / f"{rank}.worker"]

    def __call__(self, data: object, rank: int, world_size: int) -> None:
        (self.folder / f"{rank}.worker").write_text(str(pieces.worker_number))
        deadline = time.monotonic() + 60
        while len(list(self.folder.glob("*.worker"))) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)


def test_every_worker_has_a_number_of_its_own(tmp_path: Path) -> None:
    """By which it takes its GPU."""
    executor.run(Numbered(tmp_path), tmp_path / "logs", 3, "clean", Local())
    assert sorted(file.read_text() for file in tmp_path.glob("*.worker")) == ["0", "1", "2"]
