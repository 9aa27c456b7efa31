"""What is no harm is let through: published models' sizes, and the links of the hub's cache.

Harm: tests/test_hostile.py.
"""

import shutil
from pathlib import Path

import pytest

from configs import model_folder
from configs.errors import DataError
from configs.references import TOYWORLD_MODELS

# Numbers of published configs, and of their weights the number of tensors and the largest ones.
PUBLISHED = {
    "CLIP ViT-L of SDXL": (
        {
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "vocab_size": 49408,
            "max_position_embeddings": 77,
        },
        196,
        [[49408, 768], [77, 768], [3072, 768]],
    ),
    "SDXL's UNet": (
        {
            "sample_size": 128,
            "block_out_channels": [320, 640, 1280],
            "layers_per_block": 2,
            "transformer_layers_per_block": [1, 2, 10],
            "cross_attention_dim": 2048,
            "projection_class_embeddings_input_dim": 2816,
            "addition_time_embed_dim": 256,
            "attention_head_dim": [5, 10, 20],
        },
        1680,
        [[10240, 1280], [1280, 2816]],
    ),
    "SDXL's VAE": (
        {
            "sample_size": 1024,
            "block_out_channels": [128, 256, 512, 512],
            "layers_per_block": 2,
            "latent_channels": 4,
        },
        248,
        [[512, 512, 3, 3]],
    ),
    "NLLB-200": (
        {
            "d_model": 1024,
            "encoder_layers": 12,
            "encoder_ffn_dim": 4096,
            "vocab_size": 256206,
            "max_position_embeddings": 1024,
        },
        512,
        [[256206, 1024]],
    ),
    "SigLIP": (
        {
            "vision_config": {"image_size": 384, "patch_size": 16, "hidden_size": 768},
            "text_config": {"vocab_size": 32000},
        },
        408,
        [[32000, 768]],
    ),
    "DINOv2": (
        {"hidden_size": 384, "image_size": 518, "num_hidden_layers": 12, "mlp_ratio": 4},
        223,
        [[1, 1370, 384], [1536, 384]],
    ),
    "ALBERT, whose layers share their weights": (
        {"num_hidden_layers": 12, "hidden_size": 768, "vocab_size": 30000},
        25,
        [[30000, 128], [768, 3072]],
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_fit(name: str) -> None:
    config, count, largest = PUBLISHED[name]
    shapes = {str(number): [1] for number in range(count)} | {
        f"large.{i}": shape for i, shape in enumerate(largest)
    }
    model_folder.check_weights(config, shapes, Path("config.json"))


def test_links_of_the_hubs_cache_are_followed(tmp_path: Path) -> None:
    cache = tmp_path / "models--org--name"
    snapshot, blobs = cache / "snapshots" / "0", cache / "blobs"
    blobs.mkdir(parents=True)
    shutil.copytree(TOYWORLD_MODELS / "base" / "text_encoder", snapshot / "text_encoder")
    for number, path in enumerate(sorted((snapshot / "text_encoder").iterdir())):
        path.rename(blobs / str(number))
        path.symlink_to(Path("../../../blobs") / str(number))
    model_folder.check(snapshot)
    linked = tmp_path / "by another name"
    linked.symlink_to(snapshot)  # the folder itself may be a link
    model_folder.check(linked)
    (snapshot / "text_encoder" / "config.json").unlink()
    (snapshot / "text_encoder" / "config.json").symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(DataError, match=r"config\.json: a link out of the folder"):
        model_folder.check(snapshot)


def test_what_is_no_folder_is_left_to_the_library(tmp_path: Path) -> None:
    model_folder.check(tmp_path / "none")
    model_folder.check("nobody/nothing")  # offline in tests
