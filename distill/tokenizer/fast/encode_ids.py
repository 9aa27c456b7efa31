"""The ids of many texts at once: exactly those the tokenizer itself gives, several times faster.

Texts are cut where their tokenizer cannot join two characters
(`distill/tokenizer/fast/text_cuts.py`). The parts, of a few syllables or a word, have their ids
looked up once: captions are made of the same parts over and over. A part whose ids may depend on
the rest of its text (`distill/tokenizer/fast/unigram_parts.py`) has none of its own: a text that
holds one goes through the tokenizer whole.
"""

from itertools import pairwise, repeat
from typing import Any

import numpy as np

from distill.tokenizer.fast import text_cuts
from distill.tokenizer.fast.unigram_parts import UnigramParts

START = "\ud800"  # stands before every text; half a surrogate pair is in none
NEW, UNSURE = b"??", b"?"  # in place of ids, which are four bytes each
PARTS_KEPT = 2**19  # about 100 MB
LONGEST_TEXT = (
    2**16
)  # characters: over longer ones float64 sums are not as exact as the margin asks


class Encoder:
    """Encodes texts as `tokenizer(texts, truncation=True,
    max_length=tokenizer.model_max_length).input_ids` does: BOS first and EOS last.

    `tokenizer`: of transformers' fast kind, one that puts one token before a text and one after.
    Keeps the ids of the parts it has met.
    """

    def __init__(self, tokenizer: Any) -> None:
        from tokenizers import Tokenizer

        self.bos, self.eos = tokenizer("").input_ids
        self.content = tokenizer.model_max_length - 2
        # a copy: transformers sets truncation on its own at every call
        self.backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self.backend.no_truncation()
        self.backend.no_padding()
        self.backend.encode_special_tokens = tokenizer.split_special_tokens
        self.cuts = text_cuts.find(tokenizer)
        self.parts = _Parts(self.backend, self.cuts) if self.cuts is not None else None

    def __call__(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """(all texts' ids, one after another, uint32) and (T,) how many are each text's."""
        rows, counts = self._rows(texts)
        found = np.frombuffer(b"".join(rows), np.uint32)
        kept = np.minimum(counts, self.content)
        lengths = kept + 2
        ids = np.empty(int(lengths.sum()), np.uint32)
        ends, place = np.cumsum(lengths), np.arange(int(kept.sum()))
        ids[ends - lengths], ids[ends - 1] = self.bos, self.eos
        # of the i-th id that stays: where it stood, and where it goes
        shift = np.cumsum(kept) - kept
        ids[place + np.repeat(ends - lengths + 1 - shift, kept)] = found[
            place + np.repeat(np.cumsum(counts) - counts - shift, kept)
        ]
        return ids, lengths

    def _rows(self, texts: list[str]) -> tuple[list[bytes], np.ndarray]:
        """Ids as bytes, which together are those of all texts, and (T,) how many are each
        text's.
        """
        if self.parts is None or self.cuts is None or not texts:
            rows = _encode(self.backend, texts)
            return rows, np.array([len(row) // 4 for row in rows], np.int64)
        parts, firsts = self._cut(texts)
        rows, sizes = self.parts.ids(parts)
        lasts = [*firsts[1:].tolist(), len(rows)]
        unsure = np.unique(
            np.searchsorted(firsts, np.flatnonzero(sizes == len(UNSURE)), "right") - 1
        ).tolist()
        for i, row in zip(unsure, _encode(self.backend, [texts[i] for i in unsure]), strict=True):
            first, last = int(firsts[i]), lasts[i]
            rows[first:last] = [row] + [b""] * (last - first - 1)
            sizes[first], sizes[first + 1 : last] = len(row), 0
        return rows, np.add.reduceat(sizes, firsts) // 4

    def _cut(self, texts: list[str]) -> tuple[list[str], np.ndarray]:
        """The parts of all texts, and (T,) which of them is each text's first: that one begins with
        START.
        """
        assert self.cuts is not None
        together = START + START.join(texts)
        codes = np.frombuffer(together.encode("utf-32-le", "surrogatepass"), np.uint32)
        lengths = np.fromiter(map(len, texts), np.int64, len(texts))
        begins = np.cumsum(lengths + 1) - lengths - 1
        cut = self.cuts.before(codes)
        for i in np.flatnonzero(lengths > LONGEST_TEXT).tolist():
            cut[begins[i] : begins[i] + lengths[i] + 1] = False
        cut[begins] = True
        places = np.flatnonzero(cut)
        parts = [together[start:end] for start, end in pairwise([*places.tolist(), len(together)])]
        return parts, np.searchsorted(places, begins)


class _Parts(dict[str, bytes]):
    """Ids of parts, as bytes (or UNSURE), each found when it is first asked for."""

    def __init__(self, backend: Any, cuts: text_cuts.Cuts) -> None:
        super().__init__()
        self.backend = backend
        self.unigram = (
            UnigramParts(backend, cuts.plain) if type(backend.model).__name__ == "Unigram" else None
        )

    def ids(self, parts: list[str]) -> tuple[list[bytes], np.ndarray]:
        """Of every part, and how many bytes they are."""
        if len(self) > PARTS_KEPT:
            self.clear()
        rows = list(map(self.get, parts, repeat(NEW)))
        sizes = np.fromiter(map(len, rows), np.int64, len(rows))
        places = np.flatnonzero(sizes == len(NEW)).tolist()
        self._learn(list({parts[i] for i in places}))
        for i in places:
            rows[i] = self[parts[i]]
            sizes[i] = len(rows[i])
        return rows, sizes

    def _learn(self, parts: list[str]) -> None:
        if self.unigram is not None:
            found = self.unigram(parts, START)
        else:  # one by one: short words are not worth waking the library's threads
            encoded = (
                self.backend.encode(part.removeprefix(START), add_special_tokens=False)
                for part in parts
            )
            found = [np.array(encoding.ids, np.uint32).tobytes() for encoding in encoded]
        self.update(
            (part, UNSURE if ids is None else ids) for part, ids in zip(parts, found, strict=True)
        )


def _encode(backend: Any, texts: list[str]) -> list[bytes]:
    return [
        np.array(encoding.ids, np.uint32).tobytes()
        for encoding in backend.encode_batch_fast(texts, add_special_tokens=False)
    ]
