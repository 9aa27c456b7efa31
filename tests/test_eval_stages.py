"""Evaluation on a miniature SDXL: files out, rows that must come out exactly, reruns, and every error line."""

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import PAIRS, disturb, write_pairs
from PIL import Image
from safetensors.torch import load_file, save_file

from configs import schema
from corpora.toyworld import captions, renderer
from distill.pipelines import load_base, load_pipelines
from distill.teacher import load_text_encoders
from eval import compare_hidden_states, generate, noise_gap, pictures, report, summary


def outputs(recipe: str) -> Path:
    return schema.load(recipe).run_dir / "eval"


def test_compare_measures_what_must_come_out_exactly(finished_run: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    """English against itself is 0 everywhere; the initial student (here the teacher itself) equals Japanese through the English encoders."""
    recipe = finished_run()
    assert compare_hidden_states.main([recipe]) == 0
    result = json.loads((outputs(recipe) / "compare_hidden_states.json").read_text())
    rows = result["rows"]
    english = rows["english_teacher"]
    assert english["noise_gap"]["value"] == 0.0
    for regions in english["states"].values():
        for region, metrics in regions.items():
            if region == "bos":
                assert metrics == {"relative_squared_error": 0.0}
            else:
                assert metrics["nmse"] == 0.0
                assert metrics["centred_cosine"] == pytest.approx(1.0, abs=1e-5)
                assert metrics["recall_at_1_ja_en"] == metrics["recall_at_1_en_ja"] == 1.0
    before, through = rows["japanese_student_before_training"]["states"], rows["japanese_through_english_encoder"]["states"]
    assert before["clip_l"] == through["clip_l"] and before["pooled"] == through["pooled"]
    assert before["clip_bigg"]["pads"] != through["clip_bigg"]["pads"]  # the one tokenizer pads both encoders alike
    student = rows["japanese_student"]
    assert student["noise_gap"]["value"] > 0.01
    assert set(student["noise_gap"]["by_timestep"]) == {"601", "201"}  # DDIM's 801, 601, ... 1: the middles of two halves
    assert student["states"]["pooled"]["pooled"]["nmse"] > 0.01
    assert set(student["states"]["clip_l"]) == {"bos", "content", "eos", "pads"}
    assert result["pairs"] == PAIRS and result["gap_pairs"] == 4
    assert "japanese_student" in capsys.readouterr().out


def test_compare_is_made_once_for_the_same_inputs(
    finished_run: Callable[..., str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = finished_run()
    made = []
    monkeypatch.setattr(compare_hidden_states, "measure", lambda *_: made.append(1) or {"pairs": 2, "gap_pairs": 2, "rows": {}, "examples": []})
    monkeypatch.setattr(report, "render", lambda _: "report")
    assert compare_hidden_states.main([recipe]) == 0
    assert compare_hidden_states.main([recipe]) == 0
    assert len(made) == 1 and "already there" in capsys.readouterr().out
    disturb(Path(schema.load(recipe).run_dir / "export" / "base"), "text_encoder", 0.01)  # a new export is another input
    assert compare_hidden_states.main([recipe, "eval.batch_size=1"]) == 0
    assert len(made) == 2
    assert compare_hidden_states.main([recipe, "eval.batch_size=2"]) == 0  # how it was batched changes no number
    assert len(made) == 2
    assert compare_hidden_states.main([finished_run(name="another")]) == 3
    assert "made by the recipe 'tiny'" in capsys.readouterr().err


def test_noise_gap_of_the_empty_prompt_is_one(tiny_sdxl: Path, finished_run: Callable[..., str]) -> None:
    """The denominator is the teacher against "": so a student that says nothing scores exactly 1, at every timestep."""
    settings = schema.load(finished_run()).eval
    encoders = load_text_encoders(tiny_sdxl / "base")
    prompts = ["a big red circle", "two small squares", "a ring", "a cross"]
    teacher, empty = encoders.encode(prompts), encoders.encode([""])
    silent = noise_gap.Encoding(*(tensor.expand(4, *tensor.shape[1:]) for tensor in empty))
    gaps = noise_gap.noise_gaps(load_base(str(tiny_sdxl / "base")), prompts, teacher, empty, {"silent": silent, "same": teacher}, settings)
    assert gaps["silent"]["value"] == pytest.approx(1.0, rel=1e-5)
    assert all(gap == pytest.approx(1.0, rel=1e-5) for gap in gaps["silent"]["by_timestep"].values())
    assert gaps["same"]["value"] == 0.0
    with pytest.raises(ValueError, match="same noise with and without a prompt"):
        noise_gap.noise_gaps(load_base(str(tiny_sdxl / "base")), prompts, silent, empty, {"silent": silent}, settings)


@pytest.mark.parametrize("guidance_scale", [1.0, 5.0])
def test_recorded_points_are_what_the_pipeline_computes(tiny_sdxl: Path, finished_run: Callable[..., str], guidance_scale: float) -> None:
    """Our prediction at a recorded point, guided by hand and stepped by the scheduler, gives the pipeline's own next latents."""
    settings = schema.load(finished_run(timesteps=5, guidance_scale=guidance_scale)).eval
    pipeline = load_base(str(tiny_sdxl / "base"))
    prompts = ["a big red circle", "two small squares"]
    encoding = load_text_encoders(tiny_sdxl / "base").encode(prompts)
    points = noise_gap.record_points(pipeline, prompts, 0, settings)
    assert [int(point.timestep) for point in points] == [801, 601, 401, 201, 1]
    assert points[0].time_ids_B6.tolist() == [[32.0, 32.0, 0.0, 0.0, 32.0, 32.0]] * 2
    for now, after in itertools.pairwise(points):
        noise = noise_gap.predict(pipeline.unet, now, encoding)
        if guidance_scale > 1:  # the base pipeline zeroes the negative condition
            nothing = noise_gap.predict(pipeline.unet, now, noise_gap.Encoding(*(torch.zeros_like(tensor) for tensor in encoding)))
            noise = nothing + guidance_scale * (noise - nothing)
        expected = pipeline.scheduler.step(noise, now.timestep, now.sample_BCHW).prev_sample
        torch.testing.assert_close(after.sample_BCHW, expected, atol=1e-4, rtol=1e-4)


def test_generate_paints_measures_and_resumes(finished_run: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    recipe = finished_run()
    assert generate.main([recipe]) == 0
    folder = outputs(recipe)
    result = json.loads((folder / "pictures.json").read_text())
    assert list(result["rows"]) == ["english_teacher", "japanese_student", "japanese_through_english_encoder"]
    for numbers in result["rows"].values():
        assert numbers["scene_accuracy"]["total"] == 5 and set(numbers["attributes"]) == {"background", "layout", "color", "shape", "size"}
    with Image.open(folder / "grid.png") as grid:
        assert grid.width > 3 * 2 * generate.TILE
    before = (folder / "pictures" / "japanese_student" / "0004.png").read_bytes()
    (folder / "pictures" / "japanese_student" / "0004.png").unlink()  # as if the run had been stopped before it
    (folder / "pictures.json").unlink()
    capsys.readouterr()
    assert generate.main([recipe]) == 0
    assert (folder / "pictures" / "japanese_student" / "0004.png").read_bytes() == before
    assert "english_teacher is already painted" in capsys.readouterr().out
    assert generate.main([recipe]) == 0
    assert "already there for these settings" in capsys.readouterr().out
    assert generate.main([finished_run(name="another")]) == 3
    (folder / "pictures.json").unlink()
    assert generate.main([finished_run(name="another")]) == 3  # nor are the pictures of an unfinished run painted over
    assert "made by the recipe 'tiny'" in capsys.readouterr().err


def test_pictures_do_not_depend_on_the_batch_and_the_refiner_takes_part(tiny_sdxl: Path, finished_run: Callable[..., str]) -> None:
    recipe = schema.load(finished_run(denoising_end=0.4))
    pipelines = load_pipelines(*pictures.sdxl_folders(recipe, student=False))
    prompts = ["赤い丸", "青い四角", ""]
    together = np.stack([np.asarray(picture, dtype=np.int16) for picture in pictures.paint(pipelines, prompts, 0, recipe.eval)])
    alone = np.asarray(pictures.paint(pipelines, prompts[1:2], 1, recipe.eval)[0], dtype=np.int16)
    assert abs(together[1] - alone).max() <= 1
    without = schema.load(finished_run(denoising_end=1.0))
    assert pictures.sdxl_folders(without, student=False)[1] is None
    base_only = pictures.paint(load_pipelines(*pictures.sdxl_folders(without, student=False)), prompts, 0, without.eval)
    assert np.abs(np.asarray(base_only[1], dtype=np.int16) - alone).max() > 3


def test_scene_accuracy_reads_the_pictures(tmp_path: Path) -> None:
    """The renderer's own pictures are all right; each scene's picture put under the next caption is not."""
    scenes = [caption.scene for caption in captions.pairs(12, "held_out", 0)]
    for shift in (0, 1):
        for i, picture in enumerate(renderer.render(scenes)):
            Image.fromarray(picture).save(pictures.picture_path(tmp_path, (i + shift) % 12))
        numbers, right = generate.scene_accuracy(scenes, tmp_path)
        assert numbers["scene_accuracy"]["right"] == sum(right) == (12 if shift == 0 else 0)
    Image.new("RGB", (64, 64)).save(pictures.picture_path(tmp_path, 0))
    for i in range(12):
        Image.new("RGB", (64, 64)).save(pictures.picture_path(tmp_path, i))
    with pytest.raises(ValueError, match="not toyworld's"):
        generate.scene_accuracy(scenes, tmp_path)


def test_own_prompts_and_file_sources(finished_run: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    """Own prompts are numbered on; a recipe of files paints pairs and counts no scenes."""
    recipe = finished_run(source={"kind": "tsv", "name": "x", "path": "x", "licence": "x"}, prompts=2)
    for _ in range(2):
        assert generate.main([recipe, "--prompt", "赤い丸", "eval.seed=3", "--prompt", "青い輪"]) == 0
    folder = outputs(recipe)
    assert sorted(path.name for path in (folder / "prompts").glob("*.png")) == [f"{i:04d}.png" for i in range(4)]
    assert (folder / "prompts" / "0000.png").read_bytes() == (folder / "prompts" / "0002.png").read_bytes()
    assert "青い輪" in (folder / "prompts" / "prompts.jsonl").read_text(encoding="utf-8") and not (folder / "pictures.json").exists()
    assert generate.main([recipe]) == 0
    assert json.loads((folder / "pictures.json").read_text())["rows"] == {"english_teacher": {}, "japanese_student": {}}
    assert compare_hidden_states.main([recipe]) == 0
    (folder.parent / "stages.jsonl").write_text('{"stage": "a", "seconds": 1.5}\n{"stage": "b", "seconds": 2}\n{"stage": "a", "seconds": 3}\n')
    assert summary.main([recipe]) == 0
    made = json.loads((folder.parent / "summary.json").read_text())
    assert list(made) == ["scene_accuracy", "noise_gap", "seconds"]
    assert made["scene_accuracy"] is None and made["seconds"] == {"a": 4.5, "b": 2.0, "total": 6.5}
    assert capsys.readouterr().out.rstrip().endswith(f"pictures: {folder / 'grid.png'}")


def remove(*parts: str) -> Callable[[Path], None]:
    return lambda folder: shutil.rmtree(folder.joinpath(*parts))


def damage(*parts: str) -> Callable[[Path], None]:
    return lambda folder: folder.joinpath(*parts).write_bytes(b"{")


def poison(folder: Path) -> None:
    path = folder / "export" / "base" / "text_encoder" / "model.safetensors"
    save_file({name: tensor * float("nan") for name, tensor in load_file(path).items()}, path)


@pytest.mark.parametrize(
    ("stage", "spoil", "message"),
    [
        (compare_hidden_states, remove("export"), "python -m distill.export RECIPE"),
        (compare_hidden_states, remove("initial_student"), "python -m vocab_init RECIPE"),
        (compare_hidden_states, remove("pairs"), "python -m corpora.prepare RECIPE"),
        (compare_hidden_states, poison, "japanese_student: clip_l holds NaN or infinity"),
        (compare_hidden_states, damage("export", "base", "text_encoder", "model.safetensors"), "its text encoders cannot be loaded"),
        (generate, remove("export", "refiner"), "export.encoders_only=false"),
        (generate, damage("export", "base", "unet", "config.json"), "the pipeline cannot be loaded"),
        (summary, lambda _: None, "python -m eval.compare_hidden_states RECIPE"),
    ],
)
def test_what_is_missing_or_damaged_is_named(
    finished_run: Callable[..., str], capsys: pytest.CaptureFixture[str], stage: object, spoil: Callable[[Path], None], message: str
) -> None:
    recipe = finished_run(prompts=1, pairs=4)
    spoil(schema.load(recipe).run_dir)
    assert stage.main([recipe]) == 3  # type: ignore[attr-defined]
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in error and not (outputs(recipe) / "pictures.json").exists()
    assert "remove" not in spoil.__qualname__ or not (outputs(recipe) / "pictures").exists()  # said before anything is painted


def test_too_few_pairs(finished_run: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    assert compare_hidden_states.main([finished_run(pairs=1)]) == 2
    assert "eval.pairs" in capsys.readouterr().err
    recipe = finished_run()
    write_pairs(schema.load(recipe).run_dir / "pairs", [("赤", "red"), ("赤", "crimson"), ("紅", "red")])  # no two of different texts
    assert compare_hidden_states.main([recipe]) == 3
    assert "at least 2" in capsys.readouterr().err


def test_another_base_is_refused(finished_run: Callable[..., str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def narrow(encoders, texts, _size, description):
        encoding = encoders.encode(texts)
        return encoding._replace(pooled_BP=encoding.pooled_BP[:, :-1]) if description == "japanese_student" else encoding

    monkeypatch.setattr(compare_hidden_states, "encode", narrow)
    assert compare_hidden_states.main([finished_run()]) == 3
    assert "was it made from another base?" in capsys.readouterr().err
