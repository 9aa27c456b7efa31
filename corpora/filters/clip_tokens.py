"""How many of the 77 tokens of SDXL's text encoders an English text takes.

In:  `corpora.clip_tokens`: the teacher's tokenizer, and the most tokens a caption may have.
Out: token counts, both specials included. Training truncates longer texts, as SDXL truncates
     prompts: their Japanese would then say more than their English.
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
    """CLIP's tokenizer, read once per process. Raises DataError."""
    from transformers import CLIPTokenizerFast  # takes seconds; only recipes with a limit need it
    from transformers.utils import logging

    logging.set_verbosity_error()  # it would warn about every text of more than 77 tokens
    folder, _, subfolder = ModelName(reference).path.partition("//")
    model_folder.check(folder)
    with explained(
        f"{reference}: CLIP's tokenizer cannot be loaded",
        "give its folder, or ORG/SDXL//tokenizer of the hub",
    ):
        tokenizer = CLIPTokenizerFast.from_pretrained(
            folder, subfolder=subfolder, trust_remote_code=False
        )
        # without a vocabulary transformers 5 makes a tokenizer of nothing but its two specials
        if len(tokenizer) <= 2:
            raise ValueError("its vocabulary is empty")
        return tokenizer


def counts(texts: list[str], settings: ClipTokens) -> list[int]:
    """Tokens of each text, both specials included. Raises DataError."""
    return [len(ids) for ids in load(settings.tokenizer)(texts).input_ids] if texts else []
