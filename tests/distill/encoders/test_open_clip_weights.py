"""Every way in which `distill.teacher` can name the wrong weights, or damaged ones: one line for
the user.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
import torch
from open_clip_models import checkpoint, edit, tiny_model
from safetensors.torch import load_file, save_file

from configs.errors import DataError
from configs.schema.filters import Filters
from distill.encoders.family import SDXL
from distill.encoders.teacher import load_text_encoders
from vocab_init import transplant

REFERENCES = {
    "no open_clip reference": (
        "ViT-bigG-14/laion2b_s39b_b160k",
        "write open_clip:ViT-bigG-14/laion2b_s39b_b160k, or open_clip:MODEL/PATH",
    ),
    "no tag": ("open_clip:tiny-bigG", "write open_clip:"),
    "unknown model": (
        "open_clip:ViT-bigG-41/laion2b_s39b_b160k",
        "knows no model 'ViT-bigG-41'; give one that it knows (ViT-bigG-14",
    ),
    "a model of the hub": ("open_clip:hf-hub:someone/model", "knows no model 'hf-hub:someone'"),
    "unknown tag": (
        "open_clip:ViT-bigG-14/laion",
        "'laion' is neither a file nor one of ViT-bigG-14's pretrained tags (laion2b_s39b_b160k",
    ),
    "missing file": (
        "open_clip:tiny-bigG/no/such.safetensors",
        "'no/such.safetensors' is neither a file nor one of",
    ),
    "another width": (
        "open_clip:ViT-bigG-14/laion2b_s39b_b160k",
        "is 1280 wide, distill.base's are 16 (clip_l) and 24 (clip_bigg)",
    ),
}


@pytest.mark.parametrize(("reference", "cause"), REFERENCES.values(), ids=REFERENCES)
def test_a_reference_that_names_nothing_is_one_line(
    reference: str, cause: str, tiny_sdxl: Path
) -> None:
    refused(tiny_sdxl / "base", reference, cause)


SIZES = {
    "tiny-deep": "its num_hidden_layers is 4, distill.base's config.json of clip_bigg says 3",
    "tiny-wide": "its text tower is 32 wide",
    "tiny-words": "its vocab_size is 515, distill.base's config.json of clip_bigg says 514",
    "tiny-projection": "its projection_dim is 12, distill.base's config.json of clip_bigg says 20",
    "tiny-bigG-quickgelu": "its hidden_act is 'quick_gelu', distill.base's config.json of "
    "clip_bigg says 'gelu'",
    "tiny-bigG-last": "its text tower has pool_type 'last'",
}


@pytest.mark.parametrize(("name", "cause"), SIZES.items(), ids=SIZES)
def test_a_model_of_other_sizes_is_one_line(
    name: str, cause: str, tiny_sdxl: Path, tmp_path: Path
) -> None:
    refused(tiny_sdxl / "base", checkpoint(tmp_path, name), cause)


def test_the_activation_is_that_of_the_tag(
    tiny_sdxl: Path, tmp_path: Path, empty_hub_cache: None
) -> None:
    """open_clip's name ViT-L-14 stands for gelu, its OpenAI weights were trained with quick_gelu:
    the tag is right.
    """
    sizes = {
        "hidden_size": 768,
        "num_attention_heads": 12,
        "num_hidden_layers": 12,
        "intermediate_size": 3072,
        "vocab_size": 49408,
    }
    base = with_config(tiny_sdxl / "base", tmp_path / "base", "text_encoder", **sizes)
    refused(
        base,
        "open_clip:ViT-L-14/laion2b_s32b_b82k",
        "its hidden_act is 'gelu', distill.base's config.json of clip_l says 'quick_gelu'",
    )
    refused(base, "open_clip:ViT-L-14/openai", "open_clip:ViT-L-14/openai: cannot be fetched")


def test_a_tag_that_needs_the_network_is_one_line(
    tiny_sdxl: Path, tmp_path: Path, empty_hub_cache: None
) -> None:
    sizes = {
        "hidden_size": 1280,
        "num_attention_heads": 20,
        "num_hidden_layers": 32,
        "intermediate_size": 5120,
        "vocab_size": 49408,
    }
    base = with_config(
        tiny_sdxl / "base", tmp_path / "base", "text_encoder_2", **sizes, projection_dim=1280
    )
    refused(
        base,
        "open_clip:ViT-bigG-14/laion2b_s39b_b160k",
        "b160k: cannot be fetched (FileNotFoundError: ",
    )


@pytest.fixture
def empty_hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests run offline; this machine may hold the weights from other work."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "empty"))


def with_config(base: Path, copy: Path, subfolder: str, **values: object) -> Path:
    shutil.copytree(base, copy)
    edit(copy / subfolder / "config.json", **values)
    return copy


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def _without_text(path: Path) -> None:
    save_file(
        {key: tensor for key, tensor in load_file(path).items() if key.startswith("visual.")}, path
    )


def _without_a_bias(path: Path) -> None:
    save_file(
        {
            key: tensor
            for key, tensor in load_file(path).items()
            if key != "transformer.resblocks.1.attn.in_proj_bias"
        },
        path,
    )


def _another_layer(path: Path) -> None:
    save_file(tiny_model("tiny-deep").state_dict(), path)


def _nan(path: Path) -> None:
    state = load_file(path)
    state["token_embedding.weight"][7, 3] = torch.nan
    save_file(state, path)


NO_TENSORS = "no checkpoint of tensors alone"
DAMAGE: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "truncated": (
        _truncate,
        "safetensors",
        "tiny-bigG.safetensors: cannot be read (SafetensorError: ",
    ),
    "truncated torch file": (_truncate, "pt", f"tiny-bigG.pt: {NO_TENSORS} (RuntimeError: "),
    "a pickle of anything": (
        lambda path: torch.save({"state_dict": Filters()}, path),
        "bin",
        f"{NO_TENSORS} (UnpicklingError: ",
    ),
    "no dictionary": (lambda path: torch.save([torch.zeros(1)], path), "pt", NO_TENSORS),
    "no text tower": (
        _without_text,
        "safetensors",
        "holds no text tower of open_clip's (token_embedding.weight is missing)",
    ),
    "a tensor is missing": (
        _without_a_bias,
        "safetensors",
        "1.attn.in_proj_bias is missing, in the text tower of tiny-bigG it is of shape (72,)",
    ),
    "a layer too many": (
        _another_layer,
        "safetensors",
        "3.attn.in_proj_bias is of shape (72,), in the text tower of tiny-bigG it is missing",
    ),
}


@pytest.mark.parametrize(("damage", "kind", "cause"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_checkpoint_is_one_line(
    damage: Callable[[Path], object], kind: str, cause: str, tiny_sdxl: Path, tmp_path: Path
) -> None:
    reference = checkpoint(tmp_path, "tiny-bigG", kind)
    damage(Path(reference.partition("/")[2]))
    refused(tiny_sdxl / "base", reference, cause)


def test_token_embeddings_that_are_no_numbers_are_one_line(tiny_sdxl: Path, tmp_path: Path) -> None:
    reference = checkpoint(tmp_path, "tiny-bigG")
    _nan(Path(reference.partition("/")[2]))
    with pytest.raises(DataError, match="token embeddings hold NaN or infinity"):
        transplant.read_teacher(str(tiny_sdxl / "base"), SDXL, reference)


def refused(base: Path, reference: str, cause: str) -> None:
    with pytest.raises(DataError) as caught:
        load_text_encoders(base, SDXL, reference)
    assert cause in str(caught.value) and len(str(caught.value).splitlines()) == 1
