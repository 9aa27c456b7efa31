"""Prompts in the forms that people write: lists, tags behind a sentence, words and clauses of both
languages. How far is the UNet's prediction from the teacher's, which reads the English of the same
form?

In:  the held-out pairs, the student's tokenizer, and the training pairs: with the held-out ones
     they give a table of translations.
Out: prompts a form, one a pair; noise-prediction gaps by form. Nothing on disk.

A form's gap is relative to what the teacher's own prompt of that form changes, as any gap is. It is
over the pairs that the form changes: not every sentence has two clauses.
"""

import random
from collections.abc import Sequence
from typing import Any, NamedTuple

from configs.schema.recipe import Recipe
from corpora.pair import Pair
from distill.tokenizer import portable
from distill.tokens import translations
from distill.tokens.composed import clauses_of
from distill.tokens.translations import Phrase, Text, phrases
from eval.intervals import bootstrap
from eval.rows import STUDENT, TEACHER
from eval.states import prompt_variants
from eval.states.noise_gap import EMPTY, REACTION, Distances
from eval.states.prompt_variants import SaidScene

STUDENTS, TEACHERS = "student_form_", "teacher_form_"
WORD_SHARES = (10, 30, 50)  # percent
IN_LIST = 4


class Form(NamedTuple):
    """`teacher` is None where it reads the pairs' own English."""

    student: list[str]
    teacher: list[str] | None = None


def is_form(row: str) -> bool:
    """Whether a row's name is that of a form: it is in no table of states."""
    return row.startswith((STUDENTS, TEACHERS))


def made(
    recipe: Recipe, pairs: Sequence[Pair], made_from: list[SaidScene | None]
) -> dict[str, Form]:
    """By form: `words_10`, `words_30`, `words_50` (of a world's captions), `clauses_ja_en`,
    `clauses_en_ja`, `clauses_swapped` (of sentences with two clauses in both languages), `list`,
    `list_mixed`, `list_english`, `sentence_tags`, `tags_sentence`. Raises DataError.
    """
    texts = [(pair.text, pair.en) for pair in pairs]
    found: dict[str, Form] = {}
    if all(made_from):
        for share in WORD_SHARES:
            mixed = prompt_variants.code_mixed(
                list(pairs), made_from, recipe.eval.seed, share / 100
            )
            found[f"words_{share}"] = Form(mixed)
    tokenizer = portable.load(recipe.run_dir / "initial_student" / "tokenizer")
    known = [*translations.sample(recipe.run_dir / "pairs"), *texts]
    table = translations.count(known, tokenizer)
    units = table.units(texts)
    clauses = [clauses_of(*text, own) for text, own in zip(texts, units, strict=True)]
    for name, languages, swapped in (
        ("clauses_ja_en", (0, 1), False),
        ("clauses_en_ja", (1, 0), False),
        ("clauses_swapped", (0, 0), True),
    ):
        prompts = []
        for (text, _), two in zip(texts, clauses, strict=True):
            parts = (
                [one[language] for one, language in zip(two, languages, strict=True)] if two else []
            )
            prompts.append("、".join(parts[::-1] if swapped else parts) or text)
        found[name] = Form(prompts)
    pool = [phrase for text, own in zip(texts, units, strict=True) for phrase in _long(text, own)]
    return found | (_listed(texts, pool, recipe.eval.seed) if pool else {})


def _long(text: Text, units: Any) -> list[Phrase]:
    found = phrases(text, units)
    return [phrase for phrase in found if " " in phrase.en] or found


def _listed(texts: list[Text], pool: list[Phrase], seed: int) -> dict[str, Form]:
    draws = [random.Random(f"{seed} {text}") for text, _ in texts]
    lists = [draw.sample(pool, min(len(pool), IN_LIST)) for draw in draws]
    english = [", ".join(one.en for one in own) for own in lists]
    mixed = [[one[i % 2] for i, one in enumerate(own)] for own in lists]
    two = [", ".join(one.en for one in own[:2]) for own in lists]
    behind = [f"{en}, {tags}" for (_, en), tags in zip(texts, two, strict=True)]
    before = [f"{tags}, {en}" for (_, en), tags in zip(texts, two, strict=True)]
    return {
        "list": Form(["、".join(one.text for one in own) for own in lists], english),
        "list_mixed": Form([", ".join(own) for own in mixed], english),
        "list_english": Form(english, english),
        "sentence_tags": Form(
            [f"{t}, {tags}" for (t, _), tags in zip(texts, two, strict=True)], behind
        ),
        "tags_sentence": Form(
            [f"{tags}, {t}" for (t, _), tags in zip(texts, two, strict=True)], before
        ),
    }


def rows(forms: dict[str, Form]) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """What the teacher and the student read, by row."""
    teacher = {f"{TEACHERS}{name}": form.teacher for name, form in forms.items() if form.teacher}
    return teacher, {f"{STUDENTS}{name}": form.student for name, form in forms.items()}


def comparisons(names: Sequence[str]) -> list[tuple[str, str]]:
    """What `noise_gap.distances` must compare for the forms among these rows."""
    couples = []
    for row in names:
        if row.startswith(STUDENTS):
            teacher = _teacher_of(row, names)
            couples += [(row, teacher), (teacher, EMPTY)]
    return [couple for couple in dict.fromkeys(couples) if couple != REACTION]


def measure(student: dict[str, list[str]], base: Distances, seed: int) -> dict[str, dict[str, Any]]:
    """`{form: {"noise_gap": {"value", "low", "high"}, "pairs"}}`; `student`: what it read, by row.
    A form that changes no pair is left out.
    """
    found = {}
    names = [row for couple in base.squared for row in couple]
    for row, prompts in student.items():
        if row.startswith(STUDENTS):
            teacher = _teacher_of(row, names)
            errors_N, reaction_N = (
                base.squared[couple].sum(axis=1) for couple in ((row, teacher), (teacher, EMPTY))
            )
            couples = zip(prompts, student[STUDENT][: len(errors_N)], strict=False)
            changed = [one != plain for one, plain in couples]
            if any(changed):
                gap = bootstrap(errors_N[changed], reaction_N[changed], seed)
                found[row.removeprefix(STUDENTS)] = {"noise_gap": gap, "pairs": sum(changed)}
    return found


def _teacher_of(row: str, names: Sequence[str]) -> str:
    own = row.replace(STUDENTS, TEACHERS)
    return own if own in names else TEACHER
