"""Verify: what loads without a word and gives wrong states is one line; and the way of a repository
to the Hub and back to a user.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import write_checkpoint
from hub_server import HubServer
from safetensors.torch import load_file, save_file

from configs.records import with_sha256
from configs.references import TOYWORLD_MODELS
from distill.export import __main__ as export_entry
from distill.sdxl.repository import open_folder
from distill.tokenizer import portable
from distill.verify import __main__ as verify_entry
from distill.verify import readings

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def run(tiny_sdxl: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("verified") / "run"
    vocabulary = portable.build(
        TOYWORLD_MODELS / "spiece.model", run / "initial_student" / "tokenizer"
    )
    write_checkpoint(run, tiny_sdxl / "base", len(vocabulary), step=500)
    assert export_entry.main(command_line(run, tiny_sdxl)) == 0
    return run


def command_line(run: Path, tiny_sdxl: Path) -> list[str]:
    return [
        str(ROOT / "configs" / "toyworld.yaml"),
        f"run={run}",
        f"distill.base={tiny_sdxl}/base",
        f"distill.refiner={tiny_sdxl}/refiner",
    ]


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    """A copy of the exported base that may be damaged."""
    return Path(shutil.copytree(run / "export" / "base", tmp_path / "base"))


def edit(path: Path, **changes: object) -> None:
    path.write_text(
        json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8"
    )


def edit_tokenizer(folder: Path, change: Callable[[dict], object]) -> None:
    tree = json.loads((folder / "tokenizer_2" / "tokenizer.json").read_text(encoding="utf-8"))
    change(tree)
    (folder / "tokenizer_2" / "tokenizer.json").write_text(json.dumps(tree), encoding="utf-8")


def rewrite(
    path: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]
) -> None:
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def without_prefix(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix("text_model."): tensor for name, tensor in tensors.items()}


WEIGHTS = "text_encoder/model.safetensors"
UNET = "unet/diffusion_pytorch_model.safetensors"
DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing file": (
        lambda base: (base / "vae" / "config.json").unlink(),
        "vae/config.json: missing, though verification.json lists it",
    ),
    "changed file": (
        lambda base: edit(base / "text_encoder" / "config.json", hidden_act="gelu"),
        "damaged, its SHA-256",
    ),
    "truncated": (
        lambda base: (base / WEIGHTS).write_bytes((base / WEIGHTS).read_bytes()[:-40]),
        "truncated, or no safetensors file",
    ),
    "pickle": (
        lambda base: (base / WEIGHTS).rename(base / "text_encoder" / "pytorch_model.bin"),
        "pickle weights can run code when loaded",
    ),
    "code": (
        lambda base: (base / "pipeline.py").write_text("raise SystemExit(9)"),
        "brings code of its own, which this project never runs",
    ),
    "auto_map": (
        lambda base: edit(
            base / "tokenizer" / "tokenizer_config.json", auto_map={"AutoTokenizer": ["x.Y", None]}
        ),
        "auto_map asks for",
    ),
    "no pipeline": (
        lambda base: (
            [shutil.rmtree(path) for path in base.glob("t*")]
            and (base / "model_index.json").unlink()
        ),
        "holds neither",
    ),
}
# What the digests would catch, in a repository without them.
SILENT_DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "other vocabulary": (
        lambda base: edit(base / "text_encoder" / "config.json", vocab_size=7),
        "sizes of the vocabulary differ",
    ),
    "prefix": (
        lambda base: rewrite(base / WEIGHTS, without_prefix),
        "keys lack the prefix `text_model.`, which transformers 4 needs",
    ),
    "no length": (
        lambda base: edit(base / "tokenizer_2" / "tokenizer_config.json", model_max_length=None),
        "model_max_length is None",
    ),
    "EOS unknown": (
        lambda base: edit(base / "tokenizer_2" / "tokenizer_config.json", eos_token="</s>"),
        "its eos_token is '</s>', which",
    ),
    "EOS missing": (
        lambda base: edit_tokenizer(base, lambda tree: tree["post_processor"]["single"].pop()),
        "is missing from its prompts",
    ),
    "no tokenizer": (
        lambda base: (base / "tokenizer" / "tokenizer.json").unlink(),
        "repair an old-style repository with distill.repair",
    ),
    "tensor missing": (
        lambda base: rewrite(
            base / WEIGHTS,
            lambda t: {name: t[name] for name in t if "layers.1.mlp.fc1.bias" not in name},
        ),
        "text_encoder",
    ),
    "no weights of the UNet": (
        lambda base: (base / UNET).unlink(),
        "diffusion_pytorch_model.safetensors: missing; fetch the folder again",
    ),
    "UNet without a shard": (
        lambda base: (base / f"{UNET}.index.json").write_text(
            json.dumps({"weight_map": {"conv_in.weight": "lost.safetensors"}})
        ),
        "unet/lost.safetensors: missing, though diffusion_pytorch_model.safetensors.index.json",
    ),
    "a class that tokenises otherwise": (
        lambda base: edit(base / "tokenizer" / "tokenizer_config.json", truncation_side="left"),
        "gives other states than were trained for '夕暮れ",
    ),
}


@pytest.mark.parametrize("case", [*DAMAGE, *SILENT_DAMAGE])
def test_damage_is_one_line(case: str, copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damage, line = (DAMAGE | SILENT_DAMAGE)[case]
    if case in SILENT_DAMAGE:
        (copy / "verification.json").unlink()
        assert (
            verify_entry.main([str(copy)]) == 0
            and "no verification.json" in capsys.readouterr().out
        )
    damage(copy)
    capsys.readouterr()
    assert verify_entry.main([str(copy), "--json", str(copy.parent / "found.json")]) == 3
    said = [
        line
        for line in capsys.readouterr().err.splitlines()
        if line.strip() and "it/s]" not in line
    ]
    assert len(said) == 1 and said[0].startswith("distill.verify: ") and line in said[0]
    assert not (copy.parent / "found.json").exists()


def test_json_that_cannot_be_written_is_told_before_the_work(tmp_path: Path, capsys) -> None:
    for path, line in ((tmp_path / "no" / "x.json", "no such folder"), (tmp_path, "is a folder")):
        with pytest.raises(SystemExit, match="2"):
            verify_entry.main(["nowhere", "--json", str(path)])
        assert line in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def test_other_numbers_than_the_exporters_are_refused(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = json.loads((copy / "verification.json").read_text(encoding="utf-8"))
    kept["prompts"][1]["norm_of_each_position"][40] *= 1.01
    for content, line in (
        (kept, "verification.json: damaged, or not of this version (Value error, a value differs"),
        (with_sha256(kept), "gets another norm_of_each_position here than where it was exported"),
    ):
        (copy / "verification.json").write_text(json.dumps(content), encoding="utf-8")
        assert verify_entry.main([str(copy)]) == 3
        assert line in capsys.readouterr().err.strip().splitlines()[-1]


def test_the_prompts_cover_what_breaks(run: Path) -> None:
    """Over 77 tokens, empty, byte fallback, spelled-out specials: in the ids themselves."""
    encoder = open_folder(run / "export" / "base").encoders[0]
    ids = readings.encode(encoder.tokenizer, list(readings.PROMPTS))
    eos = ids.max().item()
    lengths = (ids == eos).int().argmax(dim=1)
    assert (
        ids.shape == (12, 77)
        and lengths.min() == 1
        and lengths.max() == 76
        and (ids[:, -1] == eos).all()
    )
    assert lengths.unique().numel() > 6 and "" in readings.PROMPTS


def test_to_the_hub_and_back(run: Path, tiny_sdxl: Path, tmp_path: Path) -> None:
    """`export --push`, then `verify ORG/NAME` as a user types it, and the card names the
    repository; all over HTTP.
    """
    with HubServer() as hub:
        environment = {
            **os.environ,
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_OFFLINE": "0",
            "NO_PROXY": "127.0.0.1",
        }

        def go(*words: str) -> str:
            settings = environment | {"HF_TOKEN": hub.token}
            done = subprocess.run(
                [sys.executable, "-m", *words],
                cwd=ROOT,
                env=settings,
                capture_output=True,
                text=True,
                timeout=300,
            )
            assert done.returncode == 0, done.stderr[-3000:]
            return done.stdout

        go("distill.export", *command_line(run, tiny_sdxl), "--push", "organisation/sdxl-jp")
        assert sorted(hub.repositories) == [
            "organisation/sdxl-jp-base",
            "organisation/sdxl-jp-refiner",
        ]
        for name, repository in hub.repositories.items():
            assert (
                repository.private and len(repository.commits) == 2
            )  # the empty one, and one whole
            said = go("distill.verify", name)
            assert (
                f"{name}: StableDiffusionXL" in said
                and "verified: " in said
                and "files have their digest" in said
            )
        card = (
            hub.repositories["organisation/sdxl-jp-base"]
            .commits[-1]
            .files["README.md"]
            .content.decode()
        )
        assert "organisation/sdxl-jp-base" in card and "organisation/sdxl-jp-refiner" in card
        assert str(run) not in card and str(tiny_sdxl) not in card
