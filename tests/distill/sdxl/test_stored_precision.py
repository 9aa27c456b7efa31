"""Community models hold fp16 under the plain file name, in a variant alone, or in shards.

Each gives the same states, projections and pictures as its numbers in fp32 under the plain name.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hub_server import Commit, File, HubServer, is_lfs
from hub_server import Repository as HubRepository
from safetensors.torch import load_file, save_file

from configs import stored_weights
from configs.errors import DataError
from configs.references import ModelName
from configs.schema.load import load_recipe
from distill.encoders.family import SDXL
from distill.encoders.teacher import load_text_encoders
from distill.export import pipeline_folder
from distill.objective.projections import Projections
from distill.run import inputs
from distill.sdxl.pipelines import load_base, load_text_side
from distill.sdxl.repository import open_folder
from distill.verify import readings
from finetune.pictures.vae import VaeFolder
from vocab_init import transplant

ROOT = Path(__file__).resolve().parents[3]
ENCODERS = ("text_encoder", "text_encoder_2")
PARTS = {
    **dict.fromkeys(ENCODERS, "model"),
    **dict.fromkeys(("unet", "vae"), "diffusion_pytorch_model"),
}
# The same numbers in another file lie at other addresses, and some processors then add in another
# order.
ROUNDING = {"rtol": 1e-5, "atol": 1e-5}
PROMPTS = ["a small red ring", ""]


def stored(part: Path, stem: str, layout: str) -> None:
    """Writes the part's weights again: in fp16, in files of this layout."""
    path = part / f"{stem}.safetensors"
    tensors = {name: tensor.half() for name, tensor in load_file(path).items()}
    path.unlink()
    variant = ".fp16" if "variant" in layout else ""
    if part.name in ENCODERS and layout != "fp32":
        # Published configs say it, and transformers 5 follows it where it is asked for no other.
        config = json.loads((part / "config.json").read_text()) | {"dtype": "float16"}
        (part / "config.json").write_text(json.dumps(config | {"torch_dtype": "float16"}))
    if layout == "fp32":
        save_file({name: one.float() for name, one in tensors.items()}, path, {"format": "pt"})
    elif "shards" not in layout:
        save_file(tensors, part / f"{stem}{variant}.safetensors", {"format": "pt"})
    else:
        names = sorted(tensors)
        halves, weight_map = (names[: len(names) // 2], names[len(names) // 2 :]), {}
        for number, half in enumerate(halves, 1):
            shard = f"{stem}{variant}-{number:05d}-of-00002.safetensors"
            save_file({name: tensors[name] for name in half}, part / shard, {"format": "pt"})
            weight_map |= dict.fromkeys(half, shard)
        index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
        (part / f"{stem}.safetensors.index{variant}.json").write_text(json.dumps(index))


@pytest.fixture(scope="module")
def reference(tiny_sdxl: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The numbers that fp16 can hold, in fp32."""
    folder = tmp_path_factory.mktemp("reference") / "base"
    shutil.copytree(tiny_sdxl / "base", folder)
    for part, stem in PARTS.items():
        stored(folder / part, stem, "fp32")
    return folder


@pytest.fixture(params=["plain", "variant", "shards", "shards of a variant"])
def layout(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=["encoders", "unet", "vae"])
def folder(request: pytest.FixtureRequest, layout: str, reference: Path, tmp_path: Path) -> Path:
    """The reference with one kind of part stored another way."""
    shutil.copytree(reference, tmp_path / "base")
    for part in ENCODERS if request.param == "encoders" else [request.param]:
        stored(tmp_path / "base" / part, PARTS[part], layout)
    return tmp_path / "base"


def picture(folder: Path) -> np.ndarray:
    pipeline = load_base(str(folder), SDXL)
    parts = (pipeline.text_encoder, pipeline.text_encoder_2, pipeline.unet, pipeline.vae)
    assert {tensor.dtype for part in parts for tensor in part.state_dict().values()} == {
        torch.float32
    }
    generator = torch.Generator().manual_seed(0)
    return pipeline(PROMPTS[0], num_inference_steps=2, generator=generator, output_type="np").images


def test_pictures_are_equal_in_fp32(folder: Path, reference: Path) -> None:
    np.testing.assert_allclose(picture(folder), picture(reference), **ROUNDING)


def test_projections_are_equal(folder: Path, reference: Path) -> None:
    name = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    mine, theirs = (Projections(str(one)) for one in (folder, reference))
    assert torch.equal(mine.read(name).float(), theirs.read(name))
    assert len(mine.sha256()) == 64


def assert_same(mine: torch.Tensor | None, theirs: torch.Tensor | None) -> None:
    assert mine is not None and theirs is not None and mine.dtype == torch.float32
    torch.testing.assert_close(mine, theirs, **ROUNDING)


@pytest.mark.parametrize("folder", ["encoders"], indirect=True)
def test_text_states_are_equal_however_they_are_read(folder: Path, reference: Path) -> None:
    mine, theirs = (load_text_encoders(one, SDXL).encode(PROMPTS) for one in (folder, reference))
    for name, tensor in theirs.named().items():
        assert_same(mine.named()[name], tensor)

    def stock(folder: Path) -> list[torch.Tensor]:
        pipeline = load_text_side(open_folder(folder))
        return pipeline.encode_prompt(PROMPTS[0], device="cpu", do_classifier_free_guidance=False)

    for mine, theirs in zip(stock(folder)[::2], stock(reference)[::2], strict=True):
        assert_same(mine, theirs)
    for mine, theirs in zip(
        open_folder(folder).encoders, open_folder(reference).encoders, strict=True
    ):
        ids = torch.tensor([[512, 5, 6, 513]])
        tower, other = (readings.load_tower(one) for one in (mine, theirs))
        assert_same(tower(ids, torch.tensor([3]))[0], other(ids, torch.tensor([3]))[0])
    first, second = (transplant.read_teacher(str(one), SDXL) for one in (folder, reference))
    assert first.sha256() == second.sha256()


@pytest.mark.parametrize("folder", ["encoders"], indirect=True)
def test_a_change_of_the_encoders_is_noticed(
    folder: Path, finished_run: Callable[..., str]
) -> None:
    settings = load_recipe(finished_run(), [f"distill.base={folder}"]).distill
    before = inputs._text_encoders(settings, SDXL)
    for path in (folder / "text_encoder").glob("*.safetensors"):
        tensors = load_file(path)
        save_file({name: one * 2 for name, one in tensors.items()}, path, {"format": "pt"})
    assert inputs._text_encoders(settings, SDXL) != before


@pytest.mark.parametrize("folder", ["unet"], indirect=True)
def test_what_is_assembled_from_it_loads_without_a_variant(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    pipeline_folder.assemble(tmp_path / "out", folder, folder, SDXL)
    found = stored_weights.find(tmp_path / "out" / "unet", PARTS["unet"])
    assert found.variant is None and all(path.is_file() for path in found.files)


def test_full_precision_is_preferred_and_what_is_missing_is_named(
    reference: Path, tmp_path: Path
) -> None:
    part = tmp_path / "unet"
    shutil.copytree(reference / "unet", part)
    stem = PARTS["unet"]
    shutil.copyfile(part / f"{stem}.safetensors", part / f"{stem}.fp16.safetensors")
    assert stored_weights.find(part, stem).variant is None
    (part / f"{stem}.safetensors").unlink()
    assert stored_weights.find(part, stem).variant == "fp16"
    with pytest.raises(DataError, match=rf"{stem}\.bf16\.safetensors: missing"):
        stored_weights.find(part, stem, wanted="bf16")
    (part / f"{stem}.fp16.safetensors").rename(part / f"{stem}.bin")
    with pytest.raises(DataError, match="pickle weights can run code"):
        stored_weights.find(part, stem)


def test_finetuning_reads_the_same_autoencoder_in_fp32(folder: Path, reference: Path) -> None:
    own, wanted = (
        VaeFolder(ModelName(str(one))).load().model.state_dict() for one in (folder, reference)
    )
    assert own.keys() == wanted.keys()
    assert all(own[name].equal(wanted[name]) for name in wanted)


FROM_THE_HUB = """
import sys
import torch
from configs.references import ModelName
from configs.schema.load import load_recipe
from distill.encoders.family import SDXL
from distill.encoders.teacher import load_text_encoders
from distill.objective.projections import Projections
from distill.run import inputs
from distill.sdxl.pipelines import load_base
from finetune.pictures.vae import VaeFolder

names, out = sys.argv[1:-1], sys.argv[-1]
found = []
for name in names:
    pipeline = load_base(name, SDXL)
    encoding = load_text_encoders(name, SDXL).encode(["a small red ring", ""])
    found.append(
        {
            "clip_l": encoding.states["clip_l"],
            "pooled": encoding.pooled_BP,
            "unet": pipeline.unet.conv_in.weight.detach(),
            "vae": pipeline.vae.decoder.conv_in.weight.detach(),
            "encoders": inputs._text_encoders(
                load_recipe("configs/toyworld.yaml", [f"distill.base={name}"]).distill, SDXL
            ),
            "projections": Projections(name).sha256(),
            "vae digest": VaeFolder(ModelName(name)).sha256,
        }
    )
torch.save(found, out)
"""


def test_a_repository_of_the_hub_with_half_precision_alone(reference: Path, tmp_path: Path) -> None:
    """Over HTTP: the variant is fetched where there is no plain file, and nowhere else."""
    half, both = tmp_path / "half", tmp_path / "both"
    for folder in (half, both):
        shutil.copytree(reference, folder)
    for part, stem in PARTS.items():
        stored(half / part, stem, "variant")
        name = f"{stem}.fp16.safetensors"
        shutil.copy(half / part / name, both / part / name)
    with HubServer() as hub:
        for folder in (half, both):
            files = {
                str(path.relative_to(folder)): path.read_bytes()
                for path in folder.rglob("*")
                if path.is_file()
            }
            stored_on_hub = HubRepository(private=False)
            commit = Commit(
                "weights",
                stored_on_hub.commits[-1].oid,
                {name: File(data, is_lfs(name, len(data))) for name, data in files.items()},
            )
            stored_on_hub.blobs |= {file.oid: file.content for file in commit.files.values()}
            stored_on_hub.commits.append(commit)
            hub.repositories[f"someone/{folder.name}"] = stored_on_hub
        environment = {
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_OFFLINE": "0",
        }
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                FROM_THE_HUB,
                "someone/half",
                "someone/both",
                tmp_path / "out.pt",
            ],
            cwd=ROOT,
            env=os.environ | environment | {"NO_PROXY": "127.0.0.1"},
            capture_output=True,
            text=True,
            timeout=300,
        )
    assert done.returncode == 0, done.stderr[-3000:]
    from_half, from_both = torch.load(tmp_path / "out.pt")
    for name in ("clip_l", "pooled", "unet", "vae"):
        assert from_half[name].dtype == torch.float32
        assert_same(from_half[name], from_both[name])
    # of fp16 numbers and of the same ones in fp32
    assert from_half["encoders"] != from_both["encoders"]
    assert from_half["projections"] != from_both["projections"]
    assert from_half["vae digest"] != from_both["vae digest"]
    cached = {
        path.name for path in (tmp_path / "hf").rglob("models--someone--both/**/*.safetensors")
    }
    assert cached == {f"{stem}.safetensors" for stem in PARTS.values()}
