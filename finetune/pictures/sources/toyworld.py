"""Scenes of toyworld, painted and captioned; those it holds out are never among them.

A picture comes as a BMP file, whose bytes no version of a library changes.
"""

import io
from collections.abc import Iterator

import numpy as np
from PIL import Image

from configs.schema.pictures import ToyworldPictures
from corpora.toyworld import captions, kamon, renderer
from corpora.toyworld.scenes import Scene
from finetune.pictures.sources.captioned import CaptionedPicture


def read(source: ToyworldPictures) -> Iterator[CaptionedPicture]:
    for number, (scene, ja, en) in enumerate(_captioned(source)):

        def load(scene: Scene = scene, number: int = number) -> bytes:
            rng = np.random.default_rng([source.seed, number])  # of the places' jitter
            file = io.BytesIO()
            Image.fromarray(renderer.render([scene], rng, source.style)[0]).save(file, "BMP")
            return file.getvalue()

        yield CaptionedPicture(f"scene {number}", load, [ja], en)


def _captioned(source: ToyworldPictures) -> Iterator[tuple[Scene, str, list[str]]]:
    """Scene, Japanese caption, English captions."""
    if source.world == "kamon":
        for caption in kamon.pairs(source.scenes, "train", source.seed):
            yield caption.scene, caption.text, []
    else:
        for one in captions.pairs(source.scenes, "train", source.seed):
            yield one.scene, one.text, [one.en]
