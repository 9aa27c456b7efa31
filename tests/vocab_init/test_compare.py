"""The stage with other methods than the reference's, its caches, and the comparison, with the
shipped toyworld models and a few hundred of its pairs.
"""

import json
import re
from pathlib import Path

import pytest
import torch
from conftest import write_pairs
from safetensors.torch import load_file, save_file

from configs import artefact
from configs.records import read_with_sha256
from configs.references import TOYWORLD_MODELS
from corpora import pair
from corpora.filters import sentence_encoder
from corpora.toyworld import captions
from distill.encoders.family import SDXL
from vocab_init import __main__ as entry
from vocab_init import gold, transplant
from vocab_init.compare import __main__ as compare_entry
from vocab_init.methods import METHODS

RECIPE = Path(__file__).resolve().parents[2] / "configs" / "toyworld.yaml"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with pairs of both splits."""
    folder = tmp_path / "run" / "pairs"
    manifests = []
    for split, count in (("train", 400), ("held_out", 40)):
        found = captions.pairs(count, split, 0)
        write_pairs(folder, [(one.text, one.en) for one in found], split)
        manifests.append(pair.read_manifest(folder))
    stage = pair.StageCounts(name="read", rows_in=440, dropped={}, rows_out=440)
    splits = {"train": manifests[0].splits["train"], "held_out": manifests[1].splits["held_out"]}
    update = {"splits": splits, "stages": [stage], "fingerprint": "first"}
    pair.write_manifest(folder, manifests[0].model_copy(update=update))
    return folder.parent


def stage(run: Path, *overrides: str) -> int:
    return entry.main([str(RECIPE), f"run={run}", *overrides])


def manifest(run: Path) -> dict:
    return json.loads((run / "initial_student" / "manifest.json").read_text(encoding="utf-8"))


def rows(run: Path) -> dict[str, dict]:
    lines = (run / "initial_student" / "neighbors.jsonl").read_text(encoding="utf-8").split("\n")
    return {row["piece"]: row for row in map(json.loads, lines[:-1])}


def test_translations_are_counted_from_the_pairs_and_no_encoder_is_read(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sentence_encoder, "load", lambda *arguments: pytest.fail("it was read"))
    assert stage(run, "vocab_init.method=alignment") == 0
    found = {piece: rows(run)[piece]["neighbors"][0] for piece in ("赤い", "丸", "四角", "左")}
    assert found == {"赤い": "red</w>", "丸": "circle</w>", "四角": "square</w>", "左": "left</w>"}
    details = manifest(run)["details"]
    assert details["settings"]["method"] == "alignment"
    by_rule = details["rows_by_rule"]
    assert sum(sum(rules.values()) for rules in by_rule.values()) == details["rows"]
    assert set(by_rule["word"]) == {"counted", "mean"} and set(by_rule["digit"]) == {"copied"}
    teacher = transplant.read_teacher(str(TOYWORLD_MODELS / "base"), SDXL)
    tables = load_file(run / "initial_student" / "token_embeddings.safetensors")
    for part, table_VD in tables.items():
        norm_V, own_V = table_VD.norm(dim=1), teacher.tables[part].norm(dim=1)
        assert table_VD.isfinite().all()
        assert own_V.min() * 0.999 <= norm_V.min() and norm_V.max() <= own_V.max() * 1.001
        special = [teacher.bos_id, teacher.eos_id]
        assert torch.equal(table_VD[-2:], teacher.tables[part][special])
    capsys.readouterr()
    # the result depends on the pairs, and on the method
    assert stage(run, "vocab_init.method=alignment") == 0
    assert "already there" in capsys.readouterr().out
    assert stage(run) == 3
    assert "made with method 'alignment', the recipe says 'nearest'" in capsys.readouterr().err
    folder = run / "pairs"
    other = pair.read_manifest(folder).model_copy(update={"fingerprint": "second"})
    pair.write_manifest(folder, other)
    assert stage(run, "vocab_init.method=alignment") == 0
    assert "the pairs has changed since it was made" in capsys.readouterr().err


def test_pairs_that_are_missing_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert stage(tmp_path / "run", "vocab_init.method=composed") == 3
    error = capsys.readouterr().err
    assert "there are no pairs yet; make them with: python -m corpora.prepare" in error
    assert error.count("\n") == 1


def test_vectors_are_kept_by_model_and_texts_and_a_damaged_file_is_made_again(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert stage(run) == 0
    table = (run / "initial_student" / "token_embeddings.safetensors").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(sentence_encoder, "load", lambda *arguments: pytest.fail("read again"))
        (run / "initial_student" / "manifest.json").write_text("", encoding="utf-8")
        assert stage(run) == 0
    vectors = next((run / "piece_vectors").glob("*/vectors.safetensors"))
    vectors.write_bytes(vectors.read_bytes()[:1000])
    (run / "initial_student" / "manifest.json").write_text("", encoding="utf-8")
    capsys.readouterr()
    assert stage(run) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "piece_vectors" in line]
    assert len(lines) == 1 and lines[0].endswith("it is made again") and "damaged" in lines[0]
    assert (run / "initial_student" / "token_embeddings.safetensors").read_bytes() == table
    assert stage(run.parent / "other", "vocab_init.prompt='query: '") == 0
    assert len(list((run.parent / "other" / "piece_vectors").iterdir())) == 1


def test_vectors_that_are_not_what_the_encoder_gave_are_made_again(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Sealed files whose content does not fit: another encoder under the same name wrote them."""
    assert stage(run) == 0
    folder = next((run / "piece_vectors").iterdir())
    made_from = artefact.read(folder, "").made_from
    right = load_file(folder / "vectors.safetensors")
    pieces = right["pieces"]
    other: dict[str, dict[str, torch.Tensor]] = {
        "narrower": {"pieces": pieces[:, :7].contiguous()},
        "too few": {"pieces": pieces[:7].contiguous()},
        "no numbers": {"pieces": torch.full_like(pieces, torch.nan)},
        "by another name": {"words": pieces},
    }
    for change in (*other.values(), None):
        if change is None:
            (folder / "vectors.safetensors").write_bytes(b"no safetensors")
        else:
            save_file({"english": right["english"], **change}, folder / "vectors.safetensors")
        artefact.seal(folder, made_from)
        (run / "initial_student" / "manifest.json").write_text("", encoding="utf-8")
        capsys.readouterr()
        assert stage(run) == 0
        lines = [line for line in capsys.readouterr().err.splitlines() if "piece_vectors" in line]
        assert len(lines) == 1 and lines[0].endswith("it is made again")
        assert torch.equal(load_file(folder / "vectors.safetensors")["pieces"], pieces)


