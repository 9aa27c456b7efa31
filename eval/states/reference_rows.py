"""Which encoders read which prompts: the student, and the rows it is compared with.

In:  the recipe, its held-out pairs, the teacher's folder, `<run>/export/base`,
     `<run>/initial_student/`, the user's own repositories.
Out: `RowReader`s, one a pair of encoders, each loaded only when its turn comes. Nothing on disk.

The rows are those of eval/rows.py, and the names of `eval.repositories`: the student's language
through each of them. All are compared with the teacher's encoding of the English text of the same
pair.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from configs.errors import DataError, RecipeError
from configs.references import ModelName
from configs.schema.captions import Translator
from configs.schema.recipe import Recipe
from corpora.captions import translator
from corpora.pair import Pair
from distill.encoders.family import Family
from distill.encoders.student import initial_text_encoders
from distill.encoders.teacher import TextEncoders, load_text_encoders
from distill.sdxl import repository
from eval import rows
from eval.states import prompt_forms, prompt_variants, weight_response
from eval.states.prompt_forms import Measured

POSITIONS = 77


class RowReader(NamedTuple):
    """Encoders, and what they are to read: `rows` has a prompt a pair."""

    load: Callable[[], TextEncoders]
    rows: dict[str, list[str]]


def readers(
    recipe: Recipe, family: Family, pairs: list[Pair]
) -> tuple[list[RowReader], dict[str, Measured]]:
    """The teacher first, then the student; and by form which of their rows measure it.

    Raises RecipeError for a name taken twice, DataError when the translator cannot be loaded.
    """
    base, seed = recipe.distill.base.path, recipe.eval.seed
    japanese, english = [pair.text for pair in pairs], [pair.en for pair in pairs]
    made_from = prompt_variants.captioned(recipe, pairs)
    swapped_ja, swapped_en = prompt_variants.role_swapped(pairs, made_from)
    scrambled_ja, scrambled_en = (
        prompt_variants.scrambled(texts, between, seed)
        for texts, between in ((japanese, ""), (english, " "))
    )
    teacher = {
        rows.TEACHER: english,
        rows.UNTRANSLATED: japanese,
        rows.TEACHER_SCRAMBLED: scrambled_en,
    }
    student = {
        rows.STUDENT: japanese,
        rows.STUDENT_ENGLISH: english,
        rows.STUDENT_MIXED: prompt_variants.code_mixed(pairs, made_from, seed),
        rows.STUDENT_SEGMENTED: prompt_variants.segmented(japanese, made_from, seed),
        rows.STUDENT_SCRAMBLED: scrambled_ja,
    }
    if swapped_en != english:
        teacher[rows.TEACHER_SWAPPED], student[rows.STUDENT_SWAPPED] = swapped_en, swapped_ja
    if others := prompt_variants.paraphrases(made_from, seed):
        teacher[rows.PARAPHRASE] = others
    units = prompt_forms.translations_of(recipe, pairs)
    forms = prompt_forms.made(pairs, made_from, units, seed)
    prompt_forms.add_rows(forms, teacher, student)
    weight_response.add_rows(recipe, family, pairs, units, teacher, student)
    if recipe.eval.translator is not None:
        teacher[rows.TRANSLATED] = _translated(
            recipe.eval.translator, japanese, recipe.eval.batch_size
        )
    found = [
        RowReader(lambda: load_text_encoders(base, family, recipe.distill.teacher), teacher),
        RowReader(lambda: load_text_encoders(recipe.run_dir / "export" / "base", family), student),
        RowReader(
            lambda: initial_text_encoders(
                base, family, recipe.run_dir / "initial_student", recipe.distill.teacher
            ),
            {rows.BEFORE_TRAINING: japanese},
        ),
        *(
            RowReader(partial(_repository, recipe, family, name), {name: japanese})
            for name in recipe.eval.repositories
        ),
    ]
    return found, prompt_forms.measured(forms, teacher, student)


def _translated(reference: ModelName, texts: list[str], batch_size: int) -> list[str]:
    """Greedy, by transformers, so that every run gets the same texts. Raises DataError."""
    translate = translator.load(Translator(model=reference, engine="transformers"), Path())
    batches = tqdm(range(0, len(texts), batch_size), desc="translate", unit="batch")
    return [
        english for start in batches for english in translate(texts[start : start + batch_size])
    ]


def check_names(recipe: Recipe) -> None:
    """Raises RecipeError when a repository is called as a row is."""
    for name in recipe.eval.repositories:
        if name in (*rows.ROWS, *rows.REORDERED):
            raise RecipeError(
                f"eval.repositories: {name!r} is the name of a row of the comparison itself; give "
                "the repository another"
            )


def _repository(recipe: Recipe, family: Family, name: str) -> TextEncoders:
    """Text encoders of a user's pipeline, or encoders alone; no code of theirs is run.

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
    if found != list(family.parts):
        raise DataError(
            f"eval.repositories.{name}: {reference} holds {' and '.join(found)} only; give an "
            f"{family.name} base, or all its encoders"
        )
    encoders = load_text_encoders(folder, family)
    for tokenizer in encoders.tokenizers.values():
        if tokenizer.model_max_length != POSITIONS:  # missing, it is 1e30
            state = (
                f"its tokenizer's model_max_length is {tokenizer.model_max_length:g}, not "
                f"{POSITIONS}"
            )
            raise DataError(
                f"eval.repositories.{name}: {reference}: {state}; set it, or repair the repository "
                "with python -m distill.repair"
            )
    return encoders
