"""What is wrong with a recipe, a picture or a run folder is one clear line with its exit code, or
counted; nothing is replaced in silence. Sources and decoding have tables of their own.
"""

import contextlib
import io
import json
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import write_checkpoint
from finetune_runs import STEPS, write_recipe
from groups import run_groups
from picture_files import Captioned, encoded, folder_of_json, noise, recipe
from PIL import Image
from safetensors.torch import load_file, save_file

from distill.parallel import optimizers
from distill.train import loop
from finetune.export import __main__ as export_entry
from finetune.pictures import __main__ as pictures_entry
from finetune.pictures import pipeline
from finetune.pictures.store import PictureStore
from finetune.train import __main__ as train_entry

Change = Callable[[Path, dict[str, Any]], object]  # of the run's folder and the recipe
STAGE = "finetune.stages.words"


def another_vae(run: Path, tree: dict[str, Any]) -> None:
    base = Path(shutil.copytree(tree["distill"]["base"], run.parent / "another base"))
    path = base / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    tensors["quant_conv.bias"] += 1
    path.unlink()
    save_file(tensors, path)
    tree["distill"]["base"] = str(base)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-8])


def cut_latents(run: Path, tree: dict[str, Any]) -> None:
    cut(next((run / "pictures").glob("latents-*.safetensors")))


def cut_student(run: Path, tree: dict[str, Any]) -> None:
    """The distilled one, in its only checkpoint."""
    write_checkpoint(run, Path(tree["distill"]["base"]), 300, STEPS)
    cut(run / "distill" / "checkpoints" / f"step_{STEPS:06d}" / "student.safetensors")


def cut_stage(run: Path, tree: dict[str, Any]) -> None:
    cut_student(run, tree)
    (run / "finetune").mkdir()
    (run / "distill").rename(run / "finetune" / "words")


def lora_first(run: Path, tree: dict[str, Any]) -> None:
    words = tree["finetune"]["stages"]["words"]
    tree["finetune"]["stages"] = {"small": {**words, "lora": {}}, "words": words}


TRAIN, EXPORT, PICTURES = (one.main for one in (train_entry, export_entry, pictures_entry))
# The command, what is changed first, its other arguments, the exit code, what the line says.
CASES: dict[str, tuple[Any, Change | None, list[str], int, str]] = {
    "no finetune": (
        TRAIN, lambda run, tree: tree.pop("finetune"), [], 2,
        "finetune: the recipe has no such section",
    ),
    "no pictures": (
        TRAIN, lambda run, tree: tree.pop("pictures"), [], 2,
        "pictures: the recipe has no such section",
    ),
    "no pictures to encode": (
        PICTURES, lambda run, tree: tree.pop("pictures"), [], 2, "no section `pictures`",
    ),
    "unknown stage": (TRAIN, None, ["--stage", "other"], 2, "it has words"),
    "unknown start": (TRAIN, None, ["finetune.start=distilled"], 2, "finetune.start"),
    "no export": (
        TRAIN, None, ["finetune.start=export"], 3, "run python -m distill.train first",
    ),
    "damaged export": (
        TRAIN, cut_student, ["finetune.start=export"], 3, "student.safetensors: damaged",
    ),
    "damaged stage": (EXPORT, cut_stage, [], 3, "student.safetensors: damaged"),
    "nothing trained": (EXPORT, None, [], 3, "run finetune.train first"),
    "no cache": (
        TRAIN, lambda run, tree: shutil.rmtree(run / "pictures"), [], 3,
        "run python -m finetune.pictures with this recipe first",
    ),
    "damaged cache": (TRAIN, cut_latents, [], 3, "damaged"),
    "stale cache": (
        TRAIN, None, ["pictures.held_out=3"], 3, "the settings of pictures are others now",
    ),
    "cache of another VAE": (
        TRAIN, another_vae, [], 3, "the VAE of distill.base is another one now",
    ),
    "text_until beyond steps": (
        TRAIN, None, [f"{STAGE}.text_until={STEPS}"], 2,
        f"text_until ({STEPS}) must be below steps ({STEPS})",
    ),
    "text_until without text": (
        TRAIN, None, [f"{STAGE}.trains=[unet]", f"{STAGE}.text_until=2"], 2, "does not train text",
    ),
    "unet and its part": (
        TRAIN, None, [f"{STAGE}.trains=[unet, cross_attention]"], 2, "not both",
    ),
    "lora not last": (TRAIN, lora_first, [], 2, "no stage can follow one with lora"),
    "anchor without pairs": (
        TRAIN, lambda run, tree: shutil.rmtree(run / "pairs"), ["finetune.anchor=0.1"], 3,
        "python -m corpora.prepare",
    ),
    "no prompt to paint": (
        TRAIN, None, ["finetune.validation={prompts: []}"], 2, "finetune.validation.prompts",
    ),
    "8 bits without bitsandbytes": (
        TRAIN, None, [f"{STAGE}.optimizer=adamw8bit"], 4, "pip install bitsandbytes",
    ),
    "unknown optimizer": (TRAIN, None, [f"{STAGE}.optimizer=sgd"], 2, f"{STAGE}.optimizer"),
}  # fmt: skip


