"""Pairs to memory-mapped token ids: read once, then gathered at random without tokenising again."""

import itertools
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from configs import artefact
from configs.errors import DataError
from configs.files import whole_folder
from configs.schema.distill import Distill
from configs.schema.recipe import Recipe
from corpora.pair import Pair, read_pairs, read_sample
from distill.encoders.family import Family
from distill.encoders.teacher import load_tokenizer
from distill.run import inputs, run_folder
from distill.tokenizer import portable
from distill.tokenizer.encode import batch_encoder
from distill.tokens import translations
from distill.tokens.composed import Composer
from distill.tokens.token_pairs import RAREST, STUDENT_SIDES, TEACHER, TokenPairs, column, load
from distill.tokens.translations import Text

ROWS_AT_ONCE = 4096
EVERYWHERE = np.iinfo(np.int32).max  # what is said of a pair without words


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
                recipe.run_dir / "pairs",
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


class _Columns:
    """Raw files of ids that grow, one a side, and the length of every row."""

    def __init__(self, folder: Path, tokenizers: dict[str, Any]) -> None:
        self.folder, self.tokenizers = folder, tokenizers
        self._encoders = {side: batch_encoder(one) for side, one in tokenizers.items()}
        self._dtypes = {
            side: np.uint16 if len(one) <= 2**16 else np.uint32 for side, one in tokenizers.items()
        }
        self._lengths: dict[str, list[np.ndarray]] = {
            side: [np.zeros(1, np.int64)] for side in tokenizers
        }

    def add(self, texts: list[Text]) -> None:
        """Rows (text, English)."""
        for side, encode in self._encoders.items():
            found, sizes = encode([en if column(side) == "en" else text for text, en in texts])
            self._lengths[side].append(sizes)
            with open(self.folder / f"{side}.raw", "ab") as raw:
                found.astype(self._dtypes[side]).tofile(raw)

    def save(self) -> dict[str, Any]:
        """Copies them behind `.npy` headers. Returns the counts for the manifest."""
        counts: dict[str, Any] = {}
        for side, tokenizer in self.tokenizers.items():
            offsets = np.cumsum(np.concatenate(self._lengths[side]))
            np.save(self.folder / f"{side}_offsets.npy", offsets)
            path, raw = self.folder / f"{side}_ids.npy", self.folder / f"{side}.raw"
            ids = np.lib.format.open_memmap(path, "w+", self._dtypes[side], (int(offsets[-1]),))
            ids[:] = np.memmap(raw, self._dtypes[side], "r")
            ids.flush()
            raw.unlink()
            cut = tokenizer.model_max_length
            counts |= {
                "rows": len(offsets) - 1,
                f"{side}_tokens": int(offsets[-1]),
                f"{side}_cut_at_{cut}": int((np.diff(offsets) == cut).sum()),
            }
        return counts


def rarest_words(pairs: Path) -> np.ndarray:
    """(N,) int32: of every training pair, how many of the pairs hold its rarest English word. Reads
    the pairs twice and holds a number for every word of them.
    """
    holders = Counter(word for words in _words_of_pairs(pairs) for word in words)
    rarest = (
        min((holders[word] for word in words), default=EVERYWHERE)
        for words in _words_of_pairs(pairs)
    )
    return np.fromiter(rarest, np.int32)


def _words_of_pairs(pairs: Path) -> Iterator[set[str]]:
    """The English words of each training pair, in lower case."""
    for _, english in read_sample(pairs, sys.maxsize):
        for en in english:
            yield set(translations.WORD.findall(en.lower()))


def _write(
    pairs: Path, tokenizers: dict[str, Any], folder: Path, settings: Distill
) -> dict[str, Any]:
    """Streams ids to files, those of the composed prompts last; holds `ROWS_AT_ONCE` pairs in
    memory, and the composed texts.
    """
    compose = None
    if settings.composed_share:
        table = translations.count(translations.sample(pairs), tokenizers["text"])
        compose = Composer(settings.composed_share, settings.seed, table)
    columns, composed = _Columns(folder, tokenizers), []
    names: dict[str, int] = {}
    sources: list[np.ndarray] = []
    rows = read_pairs(pairs, "train")
    with tqdm(desc="tokens", unit=" pairs") as progress:
        while block := list(itertools.islice(rows, ROWS_AT_ONCE)):
            texts = [(row.text, row.en) for row in block]
            columns.add(texts)
            if compose:
                composed += compose(texts, len(sources) * ROWS_AT_ONCE)
            sources.append(
                np.array([names.setdefault(row.source, len(names)) for row in block], np.uint16)
            )
            progress.update(len(block))
    if not sources:
        raise DataError(
            f"{pairs}: holds no training pairs; run python -m corpora.prepare with this recipe"
        )
    if compose and not composed:
        raise DataError(
            f"{pairs}: distill.composed_share {settings.composed_share:g} of so few pairs is no "
            "prompt; give more pairs or 0"
        )
    for start in range(0, len(composed), ROWS_AT_ONCE):
        columns.add(composed[start : start + ROWS_AT_ONCE])
    np.save(folder / "sources.npy", np.concatenate(sources))
    if settings.repeat_words_below:
        np.save(folder / RAREST, rarest_words(pairs))
    return {"sources": list(names), "composed": len(composed), **columns.save()}
