"""The student's tokenizer and its first token embeddings: every Japanese piece starts as the
English token nearest in meaning.
"""

import json
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from configs import artefact
from configs.errors import DataError, one_line
from configs.files import file_sha256, whole_folder
from configs.schema.recipe import Recipe
from corpora.filters import sentence_encoder
from distill.run import run_folder
from distill.sdxl.base import settled
from distill.tokenizer import portable, unigram
from distill.tokenizer.portable import Vocabulary
from vocab_init import transplant
from vocab_init.nearest import nearest
from vocab_init.piece_text import sentencepiece_text
from vocab_init.transplant import Teacher, VocabularyRow

NEIGHBORS = 3
SHOWN = 12


def initialise(recipe: Recipe) -> None:
    """Writes `<run>/initial_student/` unless it is complete already. Raises DataError."""
    recipe, family = settled(recipe)
    target = recipe.run_dir / "initial_student"
    tokenizer = unigram.find(recipe.vocab_init.tokenizer.path)
    teacher = transplant.read_teacher(recipe.distill.base.path, family, recipe.distill.teacher)
    made_from = {"the teacher": teacher.sha256(), "vocab_init.tokenizer": file_sha256(tokenizer)}
    settings = {
        "base": recipe.distill.base,
        "teacher": recipe.distill.teacher,
        **recipe.vocab_init.model_dump(
            mode="json", include={"sentence_encoder", "prompt", "pad_vocab_to_multiple_of"}
        ),
    }
    if _finished(target, settings, made_from):
        print(f"{target} is already there for these settings")
        return
    with whole_folder(target, replace=True) as work:
        vocabulary = portable.build(
            tokenizer, work / "tokenizer", recipe.vocab_init.pad_vocab_to_multiple_of
        )
        portable.load(work / "tokenizer")
        rows = transplant.rows(vocabulary, teacher, _find(recipe, vocabulary, teacher))
        _write(work, rows, transplant.transplant(rows, teacher))
        counts = {"rows": len(rows), "rows_by_kind": Counter(row.kind for row in rows)}
        artefact.seal(work, made_from, {"settings": settings, **counts})
    _show(rows)
    print(f"{target}: {len(rows):,} rows; neighbors.jsonl lists where each starts from")


def _find(
    recipe: Recipe, vocabulary: Vocabulary, teacher: Teacher
) -> dict[str, tuple[list[int], list[float]]]:
    """For the text of every normal piece, the ids and cosine similarities of the nearest English
    tokens, best first.
    """
    settings = recipe.vocab_init
    encoder = sentence_encoder.load(settings.sentence_encoder.path, "vocab_init.sentence_encoder")
    pieces = (
        piece
        for piece, kind in zip(vocabulary.pieces, vocabulary.kinds, strict=True)
        if kind == "normal"
    )
    texts = [text for text in dict.fromkeys(map(sentencepiece_text, pieces)) if text]
    words = teacher.words()
    print(
        f"{len(texts):,} texts of {recipe.text_language.name} pieces, {len(words):,} English words "
        "and pieces of words"
    )
    english_VD = sentence_encoder.embed(
        encoder, [text for _, text in words], settings.prompt, settings.batch_size
    )
    japanese_VD = sentence_encoder.embed(encoder, texts, settings.prompt, settings.batch_size)
    indices, similarity = nearest(japanese_VD, english_VD, NEIGHBORS)
    return {
        text: ([words[i][0] for i in best], [round(value, 4) for value in values])
        for text, best, values in zip(texts, indices.tolist(), similarity.tolist(), strict=True)
    }


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
    other = next((key for key, value in settings.items() if kept.get(key) != value), None)
    if other is not None:
        was, now = kept.get(other), settings[other]
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
            for name, similarity in zip(row.neighbors, row.similarity, strict=True)
        )
        print(f"  {row.text} -> {neighbors}")
