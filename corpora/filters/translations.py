"""How well the words of two sides translate each other, by probabilities counted from the pairs
themselves (corpora/alignment.py): no model is needed.

In:  cleaned rows of all parts, and which of them are left.
Out: `counted.npz`, which scores any pair; its rows are the parts' in order.

The score of a side is the mean over its units of log(p(unit | other side) / p(unit)): 0 where the
other side says nothing of it. p(unit | other side) is IBM model 1's, mixed with a SMOOTHING share
of p(unit), so that a unit without a translation costs log(SMOOTHING) at most. A pair's score is the
mean of both sides'.

Only couples that are expected SEEN times or more count. A pair that is counted explains its own
rare words, right or wrong, and one pair expects a couple less than once.

Units need no tokenizer: words; Han characters and Hangul syllables, alone and in overlapping twos;
hiragana in overlapping twos. A text holds each once. Units of fewer than FEWEST texts are left out.
"""

import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from configs.errors import DataError, first_line
from configs.files import whole
from configs.languages import KANJI_LETTERS
from corpora.alignment import Ragged, align, each_block
from corpora.filters.normalise import comparison_key

MOST_PAIRS = 500_000  # counted; beyond that every second, third, ... row
ROWS_AT_ONCE = 4096
SEEN = 1.0
SMOOTHING = 0.1
FEWEST = 2
RUN = re.compile(
    f"(?P<both>[{KANJI_LETTERS}]+|[\uac00-\ud7a3]+)|(?P<twos>[\u3041-\u309f]+)"
    "|[\u30a1-\u30ff]+|\\d+|[^\\W\\d_\u3041-\u30ff\uac00-\ud7a3" + KANJI_LETTERS + "]+"
)


def units(text: str) -> list[str]:
    """What is counted of a text of any language, each unit once, in order."""
    found: list[str] = []
    for match in RUN.finditer(comparison_key(text)):
        run = match[0]
        if match["both"] and len(run) > 1:
            found += run
        if match["both"] or match["twos"]:
            found += [run[i : i + 2] for i in range(max(1, len(run) - 1))]
        else:
            found.append(run)
    return [*dict.fromkeys(found)]


@dataclass(frozen=True)
class TranslationCounts:
    """`texts`, `words`: ids of the units of each side; `text_shares` (S,) and `word_shares` (T,):
    of all that its texts hold. The rest as in `corpora.alignment.AlignmentTable`, of the couples
    that count, the first of them none.
    """

    texts: dict[str, int]
    words: dict[str, int]
    text_shares: np.ndarray
    word_shares: np.ndarray
    keys: np.ndarray
    forward: np.ndarray
    backward: np.ndarray
    null_texts: np.ndarray
    null_words: np.ndarray

    def scores(self, text: list[str], en: list[str]) -> np.ndarray:
        """(rows,) float32; NaN where a side has no unit that was counted."""
        source, target = (
            Ragged.of([[ids[one] for one in units(row) if one in ids] for row in rows])
            for rows, ids in ((text, self.texts), (en, self.words))
        )
        found = []
        for block, keys in each_block(source, target, len(self.words)):
            place = np.searchsorted(self.keys, keys)
            is_known = self.keys.take(place, mode="clip") == keys
            forward, backward = (
                np.where(is_known, one.take(place, mode="clip"), 0.0)[block.cell]
                for one in (self.forward, self.backward)
            )
            sizes = block.source_sizes, block.target_sizes
            given_text = np.bincount(block.target, forward, len(block.target_ids))
            given_en = np.bincount(block.source, backward, len(block.source_ids))
            found.append(
                (
                    _side(given_text, self.null_words, self.word_shares, block.target_ids, *sizes)
                    + _side(
                        given_en, self.null_texts, self.text_shares, block.source_ids, *sizes[::-1]
                    )
                )
                / 2
            )
        return np.concatenate([*found, np.zeros(0)]).astype(np.float32)

    def write(self, path: Path) -> None:
        arrays: dict[str, Any] = {
            name: np.frombuffer("\n".join(value).encode(), np.uint8) if name in _NAMES else value
            for name, value in vars(self).items()
        }
        with whole(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, **arrays)


_NAMES = ("texts", "words")


