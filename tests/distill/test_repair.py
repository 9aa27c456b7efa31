"""Old repositories, made and recorded by transformers 4.57 and diffusers 0.35 themselves: the
mended copies give the same, there and here.
"""

import json
import os
import random
import shutil
import subprocess
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from sentencepiece import SentencePieceProcessor

from configs.files import file_sha256, read_json, write_json
from corpora.toyworld import captions
from distill.repair import __main__ as repair_entry
from distill.repair import safe_copy, t5_tokenizer
from distill.repair.earlier_folder import PICKLE_OF
from distill.sdxl import repository
from distill.verify import checks, readings
from distill.verify.readings import PROMPTS

ROOT = Path(__file__).resolve().parents[2]
V4_PYTHON = Path(os.environ.get("V4_PYTHON") or ROOT / ".venv-v4" / "bin" / "python")
KINDS = (
    "base",
    "refiner",
    "base_bytes",
    "refiner_bytes",
    "sd",
    "sd_bytes",
    "jsd",
)  # of old_style_repository.py
NAMES = ["</s>", "<pad>", "<unk>", "[SEP]", "<mask>", "<extra_id_0>", "<extra_id_2>", "<s>"]
CHARACTERS = "赤い丸のにガがぱぷーabcABC <>/s12.,、。▁①㍻👍𠮷é한!\u3000\t\n\x00\x07\u200b\x1f\x85"
CLUSTERS = [
    "ｶﾞ",
    "ﾊﾟ",
    "か\u3099",
    "は\u309a",
    "👩\u200d👩\u200d👧",
    "🐈\u200d⬛",
    "<0x41>",
    "＜pad＞",
    "＜／ｓ＞",
    "  ",
    "ﬁ",
    "赤い",
    "circle",
]


def nasty_strings() -> list[str]:
    """Any characters without names of special tokens; then such names among ordinary text, at its
    beginning and at its end.
    """
    chance = random.Random(0)
    plain = [
        "".join(chance.choices([*CHARACTERS, *CLUSTERS], k=chance.randrange(30)))
        for _ in range(1500)
    ]
    plain = [text for text in plain if not any(name in text for name in NAMES)]
    around = [
        f"{left}{name}{right}"
        for name in NAMES
        for left in ("丸", "い ", "b  ")
        for right in ("赤", " い", "  a")
    ]
    spelled = [
        "".join(chance.choices([*around, "赤い", "三角", "𠮷"], k=chance.randrange(1, 8)))
        for _ in range(500)
    ]
    edges = [
        f"{left}{name}{right}"
        for name in NAMES
        for left in ("", " ", "  ")
        for right in ("赤", " 赤", "  い")
    ]
    ends = [f"赤{name}{right}" for name in NAMES if name != "</s>" for right in ("", " ", "  ")]
    return [
        *plain,
        *spelled,
        *edges,
        *ends,
        *(caption.text for caption in captions.pairs(50, "held_out", 0)),
        "赤い" * 100,
        *PROMPTS,
    ]


STRINGS = nasty_strings()


def run_v4(*arguments: object) -> None:
    command = [V4_PYTHON, ROOT / "tests" / "old_style_repository.py", *arguments]
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def old(tiny_sdxl: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every kind of repository, and what it gave. Read it, never write to it."""
    if not V4_PYTHON.is_file():
        pytest.skip(
            "the environment with transformers 4 is not there: make it (see the Makefile), or name "
            "its Python in V4_PYTHON"
        )
    folder = tmp_path_factory.mktemp("old")
    sentences = [
        text for caption in captions.pairs(1500, "train", 0) for text in (caption.text, caption.en)
    ]
    (folder / "sentences.txt").write_text("\n".join(sentences), encoding="utf-8")
    (folder / "texts.json").write_text(
        json.dumps({"prompts": PROMPTS, "strings": STRINGS, "model_max_length": 77}),
        encoding="utf-8",
    )
    run_v4("write", tiny_sdxl / "base", folder / "sentences.txt", folder / "texts.json", folder)
    return folder


@pytest.fixture(scope="module")
def mended(old: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a copy of every kind."""
    folder = tmp_path_factory.mktemp("mended")
    for kind in KINDS:
        safe_copy.repair(str(old / kind), folder / kind)
    return folder


def recorded(
    folder: Path, kind: str, file: str = "recorded.safetensors"
) -> dict[str, torch.Tensor]:
    return {
        name.partition(".")[2]: tensor
        for name, tensor in load_file(folder / file).items()
        if name.startswith(f"{kind}.")
    }


def reading(folder: Path) -> dict[str, torch.Tensor]:
    """What the stock pipeline of this environment gives."""
    prompt_embeds, pooled = readings.stock_reading(repository.open_folder(folder))
    return {"prompt_embeds": prompt_embeds} | ({} if pooled is None else {"pooled": pooled})


def tokenizer_folders(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.glob("tokenizer*")) if path.is_dir()]


