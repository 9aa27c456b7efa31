"""The student's tokenizer and its first token embeddings: every Japanese piece starts from English
tokens, which `vocab_init.method` finds.
"""

import json
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from configs import artefact
from configs.errors import DataError, one_line
from configs.files import file_sha256, whole_folder
from configs.schema.recipe import Recipe
from corpora import pair
from distill.run import run_folder
from distill.sdxl.base import settled
from distill.tokenizer import portable, unigram
from vocab_init import material, methods, transplant
from vocab_init.text_kinds import TextKind
from vocab_init.transplant import VocabularyRow

SHOWN = 12
# Of the methods that read the pairs, which the result then depends on.
FROM_PAIRS = ("alignment", "alignment_nearest", "composed")


def initialise(recipe: Recipe) -> None:
    """Writes `<run>/initial_student/` unless it is complete already. Raises DataError."""
    recipe, family = settled(recipe)
    target = recipe.run_dir / "initial_student"
    tokenizer = unigram.find(recipe.vocab_init.tokenizer.path)
    teacher = transplant.read_teacher(recipe.distill.base.path, family, recipe.distill.teacher)
    made_from = {"the teacher": teacher.sha256(), "vocab_init.tokenizer": file_sha256(tokenizer)}
    method = recipe.vocab_init.method
    if method in FROM_PAIRS:
        made_from["the pairs"] = pair.read_manifest(recipe.run_dir / "pairs").fingerprint
    settings = {
        "base": recipe.distill.base,
        "teacher": recipe.distill.teacher,
        **recipe.vocab_init.model_dump(
            mode="json", include={"sentence_encoder", "prompt", "pad_vocab_to_multiple_of"}
        ),
        **({} if method == "nearest" else {"method": method}),  # older ones do not name it
    }
    if _finished(target, settings, made_from):
        print(f"{target} is already there for these settings")
        return
    with whole_folder(target, replace=True) as work:
        vocabulary = portable.build(
            tokenizer, work / "tokenizer", recipe.vocab_init.pad_vocab_to_multiple_of
        )
        student = portable.load(work / "tokenizer")
        known = material.of(recipe, vocabulary, student, teacher)
        rows = transplant.rows(vocabulary, teacher, methods.starts(method, known))
        tables = transplant.transplant(rows, teacher, scale=method != "nearest")
        _write(work, rows, tables)
        counts = {
            "rows": len(rows),
            "rows_by_kind": Counter(row.kind for row in rows),
            "rows_by_rule": account(rows, dict(zip(known.texts, known.kinds, strict=True))),
            "norms": {name: norms(tables[name], teacher.tables[name]) for name in tables},
        }
        artefact.seal(work, made_from, {"settings": settings, **counts})
    _show(rows)
    print(f"{target}: {len(rows):,} rows; neighbors.jsonl lists where each starts from")


def _finished(target: Path, settings: dict[str, Any], made_from: dict[str, str]) -> bool:
    """Whether the result exists, is undamaged and was made from these settings and inputs. Prints
    the reason if it must be made again.

    Raises DataError if it was made with other settings, or if an input has changed and the run has
    checkpoints.
    """
    if not target.exists():
        return False
    try:
        manifest = artefact.read(target, "it is made again")
    except DataError as error:
        print(one_line(error), file=sys.stderr)
        return False
    kept = manifest.details.get("settings", {})
    names = dict.fromkeys([*settings, *(["method"] if "method" in kept else [])])
    other = next((key for key in names if kept.get(key) != settings.get(key)), None)
    if other is not None:
        was, now = kept.get(other, "nearest"), settings.get(other, "nearest")
        raise DataError(
            f"{target}: made with {other} {was!r}, the recipe says {now!r}; give another run "
            "folder (run=...) or delete this one"
        )
    name = artefact.changed(manifest, made_from)
    if name is not None and run_folder.has_checkpoints(target.parent / "distill"):
        raise DataError(
            f"{target}: {name} has changed since it was made; give another run folder (run=...), "
            "or put the old one back"
        )
    if name is not None:
        print(f"{target}: {name} has changed since it was made; it is made again", file=sys.stderr)
    return name is None


def account(rows: list[VocabularyRow], kinds: dict[str, TextKind]) -> dict[str, dict[str, int]]:
    """By kind of row (a normal piece's: that of its text), how many each rule placed."""
    found: dict[str, Counter[str]] = {}
    for row in rows:
        kind = kinds.get(row.text, "space") if row.kind == "normal" else row.kind
        found.setdefault(kind, Counter())[row.rule] += 1
    return {kind: dict(sorted(rules.items())) for kind, rules in sorted(found.items())}


def norms(student_VD: torch.Tensor, teacher_VD: torch.Tensor) -> dict[str, float]:
    """The smallest, median and largest norm of each side's rows, and of the dimensions' standard
    deviations over the rows the smallest and largest ratio to the teacher's.
    """
    found: dict[str, float] = {}
    for side, table_VD in (("student", student_VD), ("teacher", teacher_VD)):
        norm_V = table_VD.norm(dim=1)
        values = norm_V.min(), norm_V.median(), norm_V.max()
        named = zip(("smallest", "median", "largest"), values, strict=True)
        found |= {f"{side}_{name}": round(float(value), 6) for name, value in named}
    ratio_D = student_VD.std(dim=0) / teacher_VD.std(dim=0).clamp_min(1e-12)
    found |= {"spread_smallest": float(ratio_D.min()), "spread_largest": float(ratio_D.max())}
    return found


def _write(work: Path, rows: list[VocabularyRow], tables: dict[str, Any]) -> None:
    save_file(tables, work / "token_embeddings.safetensors")
    lines = [json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows]
    (work / "neighbors.jsonl").write_text("".join(lines), encoding="utf-8")


def _show(rows: list[VocabularyRow]) -> None:
    """Prints the number of rows by kind, and the neighbours of SHOWN evenly spaced rows."""
    print(
        "rows: "
        + ", ".join(
            f"{count:,} {kind}" for kind, count in Counter(row.kind for row in rows).most_common()
        )
    )
    normal = [row for row in rows if row.kind == "normal" and row.neighbor_ids]
    for row in normal[:: max(1, len(normal) // SHOWN)][:SHOWN]:
        neighbors = ", ".join(
            f"{name} {similarity:.2f}"
            for name, similarity in zip(row.neighbors[:3], row.similarity, strict=False)
        )
        print(f"  {row.text} -> {neighbors}")
