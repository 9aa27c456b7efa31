"""Prompts of other forms say the same in both languages; a gap is of the pairs a form changes."""

from pathlib import Path

import numpy as np
import pytest
from conftest import write_pairs
from hypothesis import given, settings
from hypothesis import strategies as st
from predictions import distances_of, drawn

from configs.references import TOYWORLD_MODELS
from configs.schema.load import load_recipe
from corpora.pair import Pair
from corpora.toyworld import captions
from distill.tokenizer import portable
from eval.states import prompt_forms, prompt_variants
from eval.states.noise_gap import EMPTY, REACTION, Distances
from eval.states.prompt_forms import Form, Measured


def test_the_forms_of_toyworld(tmp_path: Path) -> None:
    known = [(one.text, one.en) for one in captions.pairs(1000, "train", 0)]
    write_pairs(tmp_path / "pairs", known, "train")
    portable.build(TOYWORLD_MODELS / "spiece.model", tmp_path / "initial_student" / "tokenizer")
    recipe = load_recipe("configs/toyworld.yaml", [f"run={tmp_path}"])
    made = captions.pairs(60, "held_out", 0)
    pairs = [Pair(str(i), one.text, one.en, "toyworld", "", 1, 1) for i, one in enumerate(made)]
    units = prompt_forms.translations_of(recipe, pairs)
    forms = prompt_forms.made(pairs, prompt_variants.captioned(recipe, pairs), units, 0)
    assert all(len(form.student) == 60 for form in forms.values())
    assert set(forms) == set(prompt_forms.TITLES) and forms["words_10"] != forms["words_30"]
    spaces = [[text.count(" ") for text in forms[f"apart_{n}"].student] for n in (1, 2, 3)]
    assert all(a <= b <= c for a, b, c in zip(*spaces, strict=True)) and sum(spaces[2]) > 150
    swapped = forms["clauses_swapped"].student
    halves = zip(forms["clauses_ja_en"].student, forms["clauses_en_ja"].student, strict=True)
    changed = 0
    for pair, back, (first, second) in zip(pairs, swapped, halves, strict=True):
        if back != pair.text:
            changed += 1
            one, two = pair.text.split("、")
            assert back == f"{two}、{one}"
            assert first.startswith(f"{one}、") and second.endswith(f"、{two}")
            english = {first.split("、", 1)[1], second.rsplit("、", 1)[0]}
            assert all(part in pair.en for part in english) and len(english) == 2
    assert 5 < changed < 60
    listed, mixed = forms["list"], forms["list_mixed"]
    assert listed.teacher == mixed.teacher == forms["list_english"].student
    for i in range(60):
        ja, both, en = (
            listed.student[i].split("、"),
            mixed.student[i].split(", "),
            listed.teacher[i],
        )
        assert len(ja) == len(both) == len(en.split(", ")) == prompt_forms.IN_LIST
        assert both[::2] == ja[::2] and both[1::2] == en.split(", ")[1::2]


@settings(max_examples=200, deadline=None)
@given(text=st.text("赤い丸を、aB1 é😀", max_size=20), seed=st.integers(0, 20))
def test_no_word_of_a_script_with_spaces_is_cut(text: str, seed: int) -> None:
    (found,) = prompt_variants.segmented([text], [None], seed, 3)
    rest = iter(found)
    for place, sign in enumerate(text):  # only spaces are added, none at an end or beside another
        while (other := next(rest)) != sign:
            assert other == " " and place > 0 and " " not in text[place - 1 : place + 1]
            assert not (text[place - 1 : place + 1].isascii() and text[place].isalnum())
    assert not list(rest)


def test_a_gap_is_over_the_pairs_that_the_form_changes() -> None:
    """And no prompts are read twice: a form whose prompts a row has is measured by that row."""
    ones, twos = np.ones((3, 2)), np.full((3, 2), 2.0)
    student = {"student": ["a", "b", "c"], "student_mixed": ["a", "x", "y"]}
    teacher = {"teacher": ["A", "B", "C"]}
    lists, english = ["x", "y", "z"], ["X", "Y", "Z"]
    forms = {
        "clauses": Form(student["student_mixed"]),
        "list": Form(lists, english),
        "list_english": Form(english, english),
        "same": Form(student["student"]),
    }
    prompt_forms.add_rows(forms, teacher, student)
    own = "student_form_list", "teacher_form_list"
    assert list(teacher) == ["teacher", own[1]]
    assert list(student) == ["student", "student_mixed", own[0], "student_form_list_english"]
    base = Distances(
        [1, 2],
        {
            REACTION: twos,
            ("student_mixed", "teacher"): ones * np.array([[9.0], [1], [1]]),
            own: ones,
            (own[1], EMPTY): ones * 4,
            ("student_form_list_english", own[1]): ones * 2,
        },
    )
    measured = prompt_forms.measured(forms, teacher, student)
    couples = {couple for name in forms for couple in measured[name].couples()}
    assert couples == {*base.squared, ("student", "teacher")}
    found = prompt_forms.measure(measured, base, 0)
    gaps = {name: (one["noise_gap"]["value"], one["pairs"]) for name, one in found.items()}
    assert gaps == {"clauses": (0.5, 2), "list": (0.25, 3), "list_english": (0.5, 3)}


def test_with_a_negative_prompt_the_gap_is_of_what_guidance_uses() -> None:
    """Against the vectors themselves: what comes off prompt and negative prompt alike is no gap."""
    found = {}
    for offset in (0.0, 3.0):
        vectors = drawn(["student", "teacher", "student_n", "teacher_n"])
        vectors |= {name: vectors[name] + offset for name in ("student", "student_n")}
        form = Measured("student", "teacher", ("student_n", "teacher_n"), [True] * 5)
        base = distances_of(vectors, form.couples())
        found[offset] = form.gap(base, 0)["value"]
        own, wanted = (vectors[one] - vectors[f"{one}_n"] for one in ("student", "teacher"))
        expected = ((own - wanted) ** 2).sum() / (wanted**2).sum()
        assert found[offset] == pytest.approx(expected)
    assert found[0.0] == pytest.approx(found[3.0])
