"""The cache: latents are the VAE's own, only what changed is encoded, and nothing made is lost."""

import hashlib
import io
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionXLImg2ImgPipeline
from picture_files import Captioned, encoded, examples, folder_of_json, noise, recipe
from PIL import Image
from safetensors.torch import load_file, save_file

from configs.errors import DataError, RecipeError
from configs.references import ModelName
from configs.schema.load import dump_recipe
from distill.encoders.family import SDXL
from distill.sdxl.pipelines import load_base
from finetune.pictures import __main__ as entry
from finetune.pictures import latent_files, pipeline, report
from finetune.pictures.store import PictureStore, time_ids
from finetune.pictures.vae import Vae, VaeFolder

ROOT = Path(__file__).resolve().parents[3]
BASE = ModelName("toyworld:base").path


@pytest.fixture
def encoded_rows(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures each call of the VAE was given, from now on."""
    calls: list[int] = []
    encode = Vae.encode

    def counted(self: Vae, pixels: np.ndarray) -> Any:
        calls.append(len(pixels))
        return encode(self, pixels)

    monkeypatch.setattr(Vae, "encode", counted)
    return calls


def many(count: int) -> list[Captioned]:
    """Pictures of one bucket."""
    return [
        Captioned(f"{number:03d}.png", encoded(noise((40, 40), number)), [f"絵{number}"], [])
        for number in range(count)
    ]


def contents(folder: Path) -> dict[str, Any]:
    """Rows with their latents, by key; not in which file they are."""
    store, found = PictureStore(folder), {}
    for split in ("train", "held_out"):
        for row in store.rows(split):  # type: ignore[arg-type]
            mean, std = store.latents([row])
            found[row.key] = (
                row.split,
                row.file,
                row.texts,
                mean.numpy().tobytes(),
                std.numpy().tobytes(),
            )
    return found


def test_latents_are_the_vaes_own_and_time_ids_the_pipelines(tmp_path: Path) -> None:
    pictures = examples(12)
    made = recipe(
        tmp_path / "run",
        [folder_of_json(tmp_path / "x", pictures)],
        crop="random",
        crops=2,
        flip=True,
        held_out=3,
    )
    details = pipeline.make(made).details
    store = PictureStore(tmp_path / "run" / "pictures")
    rows = store.rows("train") + store.rows("held_out")
    assert sum(sum(one.values()) for one in details.rows.values()) == len(rows) == 4 * 12 - 2 * 4
    files = {one.name: one for one in pictures}
    vae = AutoencoderKL.from_pretrained(f"{BASE}/vae").eval()
    for row in rows:
        picture = files[row.file]
        assert list(row.texts) == picture.texts and list(row.en) == picture.en
        assert row.picture == hashlib.sha256(picture.data).hexdigest()
        height, width, top, left, target_height, target_width = time_ids(row)
        image = _image(picture)
        assert image.size == (width, height)
        scale = max(target_width / width, target_height / height)
        resized = image.resize(
            (round(width * scale), round(height * scale)), Image.Resampling.LANCZOS
        )
        if row.flip:
            resized = resized.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = np.asarray(resized.crop((left, top, left + target_width, top + target_height)))
        with torch.no_grad():
            input_13HW = torch.from_numpy(pixels / np.float32(127.5) - 1).permute(2, 0, 1)[None]
            expected = vae.encode(input_13HW).latent_dist
        mean, std = store.latents([row])
        assert mean.dtype == std.dtype == torch.float16
        torch.testing.assert_close(mean.float(), expected.mean, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(std.float(), expected.std, rtol=1e-3, atol=1e-4)
    for bucket, count in store.buckets("train").items():
        numbers = store.numbers("train", bucket)
        together = [store.row(number) for number in numbers]
        mean, std = store.latents(together)
        assert len(numbers) == count == len(mean) and {row.bucket for row in together} == {bucket}
        assert mean.shape[2:] == (bucket[1] // 2, bucket[0] // 2)
        assert torch.equal(mean[-1:], store.latents([together[-1]])[0])


def _image(picture: Captioned) -> Image.Image:
    return Image.open(io.BytesIO(picture.data)).convert("RGB")


def test_time_ids_are_in_the_order_of_the_pipelines(tmp_path: Path, tiny_sdxl: Path) -> None:
    source = folder_of_json(tmp_path / "x", examples(3))
    pipeline.make(recipe(tmp_path / "run", [source]))
    sdxl = load_base(str(tiny_sdxl / "base"), SDXL)
    for row in PictureStore(tmp_path / "run" / "pictures").rows("train"):
        (width, height), (target_width, target_height) = row.original_size, row.bucket
        expected = sdxl._get_add_time_ids(
            (height, width), (row.top, row.left), (target_height, target_width), torch.float32, 20
        )
        assert expected.tolist() == [list(time_ids(row))]


@pytest.mark.parametrize("base", ["toyworld:base", "tiny"])
def test_scaled_latents_are_those_of_image_to_image(
    base: str, tmp_path: Path, tiny_sdxl: Path
) -> None:
    """The miniature's VAE has means and deviations of its latents, the other a factor alone."""
    folder = BASE if base == "toyworld:base" else str(tiny_sdxl / "base")
    sdxl = StableDiffusionXLImg2ImgPipeline(**load_base(folder, SDXL).components)
    vae = VaeFolder(ModelName(folder))
    mean, std = vae.load().encode(np.asarray(noise((32, 32), 0))[None])
    image = torch.from_numpy(np.asarray(noise((32, 32), 0)) / np.float32(127.5) - 1)
    expected = sdxl.prepare_latents(
        image.permute(2, 0, 1)[None], None, 1, 1, torch.float32, torch.device("cpu"),
        torch.Generator().manual_seed(5), add_noise=False,
    )  # fmt: skip
    drawn = torch.randn(mean.shape, generator=torch.Generator().manual_seed(5))
    found = vae.scaling.scaled(mean.float() + std.float() * drawn)
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-3)


