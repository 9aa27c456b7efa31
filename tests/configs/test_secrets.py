"""No secret is written or printed: canaries through masks, and through pairs, cards, the run's
config and messages.
"""

import json
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from configs.errors import DataError, one_line
from configs.schema.load import load_recipe
from configs.secrets import masked, masked_tree
from corpora import prepare
from corpora.toyworld import captions
from distill.run import run_folder

ROOT = Path(__file__).resolve().parents[2]
CANARIES = [f"cAnArY{number}x{number * 7919:06d}Zq" for number in range(10)]
TEXTS = [
    f"https://user:{CANARIES[0]}@host/a.tsv",
    f"simplecache::https://{CANARIES[1]}@host/a.tsv",
    f"https://host/a.tsv?X-Amz-Credential=AKIA&X-Amz-Signature={CANARIES[2]}&x=1",
    f"https://host/a.tsv?token={CANARIES[3]}#part",
    f"https://host/a.tsv?sv=2024&sig={CANARIES[4]}%3D",
    f"export HF_TOKEN={CANARIES[5]} && run",
    f"s3://bucket/hf_{CANARIES[6]}AAAAAAAAAAAA/a.tsv",
    f"--api-key x AWS_SECRET_ACCESS_KEY={CANARIES[7]}",
    f"Bearer eyJ{CANARIES[8]}.{CANARIES[8]}.{CANARIES[8]}",
    f"the library says: 401 for {CANARIES[9]}",
]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", CANARIES[9])


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """A web server of one TSV; what is asked for after a `?` means nothing to it."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    folder = tmp_path / "web"
    folder.mkdir()
    rows = (f"{one.text}\t{one.en}\n" for one in captions.pairs(40, "train", seed=3))
    (folder / "a.tsv").write_text("".join(rows), encoding="utf-8")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.parametrize("text", TEXTS)
def test_masks(text: str) -> None:
    """In any message, and once masked always the same."""
    for shown in (
        masked(text),
        one_line(text),
        str(DataError(text)),
        json.dumps(masked_tree({"a": [text]})),
    ):
        assert not [one for one in CANARIES if one in shown] and "***" in shown
    assert masked(masked(text)) == masked(text)


@pytest.mark.parametrize(
    "text",
    [
        "https://host/en-ja.tsv?file=en-ja&download=1",
        "hf://datasets/ORG/NAME@main/data.parquet",
        "distill.learning_rate=1e-3 distill.keep_checkpoints=3",
        "vocab_init.tokenizer=toyworld:spiece.model: its eos_token is '</s>'",
        "the key 'a' stands twice; max_tokens=77",
    ],
)
def test_leaves_what_is_no_secret(text: str) -> None:
    assert masked(text) == text


def test_nothing_a_run_writes_holds_one(
    tmp_path: Path, address: str, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("aiohttp", reason="fsspec reads http through aiohttp")
    tree = yaml.safe_load((ROOT / "configs" / "toyworld.yaml").read_text(encoding="utf-8"))
    url = (
        f"http://user:{CANARIES[0]}@{address}/a.tsv"
        f"?token={CANARIES[3]}&X-Amz-Signature={CANARIES[2]}"
    )
    source = {
        "kind": "tsv",
        "name": "web",
        "path": url,
        "licence": "x",
        "header": False,
        "text": 0,
        "en": 1,
    }
    tree["run"] = str(tmp_path / "run")
    tree["distill"]["learning_rate"] = 1e-3
    tree["corpora"] = {
        "sources": [{"kind": "toyworld", "pairs": 60, "held_out_pairs": 10}, source],
        "language_id": {"model": "toyworld:language_id.ftz"},
    }
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(tree), encoding="utf-8")
    assert prepare.main([str(recipe)]) == 0
    assert prepare.main([str(recipe)]) == 0, "the same command finds its own pairs"
    login = f"{{kind: slurm, partition: p, time: 60, env_command: 'export HF_TOKEN={CANARIES[5]}'}}"
    loaded = load_recipe(recipe, [f"corpora.executor={login}"])
    run_folder.claim_run(loaded, tmp_path / "run" / "distill")
    run_folder.claim_run(loaded, tmp_path / "run" / "distill")  # masked forms are compared
    again = load_recipe(tmp_path / "run" / "distill" / "config.yaml")
    assert again.distill == loaded.distill
    assert (
        prepare.main(
            [
                str(recipe),
                f"run={tmp_path}/other",
                f"corpora.sources.1.path={url.replace('a.tsv', 'none.tsv')}",
            ]
        )
        == 3
    )
    assert prepare.main([str(recipe), f"corpora.sources.1.kind={CANARIES[9]}"]) == 2
    printed = "".join(capfd.readouterr())
    assert "none.tsv" in printed and "***" in printed
    folders = (tmp_path / "run", tmp_path / "other")
    written = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    names = {path.name for path in written}
    assert {"manifest.json", "data_card.html", "README.md", "config.yaml"} <= names
    hits = [
        (path.name, one)
        for path in written
        for one in CANARIES
        if one.encode() in path.read_bytes()
    ]
    assert not hits and not [one for one in CANARIES if one in printed]
