"""The window of a prompt: SDXL and SD read 77 tokens of it at once, BOS and EOS among them.

In:  a prompt and the tokenizers that read it.
Out: how many tokens it has; the text beyond the window. The stock pipelines truncate it and only
     log that.
"""

from collections.abc import Iterable
from typing import Any

from distill.encoders.family import Family


def tokenizers(family: Family, pipelines: Iterable[Any]) -> list[Any]:
    """All that these pipelines read prompts with; a refiner may have another than its base."""
    found = (
        getattr(pipeline, part.tokenizer, None)
        for pipeline in pipelines
        for part in family.parts.values()
    )
    return [one for one in found if one is not None]


def count(prompt: str, tokenizers: Iterable[Any]) -> int:
    """The most tokens that one of the tokenizers makes of a prompt, without BOS and EOS."""
    return max(len(_ids(prompt, tokenizer)) - 2 for tokenizer in tokenizers)


def not_read(prompt: str, tokenizers: Iterable[Any]) -> str:
    """The longest end of `prompt` that one of the tokenizers truncates, decoded from its tokens;
    empty if the whole prompt is read."""
    cut = (_beyond(prompt, tokenizer) for tokenizer in tokenizers)
    return max(cut, key=len, default="")


def _beyond(prompt: str, tokenizer: Any) -> str:
    ids = _ids(prompt, tokenizer)
    # of what is too long the last token is EOS, which takes the window's last place
    beyond = (
        ids[tokenizer.model_max_length - 1 : -1] if len(ids) > tokenizer.model_max_length else []
    )
    return str(tokenizer.decode(beyond)).strip() if beyond else ""


def _ids(prompt: str, tokenizer: Any) -> list[int]:
    """BOS, the prompt, EOS."""
    ids: list[int] = tokenizer(prompt, truncation=False, padding=False).input_ids
    return ids