def test_the_pipelines_of_sd_1_ignore_means_and_deviations(tmp_path: Path) -> None:
    shutil.copytree(f"{BASE}/vae", tmp_path / "vae")
    index = '{"_class_name": "StableDiffusionPipeline", "vae": ["diffusers", "AutoencoderKL"]}'
    (tmp_path / "model_index.json").write_text(index)
    scaling = VaeFolder(ModelName(str(tmp_path))).scaling
    assert (scaling.factor, scaling.mean, scaling.std) == (1.0, None, None)


def test_one_changed_picture_is_encoded_alone(tmp_path: Path, encoded_rows: list[int]) -> None:
    source, folder = folder_of_json(tmp_path / "x", many(20)), tmp_path / "run" / "pictures"
    made = recipe(tmp_path / "run", [source], held_out=4)
    assert pipeline.make(made).encoded == sum(encoded_rows) == 20
    first = contents(folder)
    assert pipeline.make(made)[1:] == (0, False)

    (tmp_path / "x" / "007.png").write_bytes(encoded(noise((40, 40), 100)))
    again = pipeline.make(made)
    assert again.encoded == 1 and again.is_new and sum(encoded_rows) == 21
    second = contents(folder)
    assert len(second) == 20
    same = [key for key in first if key in second]
    assert len(same) == 19 and all(first[key][1:] == second[key][1:] for key in same)

    lines = (tmp_path / "x" / "metadata.jsonl").read_text().replace("絵3", "別の絵")
    (tmp_path / "x" / "metadata.jsonl").write_text(lines)
    assert pipeline.make(made)[1:] == (0, True)  # other words, the same pictures
    assert any("別の絵" in row[2] for row in contents(folder).values())

    other_crop = recipe(tmp_path / "run", [source], held_out=4, max_aspect=3.0)
    assert pipeline.make(other_crop).encoded == 0  # another setting that changes no crop
    smaller = recipe(tmp_path / "run", [source], held_out=4, resolution=24)
    assert pipeline.make(smaller).encoded == 20
    assert not list((tmp_path / "run").glob("*unfinished*"))


def test_another_vae_encodes_everything(
    tmp_path: Path, tiny_sdxl: Path, encoded_rows: list[int]
) -> None:
    source = folder_of_json(tmp_path / "x", many(5))
    pipeline.make(recipe(tmp_path / "run", [source]))
    pipeline.make(recipe(tmp_path / "run", [source], base=str(tiny_sdxl / "base")))
    assert sum(encoded_rows) == 10