def test_the_methods_side_by_side(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = [str(RECIPE), f"run={run}", "eval.pairs=40"]
    assert compare_entry.main(line) == 0
    printed = capsys.readouterr().out
    found = read_with_sha256(run / "vocab_init" / "compare.json", "make it again")["methods"]
    assert list(found) == list(METHODS)
    for method, row in found.items():
        assert f"| `{method}` |" in printed and row["bos_difference"] == 0.0
        assert row["pairs"] == 40 and 0 <= row["recall_at_1"] <= 1 and row["nmse"] > 0
        assert sum(right for right, _ in row["right_by_kind"].values()) == row["right"]
        assert row["words"] - row["right"] == len(row["wrong"])
    assert min(found, key=lambda method: found[method]["nmse"]) not in ("mean", "random")
    assert found["mean"]["right"] == 0 < found["alignment"]["right"]
    page = (run / "vocab_init" / "neighbors.html").read_text(encoding="utf-8")
    in_both = [word.text for word in gold.read("ja") if f">{word.text}</td>" in page]
    assert len(in_both) == found["nearest"]["words"] and "<script" not in page
    assert len(re.findall('class="right"', page)) == sum(row["right"] for row in found.values())
    assert sorted(path.name for path in (run / "vocab_init").iterdir()) == [
        "compare.json",
        "compare.md",
        "neighbors.html",
    ]
    assert compare_entry.main([*line, "--methods", "nearest", "neerest"]) == 2
    assert "--methods neerest: no method" in capsys.readouterr().err
