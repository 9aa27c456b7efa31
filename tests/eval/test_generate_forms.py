"""Scenes painted from prompts in other forms, beside the same captions as they are."""

import json
from collections.abc import Callable
from typing import get_args

import pytest

from configs.schema.load import load_recipe
from configs.schema.recipe import PaintedForm
from eval.generate import __main__ as generate_entry
from eval.generate import forms
from eval.states.prompt_forms import TITLES


def test_forms_are_painted_beside_the_captions_as_they_are(
    finished_run: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    """They change no other number and no other picture."""
    recipe = finished_run()
    folder = load_recipe(recipe).run_dir / "eval"
    assert generate_entry.main([recipe]) == 0
    first = json.loads((folder / "pictures.json").read_text())
    times = {path: path.stat().st_mtime_ns for path in folder.glob("pictures/*/*.png")}
    assert "forms" not in first and len(times) == 15
    capsys.readouterr()
    assert generate_entry.main([recipe, "eval.forms=[words_50,apart_1]"]) == 0
    second = json.loads((folder / "pictures.json").read_text())
    assert {path: path.stat().st_mtime_ns for path in times} == times
    changed = {"fingerprint", "forms", "sha256"}
    assert {key: second[key] for key in second if key not in changed} == {
        key: first[key] for key in first if key not in changed
    }
    for form in ("words_50", "apart_1"):
        assert 0 < second["forms"][form]["scene_accuracy"]["total"] <= 5
        assert len(list(folder.glob(f"pictures/student_form_{form}/*.png"))) == 5
    assert "words_50" in capsys.readouterr().out


def test_the_share_is_of_the_captions_that_a_form_changes() -> None:
    plain = list("abcdef")
    asked = {"student_form_words_50": list("abCDEF"), "student_form_clauses_en_ja": plain}
    right = {
        "teacher": [False, False, True, True, True, True],
        "student_form_words_50": [True, True, True, False, False, True],
        "student_form_clauses_en_ja": [True] * 6,
    }
    found = forms.accuracies(asked, plain, right, 0)
    assert list(found) == ["words_50"], "no caption has two clauses"
    accuracy, ratio = found["words_50"]["scene_accuracy"], found["words_50"]["of_the_teacher"]
    assert (accuracy["right"], accuracy["total"]) == (2, 4)
    assert ratio["value"] == 0.5 and ratio["low"] < 0.5 < ratio["high"]
    right["teacher"] = [True, True, False, False, False, False]
    assert forms.accuracies(asked, plain, right, 0)["words_50"]["of_the_teacher"] is None


def test_a_recipe_without_scenes_is_told(
    finished_run: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = finished_run(source={"kind": "tsv", "name": "x", "path": "x", "licence": "x"})
    assert generate_entry.main([recipe, "eval.forms=[words_50]"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "eval.forms: words_50" in error and "leave it out" in error
    assert not (load_recipe(recipe).run_dir / "eval" / "pictures").exists()
    assert generate_entry.main([recipe, "eval.forms=[list]"]) == 2
    assert "eval.forms" in capsys.readouterr().err


def test_every_form_that_can_be_painted_is_made() -> None:
    assert set(get_args(PaintedForm)) < set(TITLES)
