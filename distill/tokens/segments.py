"""Spaces around words of sentences that have none, as the student meets them in other programs.

ComfyUI, AUTOMATIC1111's web UI, Forge, compel and others tokenise a weighted word by itself. The
tokenizer begins every text with a space, so 大きい(赤い:1.3)丸 reaches the encoder as
"大きい 赤い 丸". A student that has read such texts, its teacher the English sentence as ever, need
not mind.

In:  a text, and a tokenizer or the places of words. Out: the text with such spaces.
"""

import random
import re
from collections.abc import Iterable
from typing import Any

from configs.languages import JAPANESE

# Between two letters of a script with spaces there is no end of a word.
UNSPACED = re.compile(rf"[^\W{JAPANESE.letters}]{{2}}|.?\s.?", re.S)
MOST_WORDS = 3


def apart(text: str, words: Iterable[tuple[int, int]]) -> str:
    """The text with spaces around some words, each from character `start` to `end`; none at an end
    of the text, beside another space, or within a word of a script that has spaces.
    """
    ends = {place for word in words for place in word if _ends_a_word(text, place)}
    around = sorted(ends)
    return " ".join(text[a:b] for a, b in zip([0, *around], [*around, len(text)], strict=True))


def spaced(text: str, draw: random.Random, tokenizer: Any) -> str:
    """The text with spaces around one to three words, its tokenizer's pieces."""
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    starts = {start for start, _ in offsets.offset_mapping}
    edges = [0, *sorted(place for place in starts if _ends_a_word(text, place)), len(text)]
    words = draw.sample(range(len(edges) - 1), min(draw.randint(1, MOST_WORDS), len(edges) - 1))
    return apart(text, ((edges[word], edges[word + 1]) for word in words))


def _ends_a_word(text: str, place: int) -> bool:
    inner = 0 < place < len(text)
    return inner and not UNSPACED.fullmatch(text[place - 1 : place + 1])
