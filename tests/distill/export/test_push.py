"""The push against a real HTTP server that speaks the Hub's protocol: whole or not at all, resumed,
never with secrets, mistakes in one line.
"""

import getpass
import hashlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import Commit, File, HubServer

from configs.errors import DataError
from distill.export.push import push

ROOT = Path(__file__).resolve().parents[3]
NAME = "organisation/sdxl-jp"
BLOBS = (
    "text_encoder/model.safetensors",
    "text_encoder_2/model.safetensors",
    "unet/diffusion_pytorch_model.safetensors",
)
# more than the buffers of a connection hold: a cut in the middle is felt in the middle
SIZE = 3_000_000
PROGRAM = """
import sys, time
from pathlib import Path
from configs.command import guard
from distill.export.push import push
time.sleep = lambda seconds: None  # huggingface_hub waits before it tries again
folder, name, public = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "True"
raise SystemExit(guard("push", lambda: print(push(folder, name, public=public))))
"""


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


@pytest.fixture(autouse=True)
def send_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is sent is sent by processes of their own; a push in this one ends where it would begin
    to send.
    """
    monkeypatch.setattr("distill.export.push.send", lambda *_: "sent")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An export of random bytes, and beside its files what must never be sent."""
    folder = tmp_path / "export" / "base"
    numbers = random.Random(0)
    contents = {name: numbers.randbytes(SIZE) for name in BLOBS}
    contents |= {
        "model_index.json": b'{"_class_name": "StableDiffusionXLPipeline"}',
        "tokenizer/tokenizer.json": b"{}",
    }
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    verify(folder, list(contents))
    (folder / "README.md").write_text("---\nlanguage: ja\n---\n日本語\n", encoding="utf-8")
    (folder / "images").mkdir()
    (folder / "images" / "grid.png").write_bytes(numbers.randbytes(100))
    return folder


def verify(folder: Path, names: list[str]) -> None:
    digests = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    (folder / "verification.json").write_text(json.dumps({"files": digests}), encoding="utf-8")


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def digests(folder: Path, *names: str) -> list[str]:
    return [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names]


def environment(hub: HubServer, folder: Path, **changes: str) -> dict[str, str]:
    settings = {
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN": hub.token,
        "HF_HOME": str(folder.parent.parent / "hf"),
        "HF_HUB_OFFLINE": "0",
    }
    return {**os.environ, "PYTHONPATH": str(ROOT), "NO_PROXY": "127.0.0.1", **settings, **changes}


def start(
    hub: HubServer, folder: Path, repository: str = NAME, public: bool = False, **changes: str
) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, str(folder), repository, str(public)]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, env=environment(hub, folder, **changes), stdout=pipe, stderr=pipe, text=True
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def refused(hub: HubServer, folder: Path, repository: str = NAME, **changes: str) -> str:
    """The one line with which a push ends that may not be."""
    code, _, err = finish(start(hub, folder, repository, **changes))
    assert code == 3 and err.count("\n") == 1 and hub.token not in err, err
    return err


