"""Pairs of which some have the English of another, prepared with one and with two workers."""

import random
from pathlib import Path

import pytest

from corpora import prepare
from corpora.sources import part
from corpora.toyworld import captions

PAIRS, WRONG, PART_ROWS = 600, 60, 250


def prepared(
    folder: Path, semantic: str, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[str], Path, set[int]]:
    """`semantic`: the recipe's `corpora.semantic`. The bytes must not depend on the workers.

    Returns the command's arguments, the run's folder, and the rows with another's English.
    """
    texts = [(one.text, one.en) for one in captions.pairs(PAIRS, "train", seed=3)]
    wrong = sorted(random.Random(0).sample(range(PAIRS), WRONG))
    others = {row: texts[other][1] for row, other in zip(wrong, wrong[1:] + wrong[:1], strict=True)}
    path = folder / "texts.tsv"
    lines = [f"{ja}\t{others.get(row, en)}\n" for row, (ja, en) in enumerate(texts)]
    path.write_text("".join(lines), encoding="utf-8")
    listed = f"[{{kind: tsv, name: t, path: {path}, licence: x, header: false, text: 0, en: 1}}]"
    chosen = [f"corpora.sources={listed}", f"corpora.semantic={semantic}"]
    arguments = ["configs/toyworld.yaml", *chosen]
    monkeypatch.setattr(part, "PART_ROWS", PART_ROWS)
    made = []
    for workers in (1, 2):
        run = folder / str(workers)
        assert prepare.main([*arguments, f"corpora.workers={workers}", f"run={run}"]) == 0
        made.append({path.name: path.read_bytes() for path in sorted((run / "pairs").iterdir())})
    assert made[0] == made[1]
    return arguments, run, set(wrong)
