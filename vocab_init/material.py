"""What the methods work on, gathered for a recipe: the texts of the student's pieces, the
candidate tokens and, for the methods that ask, the encoder's vectors and the pairs' translations.

In:  the vocabulary and tokenizer of the student, the teacher, `<run>/pairs/`, and the encoder.
Out: a `Material`; the vectors are kept in `<run>/piece_vectors/`.
"""

import re
from functools import cache
from typing import Any

import numpy as np
import torch

from configs.schema.recipe import Recipe
from corpora.alignment import align
from distill.tokenizer.portable import Vocabulary
from vocab_init import pair_words, piece_vectors
from vocab_init.methods import Evidence, Material
from vocab_init.piece_text import WORD_END, sentencepiece_text
from vocab_init.text_kinds import kind_of
from vocab_init.transplant import Teacher

WORD = re.compile(r"[^\W\d_]{2,}|[ai]")  # letters alone; single ones are no words but these two


def of(recipe: Recipe, vocabulary: Vocabulary, student: Any, teacher: Teacher) -> Material:
    """`student`: the tokenizer of `vocabulary`."""
    texts = list(dict.fromkeys(text for text in _texts(vocabulary) if text))
    words = teacher.words()
    ends = {i for token, i in teacher.vocabulary.items() if token.endswith(WORD_END)}
    is_word = np.array([i in ends and bool(WORD.fullmatch(text)) for i, text in words])
    language = recipe.text_language

    @cache
    def vectors() -> tuple[torch.Tensor, torch.Tensor]:
        print(
            f"{len(texts):,} texts of {language.name} pieces, {len(words):,} English words and "
            "pieces of words"
        )
        sides = {"english": [text for _, text in words], "pieces": texts}
        folder = recipe.run_dir / "piece_vectors"
        english_ED, texts_TD = piece_vectors.embed(recipe.vocab_init, sides, folder)
        return texts_TD, english_ED

    @cache
    def evidence() -> Evidence:
        place = {text: i for i, text in enumerate(texts)}
        text_of_row = np.array([place.get(text, -1) for text in _texts(vocabulary)])
        found = pair_words.read(
            recipe.run_dir / "pairs", student, text_of_row, teacher.tokenizer, teacher.vocabulary
        )
        return Evidence(align(found.texts, found.words).lexicon(), found.tokens)

    def pieces(text: str) -> list[int]:
        ids: list[int] = teacher.tokenizer(text, add_special_tokens=False).input_ids
        return ids

    kinds = [kind_of(text, language) for text in texts]
    seed = recipe.distill.seed
    return Material(texts, kinds, words, is_word, pieces, vectors, evidence, seed)


def _texts(vocabulary: Vocabulary) -> list[str]:
    """Of every row; empty for one that is no normal piece."""
    return [
        sentencepiece_text(piece) if kind == "normal" else ""
        for piece, kind in zip(vocabulary.pieces, vocabulary.kinds, strict=True)
    ]
