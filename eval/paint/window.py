"""The end of a prompt that is not read: SDXL and SD read one window of 77 tokens, BOS and EOS
among them.

In:  a prompt and the tokenizers that read it.
Out: the text beyond the window. The stock pipelines truncate it and only log that.
"""

from collections.abc import Iterable
from typing import Any


def not_read(prompt: str, tokenizers: Iterable[Any]) -> str:
    """The longest end of `prompt` that one of the tokenizers truncates, decoded from its tokens;
    empty if the whole prompt is read."""
    cut = (_beyond(prompt, tokenizer) for tokenizer in tokenizers)
    return max(cut, key=len, default="")


def _beyond(prompt: str, tokenizer: Any) -> str:
    ids = tokenizer(prompt, truncation=False, padding=False).input_ids
    # of what is too long the last token is EOS, which takes the window's last place
    beyond = (
        ids[tokenizer.model_max_length - 1 : -1] if len(ids) > tokenizer.model_max_length else []
    )
    return str(tokenizer.decode(beyond)).strip() if beyond else ""
