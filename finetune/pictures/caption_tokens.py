"""How many captions are longer than the text encoders read, and are therefore cut."""

import tempfile
from typing import Any

from configs.schema.recipe import Recipe
from corpora.filters import clip_tokens
from distill.tokenizer import portable

MOST = portable.MODEL_MAX_LENGTH


class CaptionTokens:
    """Counts tokens as training will: the student's tokenizer for its language, the teacher's for
    English. Raises DataError.
    """

    def __init__(self, recipe: Recipe) -> None:
        with tempfile.TemporaryDirectory() as folder:
            portable.build(recipe.vocab_init.tokenizer.path, folder)
            self.student = portable.load(folder)
        self.base = recipe.distill.base

    def too_long(self, texts: list[str], en: list[str]) -> int:
        """Of all these captions, those with more than 77 tokens, specials among them."""
        english = _too_long(clip_tokens.load(f"{self.base}//tokenizer"), en) if en else 0
        return _too_long(self.student, texts) + english


def _too_long(tokenizer: Any, texts: list[str]) -> int:
    return sum(len(ids) > MOST for ids in tokenizer(texts).input_ids) if texts else 0
