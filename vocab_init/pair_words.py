"""The parallel pairs as texts of Japanese pieces and as English words, to be aligned.

In:  `<run>/pairs/` (the training split), the student's tokenizer, the teacher's.
Out: `PairWords`; nothing on disk.

An English word is what CLIP cuts into one token that ends a word, or into several of which the last
does. Pieces with and without `▁` have one text and are counted together.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from corpora.alignment import Ragged
from corpora.pair import read_sample
from vocab_init.piece_text import WORD_END

# Beyond that every second, third, ... row is read: more pairs change few first translations, and
# tokenising half a million takes two minutes on one core.
MOST_PAIRS = 500_000


class PairWords(NamedTuple):
    """`texts`, `words`: of each pair, indices of texts of pieces and of English words.

    `tokens`: the CLIP tokens of each English word. Those with one token come first and have the
    token's id as their index.
    """

    texts: Ragged
    words: Ragged
    tokens: list[tuple[int, ...]]


def read(
    pairs: Path, student: Any, text_of_row: np.ndarray, teacher: Any, vocabulary: dict[str, int]
) -> PairWords:
    """Tokenises the training pairs.

    `student`, `teacher`: tokenizers. `text_of_row`: by row of the student's vocabulary the index of
    its text, -1 for a row without one. `vocabulary`: the teacher's ids by token. Raises DataError
    where there are no pairs.
    """
    is_end = np.zeros(max(vocabulary.values()) + 1, dtype=bool)
    is_end[[i for token, i in vocabulary.items() if token.endswith(WORD_END)]] = True
    several: dict[tuple[int, ...], int] = {}
    texts, words = [], []
    for text, en in read_sample(pairs, MOST_PAIRS):
        for ids in _ids(student, text):
            found = text_of_row[np.array(ids, dtype=np.int64)]
            texts.append(found[found >= 0].tolist())
        words += [_words(ids, is_end, several) for ids in _ids(teacher, en)]
    tokens = [(i,) for i in range(len(is_end))] + list(several)
    return PairWords(Ragged.of(texts), Ragged.of(words), tokens)


def _ids(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    """Whole texts, however long; `verbose=False`: no warning about that."""
    found: list[list[int]] = tokenizer(texts, add_special_tokens=False, verbose=False).input_ids
    return found


def _words(ids: list[int], is_end: np.ndarray, several: dict[tuple[int, ...], int]) -> list[int]:
    """Indices of the words of a text; new ones of several tokens are added to `several`."""
    found: list[int] = []
    word: list[int] = []
    for one in ids:
        word.append(one)
        if is_end[one]:
            single = len(word) == 1
            found.append(
                one if single else several.setdefault(tuple(word), len(is_end) + len(several))
            )
            word = []
    return found
