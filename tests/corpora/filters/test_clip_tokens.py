"""Pairs whose English SDXL would cut are dropped where the recipe says so, by the teacher's own
count.
"""

import re
from pathlib import Path

import pytest
from transformers import CLIPTokenizer

from configs.references import TOYWORLD_MODELS
from corpora import prepare
from corpora.inspect import __main__ as inspect_entry
from corpora.pair import read_manifest, read_pairs
from corpora.toyworld import captions

LIMIT = "corpora.clip_tokens={tokenizer: toyworld:base/tokenizer, most: 16}"


def test_exactly_the_longer_ones_go_and_inspect_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = list({(one.text, one.en): None for one in captions.pairs(300, "train", seed=9)})
    (tmp_path / "t.tsv").write_text("".join(f"{ja}\t{en}\n" for ja, en in texts), encoding="utf-8")
    path = tmp_path / "t.tsv"
    source = f"{{kind: tsv, name: t, path: {path}, licence: x, header: false, text: 0, en: 1}}"
    arguments = [
        "configs/toyworld.yaml",
        f"run={tmp_path / 'run'}",
        f"corpora.sources=[{source}]",
        LIMIT,
    ]
    assert prepare.main(arguments) == 0
    count = CLIPTokenizer.from_pretrained(TOYWORLD_MODELS / "base" / "tokenizer")
    short = {en for _, en in texts if len(count(en).input_ids) <= 16}
    assert 0 < len(short) < len({en for _, en in texts})
    assert {pair.en for pair in read_pairs(tmp_path / "run" / "pairs", "train")} == short
    stages = {stage.name: stage for stage in read_manifest(tmp_path / "run" / "pairs").stages}
    assert list(stages) == ["read", "filter", "language_id", "clip_tokens", "deduplicate", "split"]
    assert stages["clip_tokens"].dropped["too_many_clip_tokens"] == sum(
        en not in short for _, en in texts
    )
    capsys.readouterr()
    row = next(number for number, (_, en) in enumerate(texts) if en not in short)
    assert inspect_entry.main([*arguments, f"t:{row}"]) == 0
    shown = capsys.readouterr().out
    needed = len(count(texts[row][1]).input_ids)
    assert (
        "dropped by clip_tokens: too_many_clip_tokens" in shown
        and f"to keep it: corpora.clip_tokens.most={needed}" in shown
    )
    assert inspect_entry.main([*arguments, f"corpora.clip_tokens.most={needed}", f"t:{row}"]) == 0
    assert "with these settings it would be kept" in capsys.readouterr().out


def test_a_wrong_tokenizer_is_one_line_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        prepare.main(
            [
                "configs/toyworld.yaml",
                f"run={tmp_path}",
                f"corpora.clip_tokens={{tokenizer: {tmp_path}}}",
            ]
        )
        == 3
    )
    assert re.search(
        r"CLIP's tokenizer cannot be loaded .* give its folder",
        capsys.readouterr().err.strip().splitlines()[-1],
    )
