"""Prompts of other forms say the same in both languages; a gap is of the pairs a form changes."""

from pathlib import Path

import numpy as np
from conftest import write_pairs

from configs.references import TOYWORLD_MODELS
from configs.schema.load import load_recipe
from corpora.pair import Pair
from corpora.toyworld import captions
from distill.tokenizer import portable
from eval.states import prompt_forms, prompt_variants
from eval.states.noise_gap import EMPTY, REACTION, Distances


def test_the_forms_of_toyworld(tmp_path: Path) -> None:
    known = [(one.ja, one.en) for one in captions.pairs(1000, "train", 0)]
    write_pairs(tmp_path / "pairs", known, "train")
    portable.build(TOYWORLD_MODELS / "spiece.model", tmp_path / "initial_student" / "tokenizer")
    recipe = load_recipe("configs/toyworld.yaml", [f"run={tmp_path}"])
    made = captions.pairs(60, "held_out", 0)
    pairs = [Pair(str(i), one.ja, one.en, "toyworld", "", 1, 1) for i, one in enumerate(made)]
    forms = prompt_forms.made(recipe, pairs, prompt_variants.captioned(recipe, pairs))
    assert all(len(form.student) == 60 for form in forms.values())
    assert len(forms) == 11 and forms["words_10"] != forms["words_30"]
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


def test_a_gap_is_over_the_pairs_that_the_form_changes() -> None:
    ones, twos = np.ones((3, 2)), np.full((3, 2), 2.0)
    own = "student_form_clauses", "teacher_form_list", "student_form_list"
    base = Distances(
        [1, 2],
        {
            REACTION: twos,
            (own[0], "teacher"): ones * np.array([[9.0], [1], [1]]),
            (own[2], own[1]): ones,
            (own[1], EMPTY): ones * 4,
        },
    )
    read = {"student": ["a", "b", "c"], own[0]: ["a", "x", "y"], own[2]: ["x", "y", "z"]}
    found = prompt_forms.measure(read, base, 0)
    assert found["clauses"]["pairs"] == 2 and found["clauses"]["noise_gap"]["value"] == 0.5
    assert found["list"]["pairs"] == 3 and found["list"]["noise_gap"]["value"] == 0.25
    assert set(prompt_forms.comparisons([*read, own[1]])) == set(base.squared) - {REACTION}
