"""Evaluation on a miniature SDXL: files out, rows that must come out exactly, reruns, and every
error line.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import write_pairs, write_verification
from PIL import Image
from safetensors.torch import load_file, save_file

from configs.schema.load import load_recipe
from configs.schema.sources import EmojiworldSource, ToyworldSource
from corpora.emojiworld.concepts import vocabulary
from corpora.worlds import TOYWORLD, World, emojiworld, of_source, spoken_of
from distill.encoders.family import SDXL
from distill.sdxl.pipelines import load_pipelines
from eval import summary
from eval.compare_hidden_states import __main__ as compare_hidden_states_entry
from eval.generate import __main__ as generate_entry
from eval.generate import generation
from eval.pictures import painting
from eval.pictures.scene_accuracy import scene_accuracy
from eval.pictures.word_frequency import bucket_of


def outputs(recipe: str) -> Path:
    return load_recipe(recipe).run_dir / "eval"


def test_generate_paints_measures_and_resumes(
    finished_run: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = finished_run()
    assert generate_entry.main([recipe]) == 0
    folder = outputs(recipe)
    result = json.loads((folder / "pictures.json").read_text())
    assert list(result["rows"]) == [
        "teacher",
        "student",
        "teacher_untranslated",
    ]
    for numbers in result["rows"].values():
        assert numbers["scene_accuracy"]["total"] == 5 and set(numbers["attributes"]) == {
            "background",
            "layout",
            "color",
            "shape",
            "size",
        }
        by_source = numbers["scene_accuracy_by_source"]
        assert sum(part["total"] for part in by_source.values()) == 5 and all(
            source.startswith("toyworld_") for source in by_source
        )
    with Image.open(folder / "grid.png") as grid:
        assert grid.width > 3 * 2 * generation.TILE
    before = (folder / "pictures" / "student" / "0004.png").read_bytes()
    (
        folder / "pictures" / "student" / "0004.png"
    ).unlink()  # as if the run had been stopped before it
    (folder / "pictures.json").unlink()
    capsys.readouterr()
    assert generate_entry.main([recipe]) == 0
    assert (folder / "pictures" / "student" / "0004.png").read_bytes() == before
    assert "teacher is already painted" in capsys.readouterr().out
    assert generate_entry.main([recipe]) == 0
    assert "already there for these settings" in capsys.readouterr().out
    assert generate_entry.main([finished_run(name="another")]) == 3
    (folder / "pictures.json").unlink()
    assert (
        generate_entry.main([finished_run(name="another")]) == 3
    )  # nor are the pictures of an unfinished run painted over
    assert "made by the recipe 'tiny'" in capsys.readouterr().err


def test_pictures_do_not_depend_on_the_batch_and_the_refiner_takes_part(
    tiny_sdxl: Path, finished_run: Callable[..., str]
) -> None:
    recipe = load_recipe(finished_run(denoising_end=0.4))
    pipelines = load_pipelines(*painting.sdxl_folders(recipe, student=False), SDXL)
    prompts = ["赤い丸", "青い四角", ""]
    together = np.stack(
        [
            np.asarray(picture, dtype=np.int16)
            for picture in painting.paint(pipelines, prompts, 0, recipe.eval)
        ]
    )
    alone = np.asarray(painting.paint(pipelines, prompts[1:2], 1, recipe.eval)[0], dtype=np.int16)
    assert abs(together[1] - alone).max() <= 1
    without = load_recipe(finished_run(denoising_end=1.0))
    assert painting.sdxl_folders(without, student=False)[1] is None
    base_only = painting.paint(
        load_pipelines(*painting.sdxl_folders(without, student=False), SDXL),
        prompts,
        0,
        without.eval,
    )
    assert np.abs(np.asarray(base_only[1], dtype=np.int16) - alone).max() > 3


@pytest.mark.parametrize("world", [TOYWORLD, emojiworld(100)], ids=lambda world: world.name)
def test_scene_accuracy_reads_the_pictures(world: World, tmp_path: Path) -> None:
    """The renderer's own pictures are all right; each scene's picture put under the next caption is
    not.
    """
    scenes, sources = (
        [caption.scene for caption in world.pairs(12, "held_out", 0)],
        ["a", "b", "a"] * 4,
    )
    for shift in (0, 1):
        for i, picture in enumerate(world.render(scenes)):
            Image.fromarray(picture).save(painting.picture_path(tmp_path, (i + shift) % 12))
        numbers, right = scene_accuracy(world, scenes, sources, tmp_path)
        assert numbers["scene_accuracy"]["right"] == sum(right) == (12 if shift == 0 else 0)
    for i in (0, 2, 3):  # three of the eight of source "a"
        Image.fromarray(world.render([scenes[i]])[0]).save(painting.picture_path(tmp_path, i))
    numbers, _ = scene_accuracy(world, scenes, sources, tmp_path)
    found = {
        source: (part["right"], part["total"])
        for source, part in numbers["scene_accuracy_by_source"].items()
    }
    assert found == {"a": (3, 8), "b": (0, 4)} and "things_by_frequency" not in numbers
    spoken = dict.fromkeys(world.names(scenes[0]), 1000)
    spoken |= {name: 9 for name in world.names(scenes[2]) if name not in spoken}
    numbers, _ = scene_accuracy(world, scenes, sources, tmp_path, spoken)
    things = numbers["things_by_frequency"]
    assert list(things) == ["1,000 or more", "1 to 9", "unseen"]
    assert things["1,000 or more"]["right"] >= len(world.names(scenes[0]))
    assert sum(part["total"] for part in things.values()) == sum(
        len(world.names(scene)) for scene in scenes
    )
    for i in range(12):
        Image.new("RGB", (48, 48)).save(painting.picture_path(tmp_path, i))
    with pytest.raises(ValueError, match=f"not {world.name}'s"):
        scene_accuracy(world, scenes, sources, tmp_path)


def test_pairs_that_speak_of_a_thing_are_counted() -> None:
    """Each pair once, however often it names the thing; what no pair names is 0 and unseen."""
    for source in (
        ToyworldSource(kind="toyworld", pairs=200, held_out_pairs=1),
        EmojiworldSource(kind="emojiworld", pairs=200, held_out_pairs=1, concepts=20),
    ):
        world, counted = of_source(source), spoken_of(source)
        captions = list(world.pairs(200, "train", 0))
        name, count = counted.most_common(1)[0]
        assert count == sum(name in world.names(caption.scene) for caption in captions)
    assert [one.emoji for one in vocabulary(300) if one.group == "unpaired"]
    assert not any(counted[one.emoji] for one in vocabulary(300) if one.group == "unpaired")
    edges = {0: "unseen", 1: "1 to 9", 9: "1 to 9", 10: "10 to 99", 99: "10 to 99"}
    edges |= {100: "100 to 999", 999: "100 to 999", 1000: "1,000 or more"}
    assert {pairs: bucket_of(pairs) for pairs in edges} == edges


def test_file_sources(finished_run: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    """A recipe of files paints pairs and counts no scenes."""
    recipe = finished_run(
        source={"kind": "tsv", "name": "x", "path": "x", "licence": "x"}, prompts=2
    )
    folder = outputs(recipe)
    assert generate_entry.main([recipe]) == 0
    assert json.loads((folder / "pictures.json").read_text())["rows"] == {
        "teacher": {},
        "student": {},
    }
    assert compare_hidden_states_entry.main([recipe]) == 0
    (folder.parent / "stages.jsonl").write_text(
        '{"stage": "a", "seconds": 1.5}\n{"stage": "b", "seconds": 2}\n{"stage": "a", "seconds": '
        "3}\n"
    )
    assert summary.main([recipe]) == 0
    made = json.loads((folder.parent / "summary.json").read_text())
    own = ["scene_accuracy", "noise_gap", "forms", "weight_response", "seconds", "sha256"]
    assert list(made) == own and made["weight_response"] is None, "too few pairs to align words"
    assert made["scene_accuracy"] is None and made["seconds"] == {"a": 4.5, "b": 2.0, "total": 6.5}
    assert capsys.readouterr().out.rstrip().endswith(f"pictures: {folder / 'grid.png'}")


def remove(*parts: str) -> Callable[[Path], None]:
    return lambda folder: shutil.rmtree(folder.joinpath(*parts))


def damage(*parts: str) -> Callable[[Path], None]:
    return lambda folder: folder.joinpath(*parts).write_bytes(b"{")


def poison(folder: Path) -> None:
    path = folder / "export" / "base" / "text_encoder" / "model.safetensors"
    save_file({name: tensor * float("nan") for name, tensor in load_file(path).items()}, path)
    write_verification(folder / "export" / "base")


@pytest.mark.parametrize(
    ("stage", "spoil", "message"),
    [
        (compare_hidden_states_entry, remove("export"), "python -m distill.export RECIPE"),
        (compare_hidden_states_entry, remove("initial_student"), "python -m vocab_init RECIPE"),
        (compare_hidden_states_entry, remove("pairs"), "python -m corpora.prepare RECIPE"),
        (compare_hidden_states_entry, poison, "student: clip_l holds NaN or infinity"),
        (
            compare_hidden_states_entry,
            damage("export", "base", "text_encoder", "model.safetensors"),
            "model.safetensors: missing or damaged",
        ),
        (generate_entry, remove("export", "refiner"), "export.encoders_only=false"),
        (
            generate_entry,
            damage("export", "base", "unet", "config.json"),
            "config.json: missing or damaged",
        ),
        (summary, lambda _: None, "python -m eval.compare_hidden_states RECIPE"),
    ],
)
def test_what_is_missing_or_damaged_is_named(
    finished_run: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
    stage: object,
    spoil: Callable[[Path], None],
    message: str,
) -> None:
    recipe = finished_run(prompts=1, pairs=4)
    spoil(load_recipe(recipe).run_dir)
    assert stage.main([recipe]) == 3  # type: ignore[attr-defined]
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in error and not (outputs(recipe) / "pictures.json").exists()
    assert (
        "remove" not in spoil.__qualname__ or not (outputs(recipe) / "pictures").exists()
    )  # said before anything is painted


def test_too_few_pairs(
    finished_run: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare_hidden_states_entry.main([finished_run(pairs=1)]) == 2
    assert "eval.pairs" in capsys.readouterr().err
    recipe = finished_run()
    write_pairs(
        load_recipe(recipe).run_dir / "pairs", [("赤", "red"), ("赤", "crimson"), ("紅", "red")]
    )  # no two of different texts
    assert compare_hidden_states_entry.main([recipe]) == 3
    assert "at least 2" in capsys.readouterr().err
