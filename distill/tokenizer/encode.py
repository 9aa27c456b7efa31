"""The token ids of many texts at once, by the threads of the tokenizers library."""

from collections.abc import Callable
from itertools import chain
from typing import Any

import numpy as np
from tokenizers import Tokenizer

Encode = Callable[[list[str]], tuple[np.ndarray, np.ndarray]]


def batch_encoder(tokenizer: Any) -> Encode:
    """Returns a function of T texts: all their ids, one text after another (uint32), and the number
    of ids of each text (T,).

    The ids are those of `tokenizer(texts, truncation=True, max_length=tokenizer.model_max_length)`
    for a fast tokenizer of transformers, without that call's work in Python for each text. It runs
    in as many threads as there are cores; `TOKENIZERS_PARALLELISM=false` and `RAYON_NUM_THREADS`
    change that.
    """
    # A copy: transformers changes truncation and padding of its own at every call.
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_padding()
    backend.enable_truncation(tokenizer.model_max_length)
    backend.encode_special_tokens = tokenizer.split_special_tokens

    def encode(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        encodings = backend.encode_batch_fast(texts)
        lengths = np.fromiter(map(len, encodings), np.int64, len(encodings))
        ids = chain.from_iterable(encoding.ids for encoding in encodings)
        return np.fromiter(ids, np.uint32, int(lengths.sum())), lengths

    return encode
