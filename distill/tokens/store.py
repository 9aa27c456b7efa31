"""Pairs to memory-mapped token ids: read once, then gathered at random without tokenising again."""

import itertools
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from configs import artefact
from configs.errors import DataError
from configs.files import whole_folder
from configs.schema.distill import Distill
from configs.schema.recipe import Recipe
from corpora.pair import Pair, read_pairs
from distill.encoders.family import Family
from distill.encoders.teacher import load_tokenizer
from distill.run import inputs, run_folder
from distill.tokenizer import portable
from distill.tokenizer.encode import batch_encoder
from distill.tokens import segments
from distill.tokens.token_pairs import STUDENT_SIDES, TEACHER, TokenPairs, column, load

ROWS_AT_ONCE = 4096


def stored(recipe: Recipe, family: Family) -> TokenPairs | None:
    """What `<run>/tokens/` holds; None if it is missing, damaged or made from other inputs.

    Raises DataError if one of those inputs is missing.
    """
    target = recipe.run_dir / "tokens"
    if not (target / artefact.MANIFEST).is_file():
        return None

    made_from = inputs.of_tokens(recipe, family)
    try:
        manifest = artefact.read(target, "")
    except DataError:
        return None
    return load(target, family) if artefact.changed(manifest, made_from) is None else None


def prepare(recipe: Recipe, family: Family, made_from: dict[str, str] | None = None) -> TokenPairs:
    """Tokenises the training pairs unless `<run>/tokens/` holds their ids already, undamaged.
    `made_from`: the result of `inputs.of_tokens`, if it is known.

    Raises DataError for inputs that are missing, or have changed since the run's training began.
    """
    target = recipe.run_dir / "tokens"
    made_from = made_from or inputs.of_tokens(recipe, family)
    if run_folder.must_be_made(target, made_from, recipe.run_dir / "distill"):
        with whole_folder(target, replace=True) as work:
            counts = _write(
                read_pairs(recipe.run_dir / "pairs", "train"),
                load_tokenizers(recipe, family),
                work,
                recipe.distill,
            )
            artefact.seal(work, made_from, counts)
    return load(target, family)


def load_tokenizers(recipe: Recipe, family: Family) -> dict[str, Any]:
    """By side. Raises DataError."""
    base = recipe.distill.base.path
    return by_side(
        {name: load_tokenizer(base, part) for name, part in family.parts.items()},
        portable.load(recipe.run_dir / "initial_student" / "tokenizer"),
    )


def by_side(teacher: dict[str, Any], student: Any) -> dict[str, Any]:
    """The tokenizer of every side: the teacher's of each part, the student's for both languages."""
    return {f"{TEACHER}{name}": tokenizer for name, tokenizer in teacher.items()} | dict.fromkeys(
        STUDENT_SIDES, student
    )


def in_memory(pairs: list[Pair], tokenizers: dict[str, Any]) -> TokenPairs:
    """The ids of a few pairs, as `prepare` would store them, without their sources."""
    found = {
        side: batch_encoder(tokenizer)([getattr(row, column(side)) for row in pairs])
        for side, tokenizer in tokenizers.items()
    }
    offsets = {side: np.cumsum([0, *sizes]) for side, (_, sizes) in found.items()}
    return TokenPairs({side: ids for side, (ids, _) in found.items()}, offsets)


def _write(
    pairs: Any, tokenizers: dict[str, Any], folder: Path, settings: Distill
) -> dict[str, Any]:
    """Streams ids to raw files, then copies them behind `.npy` headers; holds `ROWS_AT_ONCE` rows
    in memory.
    """
    spaced = partial(
        segments.spaced,
        share=settings.segmented_share,
        seed=settings.seed,
        tokenizer=tokenizers["text"],
    )
    dtypes = {
        side: np.uint16 if len(tokenizer) <= 2**16 else np.uint32
        for side, tokenizer in tokenizers.items()
    }
    encoders = {side: batch_encoder(tokenizer) for side, tokenizer in tokenizers.items()}
    lengths: dict[str, list[np.ndarray]] = {side: [np.zeros(1, np.int64)] for side in tokenizers}
    names: dict[str, int] = {}
    sources: list[np.ndarray] = []
    with ExitStack() as stack, tqdm(desc="tokens", unit=" pairs") as progress:
        raw = {side: stack.enter_context(open(folder / f"{side}.raw", "wb")) for side in tokenizers}
        while rows := list(itertools.islice(pairs, ROWS_AT_ONCE)):
            sources.append(
                np.array([names.setdefault(row.source, len(names)) for row in rows], np.uint16)
            )
            for side, encode in encoders.items():
                texts = [getattr(row, column(side)) for row in rows]
                if side == "text" and settings.segmented_share:
                    texts = spaced(texts, first_row=(len(sources) - 1) * ROWS_AT_ONCE)
                found, sizes = encode(texts)
                lengths[side].append(sizes)
                found.astype(dtypes[side]).tofile(raw[side])
            progress.update(len(rows))
    if len(lengths["text"]) == 1:
        raise DataError(
            f"{folder.parent / 'pairs'}: holds no training pairs; run python -m corpora.prepare "
            "with this recipe"
        )
    np.save(folder / "sources.npy", np.concatenate(sources))
    counts: dict[str, Any] = {"sources": list(names)}
    for side, tokenizer in tokenizers.items():
        offsets, cut = np.cumsum(np.concatenate(lengths[side])), tokenizer.model_max_length
        np.save(folder / f"{side}_offsets.npy", offsets)
        ids = np.lib.format.open_memmap(
            folder / f"{side}_ids.npy", "w+", dtypes[side], (int(offsets[-1]),)
        )
        ids[:] = np.memmap(folder / f"{side}.raw", dtypes[side], "r")
        ids.flush()
        (folder / f"{side}.raw").unlink()
        counts |= {
            "rows": len(offsets) - 1,
            f"{side}_tokens": int(offsets[-1]),
            f"{side}_cut_at_{cut}": int((np.diff(offsets) == cut).sum()),
        }
    return counts
