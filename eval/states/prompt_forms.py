"""Prompts in the forms that people write: lists, tags behind a sentence, words and clauses of both
languages, words tokenised by themselves, a negative prompt in English. How far is the UNet's
prediction from the teacher's, which reads the English of the same form?

In:  pairs, and what `translations_of` finds in them.
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
from distill.tokens.translations import Phrase, Text, Unit, phrases
from eval.intervals import bootstrap
from eval.rows import STUDENT, TEACHER
from eval.states import prompt_variants
from eval.states.noise_gap import EMPTY, Couple, Distances, between
from eval.states.prompt_variants import SaidScene

STUDENTS, TEACHERS = "student_form_", "teacher_form_"
WORD_SHARES = (10, 30, 50)  # percent
IN_LIST = 4
# By form how its prompts are, for people; `{language}` becomes the name of the student's language.
TITLES = {
    **{f"words_{share}": f"{share} % of the words in English" for share in WORD_SHARES},
    "apart_1": "one word tokenised by itself",
    "apart_2": "two words tokenised by themselves",
    "apart_3": "three words tokenised by themselves",
    "clauses_ja_en": "{language} clause, English clause",
    "clauses_en_ja": "English clause, {language} clause",
    "clauses_swapped": "the two {language} clauses exchanged",
    "list": "list of phrases in {language}",
    "list_mixed": "list of phrases in both languages",
    "list_english": "list of phrases in English",
    "sentence_tags": "{language} sentence, English phrases",
    "tags_sentence": "English phrases, {language} sentence",
    "negative_english": "{language} sentence, negative prompt in English",
}


class Form(NamedTuple):
    """Prompts, one a pair. `teacher` is None where it reads the pairs' own English. `negative`:
    the negative prompts, in English for both.
    """

    student: list[str]
    teacher: list[str] | None = None
    negative: list[str] | None = None


class Measured(NamedTuple):
    """The rows that read a form's prompts, and its negative ones; which pairs it changes."""

    student: str
    teacher: str
    negative: Couple | None
    changed: list[bool]

    def couples(self) -> list[Couple]:
        """What `noise_gap.distances` must compare."""
        if self.negative:
            return between(*self._guidance(self.negative))
        return [(self.student, self.teacher), (self.teacher, EMPTY)]

    def gap(self, base: Distances, seed: int) -> dict[str, Any]:
        """`{"value", "low", "high"}`. With a negative prompt, of how far the prediction moves from
        it to the prompt: this is what guidance takes it along.
        """
        if self.negative:
            student, teacher = self._guidance(self.negative)
            squared, reaction = base.squared[student], base.squared[teacher]
            errors = squared + reaction - 2 * base.inner(student, teacher)
        else:
            errors, reaction = (base.squared[couple] for couple in self.couples())
        some = self.changed[: base.pairs]
        return bootstrap(errors.sum(axis=1)[some], reaction.sum(axis=1)[some], seed)

    def _guidance(self, negative: Couple) -> tuple[Couple, Couple]:
        return (negative[0], self.student), (negative[1], self.teacher)


def is_form(row: str) -> bool:
    """Whether a row's name is that of a form: it is in no table of states."""
    return row.startswith((STUDENTS, TEACHERS))


def translations_of(recipe: Recipe, pairs: Sequence[Pair]) -> list[list[Unit]]:
    """Of each pair the pieces with their English, by a table counted from the run's training pairs
    and these. Raises DataError.
    """
    texts = [(pair.text, pair.en) for pair in pairs]
    tokenizer = portable.load(recipe.run_dir / "initial_student" / "tokenizer")
    known = [*translations.sample(recipe.run_dir / "pairs"), *texts]
    return translations.count(known, tokenizer).units(texts)


def made(
    pairs: Sequence[Pair],
    made_from: Sequence[SaidScene | None],
    units: Sequence[list[Unit]],
    seed: int,
) -> dict[str, Form]:
    """By form, as `TITLES` names them: `words_…` only of a world's captions, lists and what holds
    one where the pairs have phrases.
    """
    texts = [(pair.text, pair.en) for pair in pairs]
    japanese = [text for text, _ in texts]
    found: dict[str, Form] = {}
    if all(made_from):
        for share in WORD_SHARES:
            mixed = prompt_variants.code_mixed(list(pairs), list(made_from), seed, share / 100)
            found[f"words_{share}"] = Form(mixed)
    for count in (1, 2, 3):
        found[f"apart_{count}"] = Form(
            prompt_variants.segmented(japanese, list(made_from), seed, count)
        )
    clauses = [clauses_of(*text, own) for text, own in zip(texts, units, strict=True)]
    for name, languages, swapped in (
        ("clauses_ja_en", (0, 1), False),
        ("clauses_en_ja", (1, 0), False),
        ("clauses_swapped", (0, 0), True),
    ):
        prompts = []
        for text, two in zip(japanese, clauses, strict=True):
            parts = (
                [one[language] for one, language in zip(two, languages, strict=True)] if two else []
            )
            prompts.append("、".join(parts[::-1] if swapped else parts) or text)
        found[name] = Form(prompts)
    pool = [phrase for text, own in zip(texts, units, strict=True) for phrase in _long(text, own)]
    return found | (_listed(texts, pool, seed) if pool else {})


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
        "negative_english": Form([text for text, _ in texts], negative=english),
    }


def add_rows(
    forms: dict[str, Form], teacher: dict[str, list[str]], student: dict[str, list[str]]
) -> None:
    """Adds to what the teacher and the student read, by row, what the forms need besides."""
    for name, form in forms.items():
        for rows, prefix, prompts in (
            (student, STUDENTS, form.student),
            (teacher, TEACHERS, form.teacher),
            (student, f"{STUDENTS}of_", form.negative),
            (teacher, f"{TEACHERS}of_", form.negative),
        ):
            if prompts is not None and prompts not in rows.values():
                rows[f"{prefix}{name}"] = prompts


def measured(
    forms: dict[str, Form], teacher: dict[str, list[str]], student: dict[str, list[str]]
) -> dict[str, Measured]:
    """By form how it is measured; `teacher` and `student` have its rows."""
    found = {}
    for name, form in forms.items():
        plain = zip(form.student, student[STUDENT], strict=True)
        found[name] = Measured(
            _row(student, form.student),
            _row(teacher, form.teacher or teacher[TEACHER]),
            (_row(student, form.negative), _row(teacher, form.negative)) if form.negative else None,
            [form.negative is not None or one != other for one, other in plain],
        )
    return found


def _row(rows: dict[str, list[str]], prompts: list[str]) -> str:
    return next(row for row, own in rows.items() if own == prompts)


def measure(forms: dict[str, Measured], base: Distances, seed: int) -> dict[str, dict[str, Any]]:
    """`{form: {"noise_gap": {"value", "low", "high"}, "pairs"}}`. A form that changes none of the
    pairs measured is left out.
    """
    found = {}
    for name, form in forms.items():
        if pairs := sum(form.changed[: base.pairs]):
            found[name] = {"noise_gap": form.gap(base, seed), "pairs": pairs}
    return found
