"""The comparison on a miniature SDXL: rows that must come out exactly, the gaps of both UNets,
other repositories, bounds, several runs.
"""

import itertools
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import PAIRS, disturb, write_pairs, write_verification
from hypothesis import given
from hypothesis import strategies as st

from configs.schema.load import dump_recipe, load_recipe
from configs.schema.recipe import Recipe
from corpora.pair import Pair
from corpora.toyworld import captions
from distill.encoders.family import SDXL
from distill.encoders.teacher import TextEncoders, load_text_encoders
from distill.sdxl.pipelines import Pipelines, load_base, load_pipelines
from eval import compare_runs, results
from eval.compare_hidden_states import __main__ as compare_hidden_states_entry
from eval.compare_hidden_states import bounds, compare, states, table
from eval.report import report
from eval.rows import ROWS, STUDENT, TEACHER
from eval.states import noise_gap, prompt_forms, prompt_variants, reference_rows

PROMPTS = ["a big red circle", "two small squares", "a ring", "a cross"]


def result_of(recipe: str) -> dict:
    return json.loads(
        (load_recipe(recipe).run_dir / "eval" / "compare_hidden_states.json").read_text(
            encoding="utf-8"
        )
    )


def test_compare_measures_what_must_come_out_exactly(
    finished_run: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    """English against itself is 0 everywhere; the initial student (here the teacher itself) equals
    Japanese through the English encoders.
    """
    recipe = finished_run()
    assert compare_hidden_states_entry.main([recipe]) == 0
    result = result_of(recipe)
    rows = result["rows"]
    english, student = rows[TEACHER], rows[STUDENT]
    for unet in ("noise_gap", "refiner_noise_gap"):
        assert english[unet]["value"] == english[unet]["high"] == 0.0
        assert (
            student[unet]["value"] > 0.01
            and student[unet]["low"] <= student[unet]["value"] <= student[unet]["high"]
        )
    for regions in english["states"].values():
        for region, metrics in regions.items():
            if region == "bos":
                assert metrics == {"relative_squared_error": 0.0}
            else:
                assert metrics["nmse"] == 0.0
                assert metrics["centred_cosine"] == pytest.approx(1.0, abs=1e-5)
                assert metrics["recall_at_1_text_en"] == metrics["recall_at_10_en_text"] == 1.0
    before, through = (
        rows["student_before_training"]["states"],
        rows["teacher_untranslated"]["states"],
    )
    assert before["clip_l"] == through["clip_l"] and before["pooled"] == through["pooled"]
    assert (
        before["clip_bigg"]["pads"] != through["clip_bigg"]["pads"]
    )  # the one tokenizer pads both encoders alike
    assert set(student["noise_gap"]["by_timestep"]) == {
        "601",
        "201",
    }  # DDIM's 801, 601, ... 1: the middles of two halves
    assert set(student["refiner_noise_gap"]["by_timestep"]) == {
        "1"
    }  # what is left of them below 200
    assert (
        student["states"]["pooled"]["pooled"]["nmse"]
        == student["pooled_intervals"]["nmse"]["value"]
        > 0.01
    )
    assert list(rows) == [name for name in ROWS if name != "teacher_translated"]
    assert rows["teacher_paraphrase"]["states"]["pooled"]["pooled"]["nmse"] > 0
    assert result["pairs"] == PAIRS and result["gap_pairs"] == 4
    for parts in (student["by_length"], student["by_source"]):
        assert sum(part["pairs"] for part in parts.values()) == PAIRS
    assert english["collapse"]["pooled"]["effective_rank_ratio"] == 1.0
    assert set(result["word_order"]) == {"role_swap", "scrambled"}
    assert all(
        numbers[kind] > 0
        for numbers in result["word_order"].values()
        for kind in ("pooled", "states", "noise")
    )
    forms = result["forms"]
    of_words = {f"words_{share}" for share in (10, 30, 50)} | {f"apart_{n}" for n in (1, 2, 3)}
    assert set(forms) == of_words, "too few pairs for phrases"
    assert all(one["noise_gap"]["value"] > 0 and 0 < one["pairs"] <= 4 for one in forms.values())
    mixed = rows["student_mixed"]["noise_gap"]["value"]
    assert forms["words_50"]["noise_gap"]["value"] == mixed, "the same prompts"
    apart = rows["student_segmented"]["noise_gap"]["value"]
    assert forms["apart_1"]["noise_gap"]["value"] == apart, "the same prompts"
    assert result["weight_response"] == {}, "too few pairs to align words"
    printed = capsys.readouterr().out
    assert all(row in printed for row in rows) and all(form in printed for form in forms)
    assert max(map(len, table.table(result, SDXL).splitlines())) <= table.WIDTH


def test_the_batch_changes_no_number_and_long_texts_are_counted(
    finished_run: Callable[..., str],
) -> None:
    found = []
    recipe = finished_run()
    run = load_recipe(recipe).run_dir
    long = "赤い丸" * 40, "a red circle " * 30
    write_pairs(
        run / "pairs",
        [(caption.text, caption.en) for caption in captions.pairs(6, "held_out", 0)]
        + [long, ("丸", "a")],
    )
    for size in (1, 3, 8):
        assert (
            compare_hidden_states_entry.main(
                [recipe, f"eval.batch_size={size}", "eval.timesteps=1"]
            )
            == 0
        )
        found.append(result_of(recipe))
        (run / "eval" / "compare_hidden_states.json").unlink()
    assert "teacher_paraphrase" not in found[0]["rows"]  # two of the pairs are not of the grammar
    assert found[0]["rows"][STUDENT]["by_length"]["over_77"]["pairs"] == 1
    assert found[0]["rows"][STUDENT]["by_length"]["1-16"]["pairs"] == 1
    for result in found[1:]:
        assert compare_runs.cheap_numbers(result) == pytest.approx(
            compare_runs.cheap_numbers(found[0]), rel=1e-3, abs=1e-5
        )


def test_compare_is_made_once_for_the_same_inputs(
    finished_run: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = finished_run()
    made = []
    empty = {
        "pairs": 2,
        "gap_pairs": 2,
        "rows": {},
        "word_order": {},
        "warnings": [],
        "examples": [],
    }
    monkeypatch.setattr(compare, "measure", lambda *_: made.append(1) or empty)
    monkeypatch.setattr(report, "render", lambda *_: "report")
    assert compare_hidden_states_entry.main([recipe]) == 0
    assert compare_hidden_states_entry.main([recipe]) == 0
    assert len(made) == 1 and "already there" in capsys.readouterr().out
    export = load_recipe(recipe).run_dir / "export" / "base"
    disturb(export, "text_encoder", 0.01)
    assert compare_hidden_states_entry.main([recipe]) == 3
    assert "text_encoder/model.safetensors: missing or damaged" in capsys.readouterr().err
    write_verification(export)  # a new export is another input
    assert compare_hidden_states_entry.main([recipe, "eval.batch_size=1"]) == 0
    assert len(made) == 2
    assert (
        compare_hidden_states_entry.main([recipe, "eval.batch_size=2"]) == 0
    )  # how it was batched changes no number
    assert len(made) == 2
    assert compare_hidden_states_entry.main([finished_run(name="another")]) == 3
    assert "made by the recipe 'tiny'" in capsys.readouterr().err


def test_noise_gap_of_the_empty_prompt_is_one(
    tiny_sdxl: Path, finished_run: Callable[..., str]
) -> None:
    """The denominator is the teacher against "": so a student that says nothing scores exactly 1,
    at every timestep and in either UNet.
    """
    settings = load_recipe(finished_run()).eval
    encoders = load_text_encoders(tiny_sdxl / "base", SDXL)
    teacher, empty = encoders.encode(PROMPTS), encoders.encode([""])
    pipelines = load_pipelines(str(tiny_sdxl / "base"), str(tiny_sdxl / "refiner"), SDXL)
    texts = {TEACHER: teacher, noise_gap.EMPTY: empty, "silent": noise_gap.repeated(empty, 4)}
    compared = [("silent", TEACHER), noise_gap.REACTION]
    found = noise_gap.distances(
        pipelines, SDXL, PROMPTS, texts, {"base": compared, "refiner": compared}, settings
    )
    assert set(found) == {"base", "refiner"}
    for unet in found.values():
        gap = unet.gap("silent", 0)
        assert [gap["value"], gap["low"], gap["high"]] == pytest.approx([1.0] * 3, rel=1e-5)
        assert list(gap["by_timestep"].values()) == pytest.approx(
            [1.0] * len(unet.timesteps), rel=1e-5
        )
        assert unet.squared["silent", TEACHER].shape == (4, len(unet.timesteps))
    deaf = texts | {TEACHER: noise_gap.repeated(empty, 4)}
    with pytest.raises(
        ValueError, match="base UNet predicts the same noise with and without a prompt"
    ):
        noise_gap.distances(
            pipelines, SDXL, PROMPTS, deaf, {"base": compared, "refiner": compared}, settings
        )


@pytest.mark.parametrize("guidance_scale", [1.0, 5.0])
def test_recorded_points_are_what_the_pipeline_computes(
    tiny_sdxl: Path, finished_run: Callable[..., str], guidance_scale: float
) -> None:
    """Our prediction at a recorded point, guided by hand and stepped by the scheduler, gives the
    pipeline's own next latents.
    """
    settings = load_recipe(finished_run(timesteps=5, guidance_scale=guidance_scale)).eval
    pipeline = load_base(str(tiny_sdxl / "base"), SDXL)
    read = pipeline.unet, SDXL.readers["base"]
    prompts = PROMPTS[:2]
    encoding = load_text_encoders(tiny_sdxl / "base", SDXL).encode(prompts)
    points = noise_gap.record_points(Pipelines(pipeline, None), prompts, 0, settings)["base"]
    assert [int(point.timestep) for point in points] == [801, 601, 401, 201, 1]
    assert points[0].time_ids_B6.tolist() == [[32.0, 32.0, 0.0, 0.0, 32.0, 32.0]] * 2
    for now, after in itertools.pairwise(points):
        noise = noise_gap.predict(*read, now, encoding)
        if guidance_scale > 1:  # the base pipeline zeroes the negative condition
            nothing = noise_gap.predict(*read, now, encoding.map(torch.zeros_like))
            noise = nothing + guidance_scale * (noise - nothing)
        expected = pipeline.scheduler.step(noise, now.timestep, now.sample_BCHW).prev_sample
        torch.testing.assert_close(after.sample_BCHW, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("denoising_end", [0.3, 0.8])
def test_the_refiner_is_heard_where_the_base_hands_over(
    tiny_sdxl: Path, finished_run: Callable[..., str], denoising_end: float
) -> None:
    """The base paints on, and yet the refiner's first latents are those of a base stopped by the
    pipeline's own `denoising_end`.
    """
    settings = load_recipe(
        finished_run(timesteps=10, denoising_end=denoising_end, guidance_scale=1.0)
    ).eval
    pipelines = load_pipelines(str(tiny_sdxl / "base"), str(tiny_sdxl / "refiner"), SDXL)
    points = noise_gap.record_points(pipelines, PROMPTS[:2], 0, settings)
    latents = pipelines.base(
        prompt=PROMPTS[:2],
        num_inference_steps=settings.inference_steps,
        guidance_scale=settings.guidance_scale,
        generator=noise_gap.generators(settings.seed, 0, 2),
        denoising_end=denoising_end,
        output_type="latent",
    ).images
    torch.testing.assert_close(points["refiner"][0].sample_BCHW, latents, atol=1e-5, rtol=1e-5)
    handed = [int(point.timestep) for point in points["refiner"]]
    assert handed == {0.3: [601, 401, 201, 1], 0.8: [1]}[denoising_end]
    assert "refiner" not in noise_gap.record_points(
        Pipelines(pipelines.base, None), PROMPTS[:2], 0, settings
    )


def test_other_repositories_and_a_translator_are_rows(
    finished_run: Callable[..., str],
    tiny_sdxl: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A whole pipeline, and encoders alone; the teacher itself under another name equals Japanese
    through the English encoders.
    """
    alone = tmp_path / "alone"
    for part in ("tokenizer", "tokenizer_2", "text_encoder", "text_encoder_2"):
        shutil.copytree(tiny_sdxl / "base" / part, alone / part)
    recipe = finished_run(
        repositories={"whole": str(tiny_sdxl / "base"), "alone": str(alone)},
        translator="toyworld:translator",
    )
    assert compare_hidden_states_entry.main([recipe]) == 0
    rows = result_of(recipe)["rows"]
    assert list(rows)[-3:] == ["teacher_translated", "alone", "whole"]
    through = rows["teacher_untranslated"]
    assert (
        rows["whole"]["states"] == rows["alone"]["states"] == through["states"]
        and rows["alone"]["noise_gap"] == through["noise_gap"]
    )
    assert (
        rows["teacher_translated"]["states"]["pooled"]["pooled"]["nmse"]
        < through["states"]["pooled"]["pooled"]["nmse"]
    )
    capsys.readouterr()
    for settings, code, message in (
        ({"repositories": {"refiner": str(tiny_sdxl / "refiner")}}, 3, "holds clip_bigg only"),
        ({"repositories": {"gone": str(tmp_path / "gone")}}, 3, "there is no such folder"),
        ({"repositories": {STUDENT: str(alone)}}, 2, "is the name of a row"),
        ({"translator": str(alone)}, 3, "give a translation model"),
    ):
        assert compare_hidden_states_entry.main([finished_run(**settings)]) == code
        assert message in capsys.readouterr().err.strip().splitlines()[-1]
    tokenizer = json.loads((alone / "tokenizer" / "tokenizer_config.json").read_text())
    (alone / "tokenizer" / "tokenizer_config.json").write_text(
        json.dumps({key: tokenizer[key] for key in tokenizer if key != "model_max_length"})
    )
    assert compare_hidden_states_entry.main([finished_run(repositories={"alone": str(alone)})]) == 3
    assert "model_max_length is 1e+30, not 77" in capsys.readouterr().err


def begun_and_interrupted(recipe: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Interrupts a comparison at the student; the first row of each reader that begins."""
    read = states._read
    begun: list[str] = []

    def interrupted(reader, *arguments):
        begun.append(next(iter(reader.rows)))
        if begun == [TEACHER, STUDENT]:
            raise KeyboardInterrupt
        return read(reader, *arguments)

    monkeypatch.setattr(states, "_read", interrupted)
    assert compare_hidden_states_entry.main([recipe]) == 130
    return begun


def test_an_interrupted_comparison_encodes_no_row_twice(
    finished_run: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = finished_run()
    folder = load_recipe(recipe).run_dir / "eval"
    begun = begun_and_interrupted(recipe, monkeypatch)
    assert len(list(folder.glob("compare_hidden_states.unfinished-*"))) == 1
    assert compare_hidden_states_entry.main([recipe]) == 0
    assert begun[2:] == [STUDENT, "student_before_training"]
    assert not list(folder.glob("*.unfinished-*"))
    found = result_of(recipe)
    (folder / "compare_hidden_states.json").unlink()
    assert compare_hidden_states_entry.main([recipe]) == 0
    assert json.dumps(result_of(recipe)) == json.dumps(found), "names in the same order too"


def test_what_other_prompts_left_unfinished_is_not_taken(
    finished_run: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after an update of the program, whose rows are others."""
    recipe = finished_run()
    begun = begun_and_interrupted(recipe, monkeypatch)
    readers = reference_rows.readers

    def more(*arguments):
        found, forms = readers(*arguments)
        found[0].rows[f"{prompt_forms.TEACHERS}new"] = found[0].rows[TEACHER]
        return found, forms

    monkeypatch.setattr(reference_rows, "readers", more)
    assert compare_hidden_states_entry.main([recipe]) == 0
    assert begun[2:] == [TEACHER, STUDENT, "student_before_training"]  # the teacher's again


def test_another_base_is_refused(
    finished_run: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encode, calls = TextEncoders.encode, []

    def narrow(encoders, texts):
        """The student's first encoding is that of "", right after its loading; the teacher's own
        were two.
        """
        encoding = encode(encoders, texts)
        calls.append(texts)
        return (
            encoding._replace(pooled_BP=encoding.pooled_BP[:, :-1])
            if calls.count([""]) == 3
            else encoding
        )

    monkeypatch.setattr(TextEncoders, "encode", narrow)
    assert compare_hidden_states_entry.main([finished_run()]) == 3
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert (
        "student: pooled has the shape (1, 19)" in error
        and "was it made from another base?" in error
    )
    assert calls[-1] == [""]  # nothing of the long work was begun


def test_bounds_are_checked_after_the_results_are_written(
    finished_run: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = finished_run(denoising_end=1.0)  # no refiner
    gap, pooled = "rows.student.noise_gap.value", "rows.student.states.pooled.pooled"
    cka = "rows.student.states.clip_l.content.linear_cka"

    def refused(code: int, *words: str) -> str:
        assert compare_hidden_states_entry.main([recipe, "--fail-under", *words]) == code
        return capsys.readouterr().err.strip().splitlines()[-1]

    error = refused(3, f"{gap}=0", f"{pooled}.recall_at_10_text_en=1")
    assert re.search(r"noise_gap.value is [\d.]+, above its bound 0: ", error)
    assert "recall" not in error and "refiner_noise_gap" not in result_of(recipe)["rows"][STUDENT]
    kept = ["--fail-under", f"{gap}=1e9", "--fail-under", f"{cka}=-2"]
    assert compare_hidden_states_entry.main([recipe, "eval.batch_size=2", *kept]) == 0
    error = refused(3, f"{pooled}.centred_cosine=1.1", "rows.student.refiner_noise_gap.value=1")
    assert f"{pooled}.centred_cosine is" in error and "below its bound 1.1" in error
    assert "rows.student.refiner_noise_gap.value was not measured in this run" in error
    assert f"similar paths: {gap}, " in refused(3, "rows.student.noise_gab.value=1")
    for word, problem in (
        ("noise_gap=1", "a path begins with rows., word_order., forms. or weight_response."),
        (f"{gap}=much", "'much' is no number"),
        (f"{gap}=nan", "NaN is no bound"),
        (gap, "a path begins with"),
    ):
        assert f"--fail-under {word!r}: {problem}" in refused(2, word)


def test_every_number_has_a_better_side(finished_run: Callable[..., str]) -> None:
    recipe = finished_run()
    assert compare_hidden_states_entry.main([recipe]) == 0
    names = compare_runs.cheap_numbers(result_of(recipe))
    smaller = {name for name in names if bounds.smaller_is_better(name)}
    assert {
        "noise_gap",
        "refiner_noise_gap",
        "states.clip_l.content.nmse",
        "states.clip_bigg.bos.relative_squared_error",
        "collapse.pooled.mean_pairwise_cosine",
    } <= smaller
    assert not {name for name in smaller if re.search("recall|centred|cka|rank|word_order", name)}
    assert len(names) == len(smaller) + sum(
        bool(re.search("recall|centred|cka|rank|word_order", name)) for name in names
    )


def pair(ja: str, en: str) -> Pair:
    return Pair("x", ja, en, "x", "x", 1.0, 1.0)


def test_prompt_variants_of_toyworld_and_of_other_corpora(finished_run: Callable[..., str]) -> None:
    recipe: Recipe = load_recipe(finished_run())
    made = list(captions.pairs(PAIRS, "held_out", 0))
    pairs = [pair(caption.text, caption.en) for caption in made]
    found = prompt_variants.captioned(recipe, pairs)
    assert [one.caption.scene for one in found if one] == [caption.scene for caption in made]
    others = prompt_variants.paraphrases(found, 0)
    assert (
        others
        and not set(others) & {one.en for one in pairs}
        and others == prompt_variants.paraphrases(found, 0)
    )
    for caption, other in zip(made, others, strict=True):
        assert (
            all(thing.color in other and thing.shape in other for thing in caption.scene.things)
            and caption.scene.background in other
        )
    for text in prompt_variants.code_mixed(pairs, found, 0):
        assert re.search("[a-z]", text) and re.search("[ぁ-ん]", text)
    texts = [pair.text for pair in pairs]
    for text, spaced in zip(texts, prompt_variants.segmented(texts, found, 0), strict=True):
        assert spaced.replace(" ", "") == text.replace(" ", "")
        assert 0 < spaced.count(" ") - text.count(" ") <= 2
    unknown = ["", "丸", "猫 丸"]
    assert prompt_variants.segmented(unknown, [None] * 3, 0) == unknown
    swapped_ja, swapped_en = prompt_variants.role_swapped(pairs, found)
    for caption, ja, en in zip(made, swapped_ja, swapped_en, strict=True):
        for before, after in ((caption.text, ja), (caption.en, en)):
            assert sorted(before) == sorted(after) and (before != after) == (
                caption.scene.relation is not None
            )
    strangers = [pair("猫が眠る", "a sleeping cat")]
    nothing = prompt_variants.captioned(recipe, strangers)
    assert nothing == [None] and prompt_variants.paraphrases(nothing, 0) is None
    assert prompt_variants.code_mixed(strangers, nothing, 0) == ["猫が眠る a sleeping cat"]
    assert prompt_variants.role_swapped(strangers, nothing) == (["猫が眠る"], ["a sleeping cat"])


@given(st.text(), st.integers(0, 3))
def test_scrambling_keeps_every_character(text: str, seed: int) -> None:
    (made,) = prompt_variants.scrambled([text], "", seed)
    assert sorted(made) == sorted(character for character in text if not character.isspace())


def test_scrambling_moves_words_and_does_not_cut_them() -> None:
    texts = ["白い背景に、大きい青い四角の左に小さいリングがある", "a small red circle"]
    japanese, english = (
        prompt_variants.scrambled([text], between, 0)[0]
        for text, between in zip(texts, ("", " "), strict=True)
    )
    assert japanese != texts[0] and all(
        word in japanese for word in ("白い", "背景に", "大きい", "リング")
    )
    assert english != texts[1] and sorted(english.split()) == sorted(texts[1].split())


def write_run(
    folder: Path, template: dict, recipe: str, gap: float, accuracy: float | None, nmse: float
) -> Path:
    """A finished run with chosen numbers; all others are the template's."""
    result = json.loads(json.dumps(template))
    result["rows"][STUDENT]["noise_gap"]["value"] = gap
    result["rows"][STUDENT]["states"]["pooled"]["pooled"]["nmse"] = nmse
    results.write(folder / "eval" / "compare_hidden_states.json", result)
    scenes = {"student": accuracy, "teacher": 0.8} if accuracy is not None else None
    rows = {row: {"scene_accuracy": {"value": value}} for row, value in (scenes or {}).items()}
    rows.setdefault(STUDENT, {})["scene_accuracy_by_source"] = {
        "toyworld_role_swapped": {"value": 0.5}
    }
    for row, frequent in ((TEACHER, 40), (STUDENT, 36)):
        rows.setdefault(row, {})["things_by_frequency"] = {
            "1,000 or more": {"value": frequent / 40, "right": frequent},
            "unseen": {"value": gap, "right": 7},
        }
    results.write(folder / "eval" / "pictures.json", {"rows": rows})
    results.write(
        folder / "summary.json", {"scene_accuracy": scenes, "noise_gap": gap, "seconds": {}}
    )
    (folder / "distill").mkdir()
    (folder / "distill" / "config.yaml").write_text(
        dump_recipe(load_recipe(recipe)), encoding="utf-8"
    )
    return folder


def test_compare_runs_correlates_cheap_numbers_with_pictures(
    finished_run: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By hand: the gap falls exactly as accuracy rises (rho -1); of the pooled errors 2 and 3 are
    exchanged: 1 - 6 * 2 / (4 * 15) = 0.8.
    """
    recipe = finished_run()
    assert compare_hidden_states_entry.main([recipe]) == 0
    template = result_of(recipe)
    numbers = ((0.4, 0.1, 0.4), (0.3, 0.2, 0.2), (0.2, 0.5, 0.3), (0.1, 0.6, 0.1))
    runs = [
        write_run(tmp_path / f"run{i}", template, recipe, *values)
        for i, values in enumerate(numbers)
    ]
    out = tmp_path / "out" / "comparison.md"
    capsys.readouterr()
    assert compare_runs.main([*map(str, runs), "--out", str(out)]) == 0
    written = out.read_text(encoding="utf-8")
    assert written == capsys.readouterr().out
    # the same settings on one line: accuracy, its share of the English teacher's 0.8, of
    # things of frequent and of unseen words, the frequent ones' share of the teacher's,
    # role-swapped captions, the gap
    assert (
        "| 4 | 0.350 (0.100 to 0.600) | 0.438 (0.125 to 0.750) | 0.900 (0.900 to 0.900) | 0.250 "
        "(0.100 to 0.400) | 0.900 (0.900 to 0.900) | 0.500 (0.500 to 0.500) | "
        "0.2500 (0.1000 to 0.4000) |" in written
    )
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    found = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))
    assert [run["run"] for run in found["runs"]] == ["run0", "run1", "run2", "run3"]
    assert found["spearman"]["scene_accuracy"] == pytest.approx(
        {"noise_gap": -1.0, "states.pooled.pooled.nmse": -0.8}
    )  # all else is the same in every run
    assert found["spearman"]["noise_gap"] == pytest.approx(
        {"scene_accuracy": -1.0, "states.pooled.pooled.nmse": 0.8}
    )
    config = runs[3] / "distill" / "config.yaml"
    config.write_text(
        config.read_text(encoding="utf-8").replace("english_share: 0.0", "english_share: 0.5"),
        encoding="utf-8",
    )
    assert compare_runs.main([*map(str, runs[1:])]) == 0
    printed = capsys.readouterr().out
    assert "at least 4 runs, 3 given" in printed and "| english_share |" in printed
    assert (
        "| 0.0 | 2 | 0.350 (0.200 to 0.500) |" in printed
        and "| 0.5 | 1 | 0.600 | 0.750 |" in printed
    )
    words = printed.splitlines()[0].split(" | ")
    things = [cell for cell in words if cell.startswith("things, pairs: ")]
    assert things == ["things, pairs: 1,000 or more", "things, pairs: unseen"]
    config.write_text(
        re.sub(r"method: \w+", "method: alignment", config.read_text(encoding="utf-8")),
        encoding="utf-8",
    )
    assert compare_runs.main([*map(str, runs)]) == 0
    printed = capsys.readouterr().out
    assert "| start |" in printed and "| alignment |" in printed
    unread = write_run(
        tmp_path / "unread", template, recipe, 0.1, None, 0.5
    )  # no scenes can be read of its pictures
    assert compare_runs.main([*map(str, runs), str(unread)]) == 0
    printed = capsys.readouterr().out
    assert "with noise gap over 5 runs" in printed and "with scene accuracy" not in printed
    assert compare_runs.main([str(tmp_path)]) == 3
    assert "is no trained run" in capsys.readouterr().err
    results.write(unread / "eval" / "compare_hidden_states.json", {"rows": {}})
    assert compare_runs.main([str(unread)]) == 3
    assert "not as this version writes it" in capsys.readouterr().err