@pytest.mark.parametrize("kind", KINDS)
def test_ids_are_those_of_the_slow_tokenizer(kind: str, old: Path, mended: Path) -> None:
    for source in tokenizer_folders(old / kind):
        wanted = json.loads((old / "ids.json").read_text(encoding="utf-8"))[kind][source.name]
        slow = t5_tokenizer.read(source, lower_case=kind == "jsd")
        assert not [
            text for text, ids in zip(STRINGS, wanted, strict=True) if slow.encode(text, 77) != ids
        ]
        portable = readings.encode(mended / kind / source.name, STRINGS).tolist()
        assert not [
            text for text, ids, found in zip(STRINGS, wanted, portable, strict=True) if found != ids
        ]


def test_the_older_way_of_saving_special_tokens_is_read_too(old: Path, tmp_path: Path) -> None:
    """Before transformers 4.34 there was no `added_tokens_decoder`."""
    for kind in ("base", "base_bytes", "sd"):
        for source in tokenizer_folders(old / kind):
            folder = shutil.copytree(source, tmp_path / kind / source.name)
            (folder / "added_tokens.json").unlink(missing_ok=True)
            change(folder / "tokenizer_config.json", added_tokens_decoder=None)
            new = t5_tokenizer.read(source)
            assert (
                t5_tokenizer.read(folder).added.keys() == new.added.keys() and "</s>" in new.added
            )
            assert [t5_tokenizer.read(folder).encode(text, 77) for text in STRINGS[-50:]] == [
                new.encode(text, 77) for text in STRINGS[-50:]
            ]


def test_a_prompt_that_ends_with_eos_spelled_out_gets_a_second_one(old: Path, mended: Path) -> None:
    """The one difference a `legacy` tokenizer is left with; everything before that position is the
    same.
    """
    slow = t5_tokenizer.read(old / "base" / "tokenizer")
    ids = slow.encode("赤い丸</s>", 77)
    end = ids.index(slow.eos_id)
    portable = readings.encode(mended / "base" / "tokenizer", ["赤い丸</s>"])[0].tolist()
    assert (
        portable == [*ids[: end + 1], slow.eos_id, *ids[end + 2 :]] and ids[end + 1] == slow.pad_id
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_copy_gives_here_what_the_original_gave_there(
    kind: str, old: Path, mended: Path
) -> None:
    wanted, found = recorded(old, kind), reading(mended / kind)
    assert wanted.keys() == found.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-6)


def test_the_copy_gives_there_what_the_original_gave_there(
    old: Path, mended: Path, tmp_path: Path
) -> None:
    run_v4(
        "read",
        old / "texts.json",
        tmp_path / "found.safetensors",
        *(mended / kind for kind in KINDS),
    )
    wanted, found = (
        load_file(old / "recorded.safetensors"),
        load_file(tmp_path / "found.safetensors"),
    )
    assert wanted.keys() == found.keys() and len(wanted) == 11  # four with pooled, three without
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0)