@pytest.mark.parametrize("part_size", [None, 1_000_000])
def test_a_folder_lands_in_one_commit_and_comes_back_the_same(
    folder: Path, tmp_path: Path, part_size: int | None
) -> None:
    expected = contents(folder)
    for name in (
        ".cache/huggingface/x.json",
        "unet/.partial",
        "pytorch_model.bin",
        "unet/last.CKPT",
        "pipeline.py",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("never sent")
    (folder / "link.md").symlink_to(folder / "README.md")
    (folder / "linked").symlink_to(folder / "unet")
    with HubServer(part_size) as hub:
        code, out, err = finish(start(hub, folder))
        assert (code, err) == (0, "") and out.splitlines()[-1] == f"{hub.url}/{NAME}"
        assert all(
            f"{name}: " in out
            for name in ("pytorch_model.bin", "last.CKPT", "pipeline.py", "link.md", "linked")
        )
        repository = hub.repositories[NAME]
        assert repository.private and len(repository.commits) == 2 and repository.files == expected
        assert list(dict.fromkeys(hub.uploads())) == digests(folder, *BLOBS)  # one after another
        assert len(hub.uploads()) == len(BLOBS) * (1 if part_size is None else SIZE // part_size)
        # signed addresses belong to a storage elsewhere, which must not learn the token
        asked = [
            request for request in hub.requests if request.path != "/api/agent-harnesses"
        ]  # public, and no business of ours
        assert not [
            request
            for request in asked
            if (request.authorization is None) != ("signed=" in request.path)
        ]
        assert not [
            path
            for path in tmp_path.rglob("*")
            if path.is_file() and hub.token.encode() in path.read_bytes()
        ]

        fetch = f"from huggingface_hub import snapshot_download; print(snapshot_download({NAME!r}))"
        done = subprocess.run(
            [sys.executable, "-c", fetch],
            env=environment(hub, folder),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert {
            name: file
            for name, file in contents(Path(done.stdout.strip())).items()
            if name != ".gitattributes"
        } == expected


def test_only_what_is_new_is_sent_and_nothing_at_all_where_nothing_is(
    hub: HubServer, folder: Path
) -> None:
    assert finish(start(hub, folder))[0] == 0
    repository, head = hub.repositories[NAME], hub.repositories[NAME].commits[-1]
    hub.requests.clear()
    code, out, _ = finish(start(hub, folder, public=True))
    assert code == 0 and "nothing to do" in out and "stays private" in out
    assert (
        repository.private
        and repository.commits[-1] is head
        and not hub.uploads()
        and not hub.asked("POST", "/commit/")
    )

    (folder / BLOBS[1]).write_bytes(b"another student")
    verify(
        folder,
        [name for name in contents(folder) if name not in ("README.md", "verification.json")],
    )
    assert finish(start(hub, folder))[0] == 0
    assert hub.uploads() == digests(folder, BLOBS[1]) and repository.files == contents(folder)
    assert repository.commits[-1].parent == head.oid


def test_killed_in_the_middle_it_leaves_the_old_state_and_goes_on_from_there(
    hub: HubServer, folder: Path
) -> None:
    repository = hub.seed(NAME, {"README.md": b"old"})
    fault = hub.break_blob(digests(folder, BLOBS[1])[0], after=SIZE // 2, holding=True)
    process = start(hub, folder)
    assert fault.reached.wait(60)
    process.kill()
    process.communicate()
    fault.released.set()
    assert repository.files == {"README.md": b"old"} and list(repository.blobs) == digests(
        folder, BLOBS[0]
    )

    hub.requests.clear()
    assert finish(start(hub, folder))[0] == 0
    assert hub.uploads() == digests(folder, *BLOBS[1:])  # the first one had arrived
    assert (
        repository.files == contents(folder)
        and len(repository.commits) == 2
        and not repository.private
    )


def test_a_broken_connection_is_tried_again_and_then_one_line(hub: HubServer, folder: Path) -> None:
    blob = digests(folder, BLOBS[1])[0]
    fault = hub.break_blob(blob, after=SIZE // 2, times=1000)
    assert "check the network and run it again" in refused(hub, folder)
    assert hub.uploads().count(blob) > 1 and hub.repositories[NAME].files == {}
    fault.times = 1
    hub.requests.clear()
    assert finish(start(hub, folder))[0] == 0
    assert hub.uploads() == [blob, blob, *digests(folder, BLOBS[2])] and hub.repositories[
        NAME
    ].files == contents(folder)


def test_a_commit_of_another_in_between_is_not_mixed_with_ours(
    hub: HubServer, folder: Path
) -> None:
    def interfere() -> None:
        commits = hub.repositories[NAME].commits
        commits.append(
            Commit("another's", commits[-1].oid, {"README.md": File(b"another's", False)})
        )

    hub.before_commit = interfere
    assert "someone changed it meanwhile" in refused(hub, folder)
    assert hub.repositories[NAME].files == {"README.md": b"another's"}


def test_what_the_hub_or_the_network_refuses_is_one_line(hub: HubServer, folder: Path) -> None:
    assert "run `hf auth login`" in refused(hub, folder, HF_TOKEN="")
    wrong = "hf_" + "w" * 34
    line = refused(hub, folder, HF_TOKEN=wrong)
    assert "401" in line and "run `hf auth login`" in line and wrong not in line
    line = refused(hub, folder, "others/sdxl-jp")
    assert "403" in line and "don't have the rights" in line
    assert "HF_HUB_OFFLINE" in refused(hub, folder, HF_HUB_OFFLINE="1")
    assert "check the network" in refused(hub, folder, HF_ENDPOINT="http://127.0.0.1:1")
    assert not hub.repositories


@pytest.mark.parametrize(
    "name",
    [
        "sdxl-jp",
        "a/b/c",
        "organisation/",
        "/x",
        "organisation/with space",
        "../x",
        "https://huggingface.co/a/b",
        "",
    ],
)
def test_a_name_that_is_none_is_one_line(folder: Path, name: str) -> None:
    assert f"{name!r}: no name of a repository" in local_refusal(folder, name)


def local_refusal(folder: Path, name: str = NAME) -> str:
    """The line, said before anything is asked of the Hub."""
    with pytest.raises(DataError) as error:
        push(folder, name)
    line = str(error.value)
    assert "\n" not in line, line
    return line


def test_a_damaged_or_foreign_folder_is_refused_by_name(folder: Path) -> None:
    weights = folder / BLOBS[2]
    good = weights.read_bytes()
    weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    assert f"{weights}: damaged" in local_refusal(folder)
    weights.unlink()
    assert f"{weights}: listed in verification.json, but not there" in local_refusal(folder)
    (folder.parent / "elsewhere").write_bytes(good)
    weights.symlink_to(folder.parent / "elsewhere")
    assert f"{weights}: listed in verification.json, but a symbolic link" in local_refusal(folder)
    weights.unlink()
    weights.write_bytes(good)
    stray = folder / "unet" / "diffusion_pytorch_model.fp16.safetensors"
    stray.write_bytes(good)
    assert f"{stray}: verification.json does not list it" in local_refusal(folder)
    (folder / "verification.json").write_text("{}")
    assert "has no digests" in local_refusal(folder)
    (folder / "verification.json").unlink()
    assert "no export of this project" in local_refusal(
        folder
    ) and "run distill.export" in local_refusal(folder)


@pytest.mark.parametrize(
    "secret",
    [
        "hf_" + "aB3" * 11,
        "sk-proj-" + "aB3" * 9,
        "AKIA" + "IOSFODNN7EXAMPLE"[:16],
        "-----BEGIN PRIVATE KEY-----",
    ],
)
def test_a_secret_is_refused_and_not_repeated(folder: Path, secret: str) -> None:
    card = folder / "README.md"
    card.write_text(f"see {secret} for more", encoding="utf-8")
    line = local_refusal(folder)
    assert f"{card}: holds what looks like" in line and secret not in line


def test_what_only_this_machine_knows_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/disk/日本/somebody")
    monkeypatch.setenv("LOGNAME", "somebody")  # what getpass looks at first
    monkeypatch.chdir(ROOT)
    assert getpass.getuser() == "somebody"
    card = folder / "README.md"
    for text, found in {
        "base_model: /disk/日本/somebody/sdxl": "your home folder",
        f"base_model: {ROOT}": "the working directory",
        f"made in {folder.parent}/base": "the folder's own place",
        "C:\\Users\\somebody\\sdxl": "a path with your login name",
    }.items():
        card.write_text(text, encoding="utf-8")
        assert f"{card}: holds {found}" in local_refusal(folder)
    harmless = [
        "https://huggingface.co/somebody/sdxl",
        "somebody/sdxl",
        "/disk/somebody-else",
        f"{ROOT}-other",
        "</somebody>",
        f"{'A+9' * 200}/somebody/{'b' * 500}",
    ]
    card.write_text(" ".join(harmless), encoding="utf-8")
    assert push(folder, NAME) == "sent"
    card.unlink()
    index = folder / "model_index.json"
    index.write_text(
        json.dumps({"teacher": "/disk/日本/somebody"}).replace("/", "\\/"), encoding="ascii"
    )
    assert f"{index}: holds your home folder /disk/日本/somebody" in local_refusal(folder)
