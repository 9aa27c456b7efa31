"""The same word is raised in both languages, and what that does is compared as vectors."""

import random
from pathlib import Path

import numpy as np
import pytest
from conftest import write_pairs
from predictions import distances_of, drawn

from configs.references import TOYWORLD_MODELS
from configs.schema.load import load_recipe
from corpora.pair import Pair
from corpora.toyworld import captions, lexicon
from distill.encoders.family import SDXL
from distill.encoders.teacher import load_text_encoders
from distill.tokenizer import portable
from distill.tokens.translations import Unit
from eval.states import prompt_forms, weight_response
from eval.states.weight_response import MOVES, STUDENT_WEIGHTED, TEACHER_WEIGHTED


def pair(text: str, en: str) -> Pair:
    return Pair("", text, en, "toyworld", "", 1.0, 1.0)


def test_the_same_word_carries_the_weight_in_both_languages(tmp_path: Path) -> None:
    known = [(one.text, one.en) for one in captions.pairs(1000, "train", 0)]
    write_pairs(tmp_path / "pairs", known, "train")
    portable.build(TOYWORLD_MODELS / "spiece.model", tmp_path / "initial_student" / "tokenizer")
    recipe = load_recipe("configs/toyworld.yaml", [f"run={tmp_path}"])
    unread = [pair("（赤い丸）", "a (red circle)"), pair("赤い丸" * 40, "a red ring " + "x " * 80)]
    pairs = [pair(one.text, one.en) for one in captions.pairs(60, "held_out", 0)] + unread
    units = prompt_forms.translations_of(recipe, pairs)
    teacher, student = {"teacher": [one.en for one in pairs]}, {"student": [""]}
    weight_response.add_rows(recipe, SDXL, pairs, units, teacher, student)
    meanings = lexicon.meanings()
    raised = agreeing = 0
    for one, text, en in zip(
        pairs, student[STUDENT_WEIGHTED], teacher[TEACHER_WEIGHTED], strict=True
    ):
        assert (text == one.text) == (en == one.en)
        if text != one.text:
            word, english = (t[t.index("(") + 1 : t.index(":1.4)")] for t in (text, en))
            assert text.replace(f"({word}:1.4)", word, 1) == one.text
            assert en.replace(f"({english}:1.4)", english, 1) == one.en
            known_word = next((m for w, m in meanings.items() if word and w.startswith(word)), None)
            raised += 1
            agreeing += known_word is not None and english in known_word
    assert (student[STUDENT_WEIGHTED][-2:], teacher[TEACHER_WEIGHTED][-2:]) == (
        [one.text for one in unread],
        [one.en for one in unread],
    ), "markup, and what lies beyond the window"
    assert raised >= 45 and agreeing >= 0.8 * raised


def test_a_word_that_stands_twice_is_not_raised() -> None:
    """In either language, or where two pieces translate it."""
    draw = random.Random(0)
    red, ring = Unit(0, 2, ("red", "red")), Unit(2, 5, ("ring", "ring"))
    cases = {("赤いリング", "a Red ring"): True, ("赤いリング赤い", "a red x"): False}
    cases[("赤いリング", "red, red")] = False
    for (text, en), certain in cases.items():
        assert bool(weight_response.one_word(pair(text, en), [red], draw)) is certain
    found = weight_response.one_word(pair("赤いリング", "a Red ring"), [red, ring], draw)
    assert found in {((0, 2), (2, 5)), ((2, 5), (6, 10))}
    both = [red, Unit(2, 5, ("red", "ring"))]
    assert weight_response.one_word(pair("赤いリング", "a red ring"), both, draw) is None


def test_cosine_and_size_are_those_of_the_vectors() -> None:
    vectors = drawn([row for move in MOVES for row in move])
    base = distances_of(vectors, weight_response.comparisons())
    student = {"student": list("abcde"), STUDENT_WEIGHTED: list("abCDE")}
    found = weight_response.measure(student, base, 0)
    own, wanted = ((vectors[b] - vectors[a])[2:].reshape(3, -1) for a, b in MOVES)
    sizes = [np.linalg.norm(one, axis=1) for one in (own, wanted)]
    cosine = ((own * wanted).sum(axis=1) / sizes[0] / sizes[1]).mean()
    assert found["cosine"]["value"] == pytest.approx(cosine) and found["pairs"] == 3
    assert found["size"]["value"] == pytest.approx(sizes[0].sum() / sizes[1].sum())
    assert found["cosine"]["low"] <= cosine <= found["cosine"]["high"]
    student[STUDENT_WEIGHTED] = student["student"]
    assert weight_response.measure(student, base, 0) == {}


def test_what_is_read_is_the_first_window() -> None:
    encoders = load_text_encoders(TOYWORLD_MODELS / "base", SDXL)
    texts = ["a (red:1.4) ring", "a red ring", "a ring, " * 40]
    found, plain = weight_response.encode(encoders, texts), encoders.encode(["a red ring"] * 3)
    for name, tensor in found.named().items():
        assert tensor.shape == plain.named()[name].shape
        assert abs(tensor[1] - plain.named()[name][1]).max() < 1e-4
        assert (abs(tensor[0] - plain.named()[name][0]).max() > 0.01) is not (name == "pooled")
