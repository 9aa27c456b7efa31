"""How many tokens an English text takes of the 77 that SDXL's text encoders read.

In:  `corpora.clip_tokens`: the tokenizer of the SDXL that teaches, and the most a caption may take.
Out: numbers of tokens, both specials counted. What is longer is cut in training, as SDXL cuts
     prompts: its Japanese would then say more than its English.
"""

from functools import lru_cache
from typing import Any

from configs import model_folder
from configs.errors import explained
from configs.references import ModelName
from configs.schema.corpora import ClipTokens

REASON = "too_many_clip_tokens"


@lru_cache(maxsize=1)
def load(reference: str) -> Any:
    """CLIP's tokenizer, read once a process. Raises DataError."""
    from transformers import CLIPTokenizerFast  # seconds, which recipes without a limit do without
    from transformers.utils import logging

    logging.set_verbosity_error()  # it would warn of every text that is longer than 77
    folder, _, subfolder = ModelName(reference).path.partition("//")
    model_folder.check(folder)
    with explained(
        f"{reference}: CLIP's tokenizer cannot be loaded",
        "give its folder, or ORG/SDXL//tokenizer of the hub",
    ):
        tokenizer = CLIPTokenizerFast.from_pretrained(
            folder, subfolder=subfolder, trust_remote_code=False
        )
        if (
            len(tokenizer) <= 2
            # of a folder without a vocabulary transformers 5 makes a tokenizer that knows its two
            # specials
        ):
            raise ValueError("its vocabulary is empty")
        return tokenizer


def counts(texts: list[str], settings: ClipTokens) -> list[int]:
    """Of each text, the two specials among them. Raises DataError."""
    return [len(ids) for ids in load(settings.tokenizer)(texts).input_ids] if texts else []