def test_jsd_was_read_in_lower_case(
    old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Under JSD's own code the slow tokenizer lowers letters: only that reading gives its ids. The
    repaired tokenizer gives them too, but for special tokens in capitals, which stay text.
    """
    source = old / "jsd" / "tokenizer"
    wanted = json.loads((old / "ids.json").read_text(encoding="utf-8"))["jsd"]["tokenizer"]
    as_they_are = t5_tokenizer.read(source)
    other = [
        text
        for text, ids in zip(STRINGS, wanted, strict=True)
        if as_they_are.encode(text, 77) != ids
    ]
    assert len(other) > 100 and all(text != text.lower() for text in other)
    assert repair_entry.main([str(old / "jsd"), "--out", str(tmp_path / "copy")]) == 0
    reason = "prompts are read in lower case, as JapaneseStableDiffusionPipeline read them"
    assert capsys.readouterr().out.rstrip().endswith(f"; {reason}")
    card = (tmp_path / "copy" / "README.md").read_text(encoding="utf-8")
    assert f"Letters: {reason}." in card and "its weights are a pickle" in card
    slow = t5_tokenizer.read(source, lower_case=True)
    capitals = "赤い</S>丸"
    assert slow.encode(capitals, 77) == slow.encode("赤い</s>丸", 77)
    portable = readings.encode(tmp_path / "copy" / "tokenizer", [capitals])[0].tolist()
    assert portable[:2] == slow.encode(capitals, 77)[:2] and portable.count(slow.eos_id) == 1
    assert {path.name for path in (tmp_path / "copy").iterdir()} == {
        *("README.md", "model_index.json", "verification.json"),
        *("scheduler", "text_encoder", "tokenizer", "unet", "vae"),
    }
    repair = [str(old / "jsd"), "--no-lower-case", "--out", str(tmp_path / "as they are")]
    assert repair_entry.main(repair) == 0
    found = readings.encode(tmp_path / "as they are" / "tokenizer", STRINGS).tolist()
    assert found == [as_they_are.encode(text, 77) for text in STRINGS]


def test_pickles_of_tensors_alone_are_read(old: Path, tmp_path: Path) -> None:
    """To the bit; `position_ids` and shared storage, which old files have, are no obstacle."""
    folder = shutil.copytree(old / "sd", tmp_path / "sd")
    tensors = {}
    for part, stem in (("text_encoder", "model"), ("unet", "diffusion_pytorch_model")):
        path = folder / part / f"{stem}.safetensors"
        tensors[part] = load_file(path)
        first = next(iter(tensors[part].values()))
        old_ones = {"position_ids": torch.arange(77)[None], "alias.position_ids": first}
        torch.save(tensors[part] | old_ones, folder / part / PICKLE_OF[stem])
        path.unlink()
    safe_copy.repair(str(folder), tmp_path / "copy", lower_case=True)
    for part, stem in (("text_encoder", "model"), ("unet", "diffusion_pytorch_model")):
        found = load_file(tmp_path / "copy" / part / f"{stem}.safetensors")
        assert found.keys() == tensors[part].keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in tensors[part].items())
    assert "(--lower-case)" in (tmp_path / "copy" / "README.md").read_text(encoding="utf-8")


def test_of_a_hub_name_pickles_are_fetched_only_where_nothing_else_is_there(
    old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = shutil.copytree(old / "jsd", tmp_path / "hub")
    tensors = torch.load(hub / "vae" / "diffusion_pytorch_model.bin", weights_only=True)
    save_file(tensors, hub / "vae" / "diffusion_pytorch_model.safetensors")
    (hub / "unet" / "other.bin").write_bytes(b"")
    got = tmp_path / "got"

    def download(name: str, allow_patterns: list[str], ignore_patterns: object) -> str:
        assert name == "rinna/japanese-stable-diffusion"
        for path in hub.rglob("*"):
            place = path.relative_to(hub)
            if path.is_file() and any(fnmatch(str(place), one) for one in allow_patterns):
                (got / place).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, got / place)
        return str(got)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    safe_copy.repair("rinna/japanese-stable-diffusion", tmp_path / "copy")
    assert sorted(path.parent.name for path in got.rglob("*.bin")) == ["text_encoder", "unet"]
    assert (tmp_path / "copy" / "vae" / "diffusion_pytorch_model.safetensors").is_file()


class Payload:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_pickle_of_more_than_tensors_is_refused_and_not_run(
    old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weight = torch.ones(2)
    for number, (content, message) in enumerate(
        (
            ({"weight": weight, "more": Payload(tmp_path / "ran")}, "nothing of it was run"),
            ({"state_dict": {"weight": weight}}, "holds more than tensors by name"),
            ([weight], "holds more than tensors by name"),
            ({"weight": weight, "epoch": 3}, "holds more than tensors by name"),
        )
    ):
        folder = shutil.copytree(old / "jsd", tmp_path / f"jsd{number}")
        torch.save(content, folder / "unet" / "diffusion_pytorch_model.bin")
        assert repair_entry.main([str(folder), "--out", str(tmp_path / "copy")]) == 3
        error = capsys.readouterr().err
        assert f"{folder}/unet/diffusion_pytorch_model.bin: " in error and message in error
        assert error.count("\n") == 1 and not (tmp_path / "copy").exists()
    assert not (tmp_path / "ran").exists()


def test_nothing_is_copied_twice_and_the_source_stays(
    old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {
        path: file_sha256(path) for path in sorted((old / "base").rglob("*")) if path.is_file()
    }
    assert repair_entry.main([str(old / "base"), "--out", str(tmp_path / "copy")]) == 0
    assert before == {
        path: file_sha256(path) for path in sorted((old / "base").rglob("*")) if path.is_file()
    }
    weights = [path.relative_to(old / "base") for path in before if path.suffix == ".safetensors"]
    assert len(weights) == 4 and all(
        (tmp_path / "copy" / path).samefile(old / "base" / path) for path in weights
    )
    assert checks.verify(str(tmp_path / "copy"))["files_with_right_digest"] >= len(before) - 2
    assert str(tmp_path) not in (tmp_path / "copy" / "README.md").read_text(encoding="utf-8")
    report = capsys.readouterr().out
    processor = SentencePieceProcessor(model_file=str(old / "base" / "tokenizer" / "spiece.model"))
    segments = [
        [
            processor.encode(part)
            for part in prompt.replace("<pad>", "</s>").replace("<unk>", "</s>").split("</s>")
        ]
        for prompt in PROMPTS
    ]
    unknown = sum(
        any(0 in ids for ids in parts) or "<unk>" in prompt
        for prompt, parts in zip(PROMPTS, segments, strict=True)
    )
    assert (
        "tokenizer: T5Tokenizer of transformers 5 makes each character it does not know an </s>: "
        f"{unknown} of {len(PROMPTS)}" in report
    )
    ids = json.loads((old / "ids.json").read_text(encoding="utf-8"))["base"]["tokenizer_2"][
        -len(PROMPTS) :
    ]
    elsewhere = sum(max(row) != 2 for row in ids)
    assert (
        elsewhere
        and f": {elsewhere} of {len(PROMPTS)} prompts; kept, since the encoder was trained so"
        in report
    )


def test_what_newer_libraries_spoilt_is_mended(old: Path, tmp_path: Path) -> None:
    """Keys without prefix (transformers 5 saves them so), half precision in the config, a length
    nobody can use.
    """
    folder = shutil.copytree(old / "base", tmp_path / "spoilt")
    path = folder / "text_encoder" / "model.safetensors"
    original = load_file(path)
    save_file({name.removeprefix("text_model."): tensor for name, tensor in original.items()}, path)
    change(folder / "text_encoder" / "config.json", torch_dtype="float16")
    change(folder / "tokenizer_2" / "tokenizer_config.json", model_max_length=512)
    (folder / "README.md").write_text(
        "---\nlicense: x\n---\nThe original's card.\n", encoding="utf-8"
    )
    safe_copy.repair(str(folder), tmp_path / "copy")
    found = load_file(tmp_path / "copy" / "text_encoder" / "model.safetensors")
    assert found.keys() == original.keys() and all(
        torch.equal(found[name], original[name]) for name in original
    )
    for name, tensor in recorded(old, "base").items():
        torch.testing.assert_close(reading(tmp_path / "copy")[name], tensor, rtol=1e-5, atol=1e-6)
    card = (tmp_path / "copy" / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlicense: x\n---\nThe original's card.\n\n## Repaired copy")
    for finding in (
        "without `text_model.`",
        "its config says float16",
        "model_max_length is 512, the encoder has 77 positions",
    ):
        assert finding in card


def test_pooled_can_be_moved_to_eos(old: Path, tmp_path: Path) -> None:
    safe_copy.repair(str(old / "refiner"), tmp_path / "copy", pool_at_eos=True)
    wanted, found = recorded(old, "refiner"), reading(tmp_path / "copy")
    torch.testing.assert_close(
        found["prompt_embeds"], wanted["prompt_embeds"], rtol=1e-5, atol=1e-6
    )
    assert not torch.allclose(found["pooled"], wanted["pooled"], atol=0.01)
    from transformers import CLIPTextModelWithProjection

    model = CLIPTextModelWithProjection.from_pretrained(old / "refiner" / "text_encoder_2").eval()
    ids_BL = torch.tensor(
        json.loads((old / "ids.json").read_text(encoding="utf-8"))["refiner"]["tokenizer_2"][
            -len(PROMPTS) :
        ]
    )
    first_B = ids_BL.eq(2).int().argmax(dim=1)
    with torch.no_grad():
        at_eos = model.text_projection(
            model(ids_BL).last_hidden_state[torch.arange(len(PROMPTS)), first_B]
        )
    torch.testing.assert_close(found["pooled"], at_eos, rtol=1e-5, atol=1e-6)


def change(path: Path, **values: Any) -> None:
    """Sets keys of a JSON file; None takes one away."""
    write_json(
        path,
        {key: value for key, value in {**read_json(path), **values}.items() if value is not None},
    )


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-8])


def cut_table(folder: Path, rows: int) -> None:
    path = folder / "text_encoder_2" / "model.safetensors"
    tensors = load_file(path)
    tensors[repository.TOKEN_EMBEDDING] = tensors[repository.TOKEN_EMBEDDING][:rows].clone()
    save_file(tensors, path)


def foreign_eos(folder: Path) -> None:
    cut_table(folder, 400)
    change(
        folder / "tokenizer_2" / "tokenizer_config.json",
        eos_token="[EOS]",
        added_tokens_decoder=None,
    )
    (folder / "tokenizer_2" / "special_tokens_map.json").unlink()


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (
        lambda folder: (folder / "text_encoder_2" / "config.json").unlink(),
        "config.json: cannot be read",
    ),
    "no spiece.model": (
        lambda folder: (folder / "tokenizer_2" / "spiece.model").unlink(),
        "spiece.model: missing",
    ),
    "cut spiece.model": (
        lambda folder: truncate(folder / "tokenizer_2" / "spiece.model"),
        "no SentencePiece model, or",
    ),
    "cut encoder": (
        lambda folder: truncate(folder / "text_encoder_2" / "model.safetensors"),
        "truncated, or no safetensors",
    ),
    "cut UNet": (
        lambda folder: truncate(folder / "unet" / "diffusion_pytorch_model.safetensors"),
        "truncated, or no safetensors",
    ),
    "pickle": (
        lambda folder: (folder / "unet" / "diffusion_pytorch_model.safetensors").rename(
            folder / "unet" / "diffusion_pytorch_model.bin"
        ),
        "diffusion_pytorch_model.bin: cannot be read as a pickle of tensors alone",
    ),
    "code": (
        lambda folder: (folder / "pipeline.py").write_text("raise SystemExit"),
        "brings code of its own",
    ),
    "auto_map": (
        lambda folder: change(
            folder / "tokenizer_2" / "tokenizer_config.json", auto_map={"A": "x.Y"}
        ),
        "auto_map asks for code",
    ),
    "custom pipeline": (
        lambda folder: change(folder / "model_index.json", _class_name=["pipeline", "Mine"]),
        "asks for code of its own",
    ),
    "small table": (lambda folder: cut_table(folder, 300), "the encoder's table 300 rows"),
    "no EOS": (foreign_eos, "eos_token ('[EOS]') is missing"),
    "another tokenizer": (
        lambda folder: change(
            folder / "model_index.json", tokenizer_2=["transformers", "BertTokenizer"]
        ),
        "is a BertTokenizer",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_what_cannot_be_mended_is_refused_in_one_line(
    name: str, old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(old / "refiner", tmp_path / "refiner")
    damage, message = DAMAGE[name]
    damage(folder)
    assert repair_entry.main([str(folder), "--out", str(tmp_path / "copy")]) == 3
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == [folder]


def test_what_needs_no_repair_is_left_alone(
    old: Path,
    mended: Path,
    tiny_sdxl: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = {
        (str(tiny_sdxl / "base"),): "English CLIPTokenizer; nothing needs repair",
        (
            str(mended / "base"),
        ): "portable PreTrainedTokenizerFast, as this project exports it; nothing needs repair",
        (str(old / "sd"), "--pool-at-eos"): "leave --pool-at-eos out",
        (str(old / "base"), "--out", str(old / "base" / "copy")): "lies inside the repository",
        (str(old / "base"), "--out", str(mended / "base")): "is there already",
    }
    for arguments, message in asked.items():
        assert repair_entry.main(list(arguments)) == 3
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())