@lru_cache(maxsize=1)
def read(path: Path) -> TranslationCounts:
    """Read once per process. Raises DataError."""
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
            stored: dict[str, Any] = {name: file[name] for name in file.files}
        for name in _NAMES:
            stored[name] = _numbered(stored[name].tobytes().decode())
        return TranslationCounts(**stored)
    except (OSError, ValueError, TypeError, KeyError, BadZipFile) as error:
        raise DataError(
            f"{path}: cannot be read ({first_line(error)}); delete it and run the same command "
            "again"
        ) from None


def count(parts: list[Path], is_left: np.ndarray, starts: np.ndarray) -> TranslationCounts:
    """From the rows that are left; `starts`: (parts + 1,) index of each part's first row."""
    sides = _Side(), _Side()
    step = max(1, -(-int(is_left.sum()) // MOST_PAIRS))
    chosen = np.flatnonzero(is_left)[::step]
    for text, en in _rows(parts, chosen, starts):
        for side, rows in zip(sides, (text, en), strict=True):
            for row in rows:
                side.add(units(row))
    (source, texts, text_counts), (target, words, word_counts) = (side.frequent() for side in sides)
    table = align(source, target)
    counts = table.seen >= SEEN
    keys = table.keys[counts]
    keys = keys // table.width * len(words) + keys % table.width
    return TranslationCounts(
        texts,
        words,
        text_counts / max(1, text_counts.sum()),
        word_counts / max(1, word_counts.sum()),
        np.append(-1, keys),
        np.append(0.0, table.forward[counts]),
        np.append(0.0, table.backward[counts]),
        _padded(table.null_sources, len(texts)),
        _padded(table.null_targets, len(words)),
    )


class _Side:
    """The units of many rows, as numbers in order of appearance."""

    def __init__(self) -> None:
        self.names: dict[str, int] = {}
        self.flat, self.ends = array("i"), array("q", [0])

    def add(self, row: list[str]) -> None:
        self.flat.extend([self.names.setdefault(one, len(self.names)) for one in row])
        self.ends.append(len(self.flat))

    def frequent(self) -> tuple[Ragged, dict[str, int], np.ndarray]:
        """The rows without rare units, the units' numbers, and how often each occurs."""
        flat, ends = np.frombuffer(self.flat, np.int32), np.frombuffer(self.ends, np.int64)
        counts = np.bincount(flat, minlength=len(self.names))
        stays = counts >= FEWEST
        number = np.cumsum(stays, dtype=np.int32) - 1
        kept = np.concatenate([[0], np.cumsum(stays[flat])])[ends]
        names = {name: int(number[i]) for name, i in self.names.items() if stays[i]}
        return Ragged(number[flat[stays[flat]]], kept), names, counts[stays]


def _side(
    given: np.ndarray,
    null: np.ndarray,
    shares: np.ndarray,
    ids: np.ndarray,
    other_sizes: np.ndarray,
    sizes: np.ndarray,
) -> np.ndarray:
    """(rows,): the score of one side. `given`: of each position the sum of p(unit | other unit);
    `sizes`: of each row how many positions it has, `other_sizes` on the other side.
    """
    row = np.repeat(np.arange(len(sizes)), sizes)
    probability = (given + null[ids]) / (1 + other_sizes[row])
    gain = np.log(SMOOTHING + (1 - SMOOTHING) * probability / shares[ids])
    total = np.bincount(row, gain, len(sizes))
    return np.divide(
        total, sizes, out=np.full(len(sizes), np.nan), where=(sizes > 0) & (other_sizes > 0)
    )


def _rows(
    parts: list[Path], chosen: np.ndarray, starts: np.ndarray
) -> Iterator[tuple[list[str], list[str]]]:
    """The texts of the rows `chosen`, some at a time."""
    for part, first in zip(parts, starts[:-1].tolist(), strict=True):
        for batch in pq.ParquetFile(part).iter_batches(ROWS_AT_ONCE, columns=["text", "en"]):
            last = first + batch.num_rows
            own = chosen[slice(*np.searchsorted(chosen, [first, last]))] - first
            rows = batch.take(pa.array(own))
            yield rows.column("text").to_pylist(), rows.column("en").to_pylist()
            first = last


def _numbered(names: str) -> dict[str, int]:
    return {name: i for i, name in enumerate(names.split("\n"))} if names else {}


def _padded(null: np.ndarray, count: int) -> np.ndarray:
    return np.pad(null, (0, max(0, count - len(null))))[:count]
