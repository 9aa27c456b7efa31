"""Which prompts are read by which encoders: the student, and the rows it is judged by.

In:  the recipe, its held-out pairs, the teacher's folder, `<run>/export/base`,
     `<run>/initial_student/`, the user's own repositories.
Out: `Reader`s, one a pair of encoders, each loaded only when its turn comes. Nothing on disk.

All rows are judged against the teacher's English of the same pair:
- `english_teacher`: English itself, the best there is;
- `japanese_student`: the student;
- `english_student`: English through the student: how much of it is kept;
- `code_mixed_student`: both languages in one prompt (eval/states/prompt_variants.py says how);
- `japanese_student_before_training`: the new vocabulary under the teacher's layers;
- `japanese_through_english_encoder`: what one gets with no student at all;
- `english_paraphrase`: the same scene said otherwise, through the teacher (toyworld): how far a
  translation may lie and be as good;
- `japanese_translated_to_english`: translated by `eval.translator`, then through the teacher;
- the names of `eval.repositories`: Japanese through each of them.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from configs.errors import DataError, RecipeError
from configs.references import resolve_model
from configs.schema.captions import Translator
from configs.schema.recipe import Recipe
from corpora.captions import translator
from corpora.pair import Pair
from distill.encoders.family import SDXL
from distill.encoders.student import initial_text_encoders
from distill.encoders.teacher import TextEncoders, load_text_encoders
from distill.sdxl import repository
from eval.states import prompt_variants

ENGLISH, STUDENT, ENGLISH_STUDENT, MIXED = (
    "english_teacher",
    "japanese_student",
    "english_student",
    "code_mixed_student",
)
BEFORE, THROUGH_ENGLISH = "japanese_student_before_training", "japanese_through_english_encoder"
PARAPHRASE, TRANSLATED = "english_paraphrase", "japanese_translated_to_english"
ROWS = (ENGLISH, STUDENT, ENGLISH_STUDENT, MIXED, BEFORE, THROUGH_ENGLISH, PARAPHRASE, TRANSLATED)
# Read like a row, but no row: how far they lie from the same prompts in order is what
# eval/states/word_order.py asks.
SWAPPED_EN, SWAPPED_JA, SCRAMBLED_EN, SCRAMBLED_JA = (
    "role_swapped_english",
    "role_swapped_japanese",
    "scrambled_english",
    "scrambled_japanese",
)
REORDERED = (SWAPPED_EN, SWAPPED_JA, SCRAMBLED_EN, SCRAMBLED_JA)
POSITIONS = 77


class Reader(NamedTuple):
    """Encoders, and what they are to read: `rows` has a prompt a pair."""

    load: Callable[[], TextEncoders]
    rows: dict[str, list[str]]


def readers(recipe: Recipe, pairs: list[Pair]) -> list[Reader]:
    """The teacher first.

    Raises RecipeError for a name taken twice, DataError when the translator cannot be loaded.
    """

    base, seed = resolve_model(recipe.distill.base), recipe.eval.seed
    japanese, english = [pair.text for pair in pairs], [pair.en for pair in pairs]
    made_from = prompt_variants.captioned(recipe, pairs)
    swapped_ja, swapped_en = prompt_variants.role_swapped(pairs, made_from)
    scrambled_ja, scrambled_en = (
        prompt_variants.scrambled(texts, between, seed)
        for texts, between in ((japanese, ""), (english, " "))
    )
    teacher = {ENGLISH: english, THROUGH_ENGLISH: japanese, SCRAMBLED_EN: scrambled_en}
    student = {
        STUDENT: japanese,
        ENGLISH_STUDENT: english,
        MIXED: prompt_variants.code_mixed(pairs, made_from, seed),
        SCRAMBLED_JA: scrambled_ja,
    }
    if swapped_en != english:
        teacher[SWAPPED_EN], student[SWAPPED_JA] = swapped_en, swapped_ja
    if others := prompt_variants.paraphrases(made_from, seed):
        teacher[PARAPHRASE] = others
    if recipe.eval.translator is not None:
        teacher[TRANSLATED] = _translated(recipe.eval.translator, japanese, recipe.eval.batch_size)
    return [
        Reader(lambda: load_text_encoders(base, recipe.distill.teacher), teacher),
        Reader(lambda: load_text_encoders(recipe.run_dir / "export" / "base"), student),
        Reader(
            lambda: initial_text_encoders(
                base, recipe.run_dir / "initial_student", recipe.distill.teacher
            ),
            {BEFORE: japanese},
        ),
        *(
            Reader(partial(_repository, recipe, name), {name: japanese})
            for name in recipe.eval.repositories
        ),
    ]


def _translated(reference: str, texts: list[str], batch_size: int) -> list[str]:
    """Greedy, by transformers, so that the same model says the same again. Raises DataError."""

    translate = translator.load(Translator(model=reference, engine="transformers"), Path())
    batches = tqdm(range(0, len(texts), batch_size), desc="translate", unit="batch")
    return [
        english for start in batches for english in translate(texts[start : start + batch_size])
    ]


def check_names(recipe: Recipe) -> None:
    """Raises RecipeError when a repository is called as a row is."""
    for name in recipe.eval.repositories:
        if name in (*ROWS, *REORDERED):
            raise RecipeError(
                f"eval.repositories: {name!r} is the name of a row of the comparison itself; give "
                "the repository another"
            )


def _repository(recipe: Recipe, name: str) -> TextEncoders:
    """Text encoders of a user's SDXL, or encoders alone; no code of theirs is run.

    Raises DataError.
    """

    reference = recipe.eval.repositories[name]
    folder = repository.fetch(
        reference,
        allow_patterns=[
            "model_index.json",
            "t*/*.json",
            "t*/*.safetensors",
            "t*/*.txt",
            "t*/*.model",
        ],
    )
    found = [encoder.name for encoder in repository.open_folder(folder).encoders]
    if found != list(SDXL.parts):
        raise DataError(
            f"eval.repositories.{name}: {reference} holds {' and '.join(found)} only; give an SDXL "
            "base, or both encoders"
        )
    encoders = load_text_encoders(folder)
    for tokenizer in encoders.tokenizers.values():
        if tokenizer.model_max_length != POSITIONS:  # missing, it is 1e30
            state = (
                f"its tokenizer's model_max_length is {tokenizer.model_max_length:g}, not "
                f"{POSITIONS}"
            )
            raise DataError(
                f"eval.repositories.{name}: {reference}: {state}; set it, or mend the repository "
                "with python -m distill.repair"
            )
    return encoders
