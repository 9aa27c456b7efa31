"""Scenes of toyworld, painted and said in both languages; those it holds out are never among them.

A picture comes as a BMP file, whose bytes no version of a library changes.
"""

import io
from collections.abc import Iterator

import numpy as np
from PIL import Image

from configs.schema.pictures import ToyworldPictures
from corpora.toyworld import captions, renderer
from corpora.toyworld.scenes import Scene
from finetune.pictures.sources.captioned import CaptionedPicture


def read(source: ToyworldPictures) -> Iterator[CaptionedPicture]:
    for number, caption in enumerate(captions.pairs(source.scenes, "train", source.seed)):

        def load(scene: Scene = caption.scene, number: int = number) -> bytes:
            rng = np.random.default_rng([source.seed, number])  # of the places' jitter
            file = io.BytesIO()
            Image.fromarray(renderer.render([scene], rng, source.style)[0]).save(file, "BMP")
            return file.getvalue()

        yield CaptionedPicture(f"scene {number}", load, [caption.ja], [caption.en])
