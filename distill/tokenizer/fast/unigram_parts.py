"""The ids of short parts of texts by a unigram model, where no rounding of sums can change them.

Every way to cut a part into pieces is weighed, in one matrix product for all parts of a length.
Where the second best lies far behind, the best is what the tokenizer finds in whatever text the
part stands; else the order in which it adds up the text before might decide.
"""

import json
from collections import defaultdict
from functools import cache
from itertools import chain, pairwise, repeat
from operator import itemgetter
from typing import Any

import numpy as np

from distill.tokenizer.unigram import SPACE, model_input

LONGEST = 12  # characters: 2,048 ways to cut them
MARGIN = 1e-4  # far above what float64 sums over a whole text are wrong by
NO_PIECE = -1e9


class UnigramParts:
    """`backend`: a Unigram tokenizer of the tokenizers library; `plain`: characters that its steps
    before the model leave as they are.
    """

    def __init__(self, backend: Any, plain: frozenset[str]) -> None:
        vocab = json.loads(backend.to_str())["model"]["vocab"]
        self.backend, self.plain, self.anchor = backend, plain, min(plain, default="")
        self.piece_ids = {piece: i for i, (piece, _) in enumerate(vocab)}
        self.scores = np.array([*(score for _, score in vocab), NO_PIECE])
        self.known = frozenset(
            piece for piece in self.piece_ids if len(piece) == 1
        )  # a character that is no piece is unknown, or bytes
        self.prefix = model_input(backend, self.anchor).removesuffix(self.anchor)

    def __call__(self, parts: list[str], start: str) -> list[bytes | None]:
        """The ids (uint32) of each part, None where they are not sure.

        `start` stands before what begins its text; any other part begins with a plain character, or
        with the space before one.
        """
        result: list[bytes | None] = [None] * len(parts)
        of_length: defaultdict[int, list[int]] = defaultdict(list)
        seen = [self._seen(part, start) for part in parts]
        for i, text in enumerate(seen):
            if not text:
                result[i] = b""
            elif (
                len(text) <= LONGEST and self.known.issuperset(text) and "<0x" not in text
            ):  # some tokenizers read a byte there
                of_length[len(text)].append(i)
        for length, places in of_length.items():
            for i, ids in zip(places, self._best(length, [seen[i] for i in places]), strict=True):
                result[i] = ids
        return result

    def _seen(self, part: str, start: str) -> str:
        """What the vocabulary is looked up in."""
        if part.startswith(start):
            text = part[len(start) :]
            return (
                self.prefix + text
                if self.plain.issuperset(text) and text
                else model_input(self.backend, text)
            )
        if self.plain.issuperset(part.removeprefix(" ")):
            return part.replace(" ", SPACE)
        return model_input(self.backend, self.anchor + part).removeprefix(self.prefix + self.anchor)

    def _best(self, length: int, texts: list[str]) -> list[bytes | None]:
        spans, ways = _ways_to_cut(length)
        pieces = chain.from_iterable(map(itemgetter(*spans), texts))
        none = len(self.piece_ids)
        found = np.fromiter(
            map(self.piece_ids.get, pieces, repeat(none)), np.uint32, len(texts) * len(spans)
        ).reshape(-1, len(spans))
        sums = self.scores[found] @ ways.T
        near = sums > sums.max(axis=1, keepdims=True) - MARGIN
        sure, best = (near.sum(axis=1) == 1).tolist(), ways[near.argmax(axis=1)] > 0
        ids, ends = found[best].tobytes(), 4 * np.cumsum(best.sum(axis=1))
        return [
            ids[start:end] if ok else None
            for ok, (start, end) in zip(sure, pairwise([0, *ends.tolist()]), strict=True)
        ]


@cache
def _ways_to_cut(length: int) -> tuple[list[slice], np.ndarray]:
    """The S spans of a text of that length, in order; (2 ** (length - 1), S) which of them each way
    to cut it consists of.
    """
    spans = [(start, end) for start in range(length) for end in range(start + 1, length + 1)]
    cut = np.ones((2 ** (length - 1), length + 1), np.bool_)  # at both ends always
    cut[:, 1:-1] = np.arange(len(cut))[:, None] >> np.arange(length - 1) & 1
    ways = [
        cut[:, start] & cut[:, end] & ~cut[:, start + 1 : end].any(axis=1) for start, end in spans
    ]
    return [slice(*span) for span in spans], np.stack(ways, axis=1).astype(np.float64)