def run_cases(path: str, folder: str) -> None:
    """In a process that has joined a process group, as a command does once in its life."""
    loop.process_group = nullcontext  # type: ignore[assignment]
    optimizers.find_spec = lambda name: None  # type: ignore[assignment]
    source, found = yaml.safe_load(Path(path).read_text()), {}
    for number, (name, (main, change, words, _, _)) in enumerate(CASES.items()):
        tree = json.loads(json.dumps(source))
        run = Path(shutil.copytree(tree["run"], Path(folder) / f"{number}" / "run"))
        tree["run"] = str(run)
        if change is not None:
            change(run, tree)
        case = run.parent / "recipe.yaml"
        case.write_text(yaml.safe_dump(tree))
        with contextlib.redirect_stderr(io.StringIO()) as said:
            code = main([str(case), *words])
        found[name] = {"code": code, "lines": said.getvalue().strip().splitlines()}
    (Path(folder) / "found.json").write_text(json.dumps(found))


@pytest.fixture(scope="module")
def found(tiny_sdxl: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("bad")
    path = write_recipe(tiny_sdxl / "base", folder, "good", {})
    run_groups(__file__, [(1, "run_cases", {"path": path, "folder": str(folder)})])
    return json.loads((folder / "found.json").read_text())


@pytest.mark.parametrize("name", CASES)
def test_what_is_wrong_is_one_clear_line(name: str, found: dict[str, Any]) -> None:
    _, _, _, code, message = CASES[name]
    lines = found[name]["lines"]
    assert (found[name]["code"], len(lines)) == (code, 1), lines
    assert message in lines[0]


def odd_pictures() -> dict[str, tuple[bytes, str | None]]:
    """By name: the file, and why it is dropped; None if it is kept."""
    picture, frames = noise((40, 40), 0), io.BytesIO()
    picture.save(frames, "GIF", save_all=True, append_images=[noise((40, 40), 1)])
    clear = noise((40, 40), 2).convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize((40, 40)))
    deep = Image.linear_gradient("L").resize((40, 40)).convert("I;16")
    return {
        "cmyk.jpg": (encoded(picture.convert("CMYK"), "JPEG"), None),
        "deep.png": (encoded(deep), None),
        "clear.png": (encoded(clear), None),
        "animated.gif": (frames.getvalue(), "animated"),
        "one_pixel.png": (encoded(noise((1, 1), 3)), "too_small"),
        "long.png": (encoded(noise((300, 20), 4)), "too_wide"),
        "unreadable.png": (b"<html>", "unreadable"),
        "cut.png": (encoded(noise((40, 40), 5))[:-300], "truncated"),
        "untold.png": (encoded(noise((40, 40), 6)), "no_caption"),
        "told_at_length.png": (encoded(noise((40, 40), 7)), None),
    }


def test_odd_pictures_are_kept_or_counted(tmp_path: Path) -> None:
    files = odd_pictures()
    texts = {"untold.png": [""], "told_at_length.png": ["赤い丸" * 100]}
    pictures = [
        Captioned(name, data, texts.get(name, ["赤い丸"]), []) for name, (data, _) in files.items()
    ]
    made = recipe(tmp_path / "run", [folder_of_json(tmp_path / "x", pictures)])
    pipeline.make(made)
    store = PictureStore(tmp_path / "run" / "pictures")
    kept = sorted(name for name, (_, reason) in files.items() if reason is None)
    assert sorted(row.file for row in store.rows("train")) == kept
    (source,) = store.details.sources
    assert source.dropped == {reason: 1 for _, reason in files.values() if reason is not None}
    assert source.pictures + sum(source.dropped.values()) == len(files)
    assert store.details.captions_cut_at_77 == 1
    for row in store.rows("train"):
        assert all(one.isfinite().all() for one in store.latents([row]))
