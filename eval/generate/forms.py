"""Scenes painted from prompts in other forms: words or clauses in English, words
tokenised by themselves.

In:  a world's captions, `eval.forms`, what eval/states/prompt_forms.py makes of both; pictures.
Out: the student's prompts by row; the right scenes of each form, as a share of those that the
     teacher paints of the same captions' English. Nothing on disk.
"""

from typing import Any

import numpy as np

from configs.errors import RecipeError
from configs.schema.recipe import Recipe
from corpora.pair import Pair
from eval.intervals import bootstrap, share
from eval.rows import TEACHER
from eval.states import prompt_forms
from eval.states.prompt_forms import STUDENTS
from eval.states.prompt_variants import SaidScene


def prompts(recipe: Recipe, said: list[SaidScene] | None) -> dict[str, list[str]]:
    """By row what the student reads, a prompt a caption; empty without `eval.forms`.

    Raises RecipeError where there are no scenes, DataError for the run's pairs and tokenizer.
    """
    chosen = recipe.eval.forms
    if not chosen:
        return {}
    if said is None:
        raise RecipeError(
            f"eval.forms: {', '.join(chosen)}, but a scene can be read only in the pictures of "
            "toyworld or emojiworld, as the recipe's first source; leave it out"
        )
    pairs = [Pair("", one.caption.text, one.caption.en, "", "", 1.0, 1.0) for one in said]
    units = prompt_forms.translations_of(recipe, pairs)
    found = prompt_forms.made(pairs, said, units, recipe.eval.seed)
    return {f"{STUDENTS}{form}": found[form].student for form in chosen}


def accuracies(
    asked: dict[str, list[str]], plain: list[str], right: dict[str, list[bool]], seed: int
) -> dict[str, dict[str, Any]]:
    """`{form: {"scene_accuracy": share, "of_the_teacher": {"value", "low", "high"}}}` of the
    captions that the form changes. `plain`: the captions as they are; `right`: by row, the teacher
    among them, whether each picture is. `of_the_teacher` is None where the teacher paints none
    right. A form that changes no caption is left out.
    """
    found = {}
    for row, texts in asked.items():
        changed = np.array([one != other for one, other in zip(texts, plain, strict=True)])
        if changed.any():
            own, teachers = (np.array(right[name])[changed] for name in (row, TEACHER))
            ratio = bootstrap(own, teachers, seed) if teachers.any() else None
            numbers = {"scene_accuracy": share(own.tolist()), "of_the_teacher": ratio}
            found[row.removeprefix(STUDENTS)] = numbers
    return found