def test_who_is_held_out_stays_so_when_pictures_are_added(tmp_path: Path) -> None:
    def held_out(count: int, number: int = 5) -> set[str]:
        source = folder_of_json(tmp_path / "x", many(count))
        pipeline.make(recipe(tmp_path / "run", [source], held_out=number))
        store = PictureStore(tmp_path / "run" / "pictures")
        found = {row.file for row in store.rows("held_out")}
        assert len(found) == number and not found & {row.file for row in store.rows("train")}
        return found

    first = held_out(20)
    assert held_out(60) == first
    more = held_out(60, 7)
    assert first < more
    shutil.rmtree(tmp_path / "run")
    assert held_out(20) == first  # by the pictures alone
    with pytest.raises(RecipeError, match=r"held_out is 20, and there are 20 pictures"):
        held_out(20, 20)


def test_a_stopped_run_goes_on_where_it_stopped(
    tmp_path: Path, encoded_rows: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finetune.pictures.encoding.MOST_PICTURES", 4)
    source = folder_of_json(tmp_path / "x", many(20))
    pipeline.make(recipe(tmp_path / "undisturbed", [source]))
    counted, limit = Vae.encode, 3
    encoded_rows.clear()

    def stopped(self: Vae, pixels: np.ndarray) -> Any:
        if len(encoded_rows) >= limit:
            raise KeyboardInterrupt
        return counted(self, pixels)

    monkeypatch.setattr(Vae, "encode", stopped)
    made = recipe(tmp_path / "run", [source])
    with pytest.raises(KeyboardInterrupt):
        pipeline.make(made)
    assert not (tmp_path / "run" / "pictures").exists() and sum(encoded_rows) == 12
    limit = 100
    assert pipeline.make(made).encoded == 8 and sum(encoded_rows) == 20
    assert contents(tmp_path / "run" / "pictures") == contents(tmp_path / "undisturbed/pictures")


def test_a_kill_while_the_folders_change_places_costs_nothing(
    tmp_path: Path, encoded_rows: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run" / "pictures"

    def made(count: int) -> pipeline.Made:
        source = folder_of_json(tmp_path / "x", many(count))
        return pipeline.make(recipe(tmp_path / "run", [source], held_out=3))

    made(10)
    before = contents(folder)

    def killed(partial: Path, folder: Path) -> None:
        shutil.rmtree(folder)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("configs.files.publish", killed)
        made(30)
    assert not folder.exists() and sum(encoded_rows) == 30
    assert made(30).encoded == 0 and before.items() <= contents(folder).items()


KILLED = """
import sys, time
from configs.schema.load import load_recipe
from finetune.pictures import encoding, latent_files, pipeline
from finetune.pictures.vae import Vae
latent_files.SHARD_BYTES, encoding.MOST_PICTURES, encode = 1, 1, Vae.encode
def slowly(self, pixels):
    time.sleep(0.2)
    return encode(self, pixels)
Vae.encode = slowly
pipeline.make(load_recipe(sys.argv[1]))
"""


@pytest.mark.slow
def test_a_killed_run_loses_nothing_that_was_on_disk(
    tmp_path: Path, encoded_rows: list[int]
) -> None:
    source = folder_of_json(tmp_path / "x", many(30))
    made = recipe(tmp_path / "run", [source])
    (tmp_path / "recipe.yaml").write_text(dump_recipe(made), encoding="utf-8")
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path / "recipe.yaml")],
        cwd=ROOT,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while len(found := list((tmp_path / "run").glob("*/latents-*"))) < 5:
        assert child.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    found = list((tmp_path / "run").glob("*unfinished*/latents-*"))
    found[0].write_bytes(found[0].read_bytes()[:-1])  # as a power cut might leave it
    assert pipeline.make(made).encoded == sum(encoded_rows) == 30 - (len(found) - 1)
    pipeline.make(recipe(tmp_path / "undisturbed", [source]))
    whole, other = (contents(tmp_path / run / "pictures") for run in ("run", "undisturbed"))
    assert whole.keys() == other.keys()


