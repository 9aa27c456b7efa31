"""Kamon: shapes with Japanese names only, apart from the world of all published figures."""

import hashlib
from collections import Counter

import numpy as np
import torch
from diffusers import AutoencoderKL

from configs.references import TOYWORLD_MODELS
from corpora.toyworld import captions, japanese, kamon, renderer, scene_reader
from corpora.toyworld.scenes import KAMON, SHAPES

WORLD = "c4ce863da1c80437f859a4eb28b37d0de54ff33ea30d6d281fe5cf02a5c2f204"


def test_the_published_world_has_not_changed() -> None:
    digest = hashlib.sha256()
    for one in captions.pairs(2000, "train", 0):
        digest.update(f"{one.text}\n{one.en}\n".encode())
        digest.update(renderer.render([one.scene]).tobytes())
    assert digest.hexdigest() == WORLD


def test_every_caption_names_the_one_kamon_of_its_scene() -> None:
    shown: Counter[str] = Counter()
    for scene, ja in kamon.pairs(1000, "train", 0):
        (shape,) = [one.shape for one in scene.things if one.shape in KAMON]
        shown[shape] += 1
        names = [name for words in japanese.KAMON_WORDS.values() for name in words if name in ja]
        assert names and set(names) <= set(japanese.KAMON_WORDS[shape]), ja
    assert set(shown) == set(KAMON) and min(shown.values()) > 100
    held_out = {one.scene.key for one in kamon.pairs(1000, "held_out", 0)}
    assert not held_out & {one.scene.key for one in kamon.pairs(5000, "train", 1)}


def test_kamon_are_read_back_from_what_the_autoencoders_keep_of_them() -> None:
    """0.99 asked; a world whose pictures cannot be read back would measure the reader instead."""
    scenes = [one.scene for one in kamon.pairs(400, "held_out", 0)]
    pictures = renderer.render(scenes, np.random.default_rng(0))
    assert right(scenes, pictures) == 1.0
    for name in ("sd", "base"):
        vae = AutoencoderKL.from_pretrained(
            TOYWORLD_MODELS / name / "vae", trust_remote_code=False, use_safetensors=True
        ).float()
        with torch.inference_mode():
            pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2) / 127.5 - 1
            decoded = vae.decode(vae.encode(pixels).latent_dist.mean).sample
        again = ((decoded.clamp(-1, 1) + 1) * 127.5).round().permute(0, 2, 3, 1)
        assert right(scenes, again.numpy().astype(np.uint8)) >= 0.99


def right(scenes: list[scene_reader.Scene], pictures: np.ndarray) -> float:
    readings = scene_reader.read(pictures, (*SHAPES, *KAMON))
    return float(
        np.mean([scene_reader.matches(*both) for both in zip(scenes, readings, strict=True)])
    )