def test_a_damaged_file_of_latents_is_refused_and_encoded_again(
    tmp_path: Path, encoded_rows: list[int]
) -> None:
    folder = tmp_path / "run" / "pictures"
    made = recipe(tmp_path / "run", [folder_of_json(tmp_path / "x", many(6))], held_out=2)
    pipeline.make(made)
    first = contents(folder)
    (file,) = folder.glob("latents-*")
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(DataError, match=r"damaged.*run python -m finetune.pictures"):
        PictureStore(folder)
    assert pipeline.make(made).encoded == 6 and contents(folder) == first
    (folder / "rows.parquet").write_bytes(b"x")
    with pytest.raises(DataError, match=r"rows.parquet: damaged.*move the folder away"):
        pipeline.make(made)
    with pytest.raises(DataError, match="missing, or not finished; run python -m finetune"):
        PictureStore(tmp_path / "nowhere")


def test_large_files_are_linked_and_small_ones_put_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bytes_a_picture = 2 * 2 * 4 * 16 * 16
    monkeypatch.setattr(latent_files, "SHARD_BYTES", 8 * bytes_a_picture)
    folder = tmp_path / "run" / "pictures"
    made = recipe(tmp_path / "run", [folder_of_json(tmp_path / "x", many(20))])
    pipeline.make(made)
    first = {path.name: path.stat().st_ino for path in folder.glob("latents-*")}
    assert len(first) == 3
    before = contents(folder)
    folder_of_json(tmp_path / "x", many(24))
    assert pipeline.make(made).encoded == 4
    second = {path.name: path.stat().st_ino for path in folder.glob("latents-*")}
    assert len(first.items() & second.items()) >= 2 and len(second) <= 4
    after = contents(folder)
    assert all(after[key] == row for key, row in before.items()) and len(after) == 24


def test_a_picture_that_cannot_be_decoded_is_dropped_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = many(3)
    pictures[1] = pictures[1]._replace(data=pictures[1].data[:-300])
    made = recipe(tmp_path / "run", [folder_of_json(tmp_path / "x", pictures)])
    (tmp_path / "recipe.yaml").write_text(dump_recipe(made), encoding="utf-8")
    for expected in ("2 pictures; 2 crops encoded, 0 found cached", "already made"):
        assert entry.main([str(tmp_path / "recipe.yaml")]) == 0
        output = capsys.readouterr().out
        assert expected in output
        if "encoded" in expected:
            lines = [" ".join(line.split()) for line in output.splitlines()]
            assert "truncated dropped 1" in lines and "32x32 2 0" in lines
            assert "folder:x kept 2 2 0" in lines
    details = PictureStore(tmp_path / "run" / "pictures").details
    assert details.sources[0].dropped == {"truncated": 1}
    assert "truncated" in report.tables(details)


def test_latents_that_are_not_finite_are_one_line_that_names_the_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(BASE, tmp_path / "base")
    weights = tmp_path / "base" / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    tensors["quant_conv.weight"][0, 0] = float("nan")
    save_file(tensors, weights)
    source = folder_of_json(tmp_path / "x", many(3))
    made = recipe(tmp_path / "run", [source], base=str(tmp_path / "base"))
    (tmp_path / "recipe.yaml").write_text(dump_recipe(made), encoding="utf-8")
    assert entry.main([str(tmp_path / "recipe.yaml")]) == 3
    (line,) = [one for one in capsys.readouterr().err.splitlines() if "finite" in one]
    assert "folder:x: 000.png" in line and "fp32" in line and "sdxl-vae-fp16-fix" in line
    assert not (tmp_path / "run" / "pictures").exists()


def test_what_cannot_be_done_is_one_line_before_the_work(tmp_path: Path) -> None:
    source = folder_of_json(tmp_path / "x", many(2))
    with pytest.raises(RecipeError, match=r"33x33 pixels is no whole number of latents"):
        pipeline.make(recipe(tmp_path / "run", [source], resolution=33, buckets=None))
    without = recipe(tmp_path / "run", [source]).model_copy(update={"pictures": None})
    with pytest.raises(RecipeError, match="the recipe has no section `pictures`"):
        pipeline.make(without)
