"""Toyworld: what it holds, that held-out scenes are out of reach of training, that reading undoes
painting, and that the miniature paints.
"""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.references import TOYWORLD_MODELS
from corpora.miniature.fit import batch_of
from corpora.toyworld import captions, japanese, renderer, scene_reader
from corpora.toyworld.scenes import BACKGROUNDS, COLORS, RELATIONS, SHAPES, SIZES, Scene, Thing

things = st.builds(
    Thing, st.sampled_from(list(COLORS)), st.sampled_from(SHAPES), st.sampled_from(SIZES)
)
singles = st.builds(
    lambda background, thing: Scene(background, (thing,)),
    st.sampled_from(list(BACKGROUNDS)),
    things,
)
doubles = st.builds(
    lambda background, first, second, relation: Scene(background, (first, second), relation),
    st.sampled_from(list(BACKGROUNDS)),
    things,
    things,
    st.sampled_from(RELATIONS),
)


def test_the_world_is_as_large_as_promised() -> None:
    assert (
        len(COLORS) >= 8
        and len(SHAPES) >= 6
        and len(SIZES) == 2
        and len(RELATIONS) == 4
        and len(BACKGROUNDS) >= 4
    )
    assert (
        min(
            map(
                len,
                (
                    captions.ENGLISH_SINGLE,
                    captions.ENGLISH_DOUBLE,
                    japanese.PLAIN_SINGLE,
                    japanese.PLAIN_DOUBLE,
                ),
            )
        )
        >= 4
    )
    firsts = [
        pattern.index("{first}") < pattern.index("{second}") for pattern in japanese.PLAIN_DOUBLE
    ]
    assert set(firsts) == {True, False}, "both word orders"


def test_no_held_out_picture_is_ever_trained_on() -> None:
    """By what a picture shows, not by how it is said: captions of students, batches of the
    miniature, single things all enumerated.
    """
    held_out = {caption.key for caption in captions.pairs(3000, "held_out", 0)}
    train = {caption.key for caption in captions.pairs(10_000, "train", 0)}
    train |= {
        scene.key
        for salt in ("vae", "text", "base", "refiner")
        for step in range(20)
        for scene in batch_of(salt, step)[0]
    }
    assert len(held_out) > 1000 and not held_out & train
    every_single = [
        Scene(background, (Thing(*thing),))
        for background, thing in product(BACKGROUNDS, product(COLORS, SHAPES, SIZES))
    ]
    out = [scene for scene in every_single if scene.split == "held_out"]
    assert 0.05 < len(out) / len(every_single) < 0.15


@given(doubles)
def test_what_looks_the_same_is_on_the_same_side(scene: Scene) -> None:
    opposite = {"left": "right", "right": "left", "above": "below", "below": "above"}
    same = Scene(scene.background, scene.things[::-1], opposite[scene.relation or ""])
    assert same.key == scene.key and same.split == scene.split
    assert np.array_equal(renderer.render([same]), renderer.render([scene]))


@settings(max_examples=150, deadline=None)
@given(singles | doubles, st.integers(0, 2**31))
def test_the_reader_reads_what_was_painted(scene: Scene, seed: int) -> None:
    rng = np.random.default_rng(seed)
    picture = renderer.render([scene], rng)
    assert scene_reader.matches(scene, scene_reader.read(picture)[0])
    noisy = np.clip(picture + rng.normal(0, 10, picture.shape), 0, 255).astype(np.uint8)
    assert scene_reader.matches(scene, scene_reader.read(noisy)[0])


@settings(max_examples=60, deadline=None)
@given(singles | doubles, singles | doubles)
def test_the_reader_tells_two_pictures_apart(scene: Scene, other: Scene) -> None:
    assert scene_reader.matches(other, scene_reader.read(renderer.render([scene]))[0]) == (
        scene.key == other.key
    )


def test_a_washed_out_picture_is_not_a_right_one() -> None:
    scene = Scene("white", (Thing("red", "square", "big"),))
    pale = (250 - (250 - renderer.render([scene]).astype(float)) * 0.5).astype(np.uint8)
    assert not scene_reader.matches(scene, scene_reader.read(pale)[0])
    with pytest.raises(ValueError, match="must be"):
        scene_reader.read(pale[..., :1])


def test_a_seed_says_the_same() -> None:
    assert (
        list(captions.pairs(50, "train", 3))
        == list(captions.pairs(50, "train", 3))
        != list(captions.pairs(50, "train", 4))
    )


def test_the_shipped_models_stay_small_and_tell_no_path() -> None:
    files = [path for path in TOYWORLD_MODELS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 17e6
    assert not [
        path for path in files if path.suffix == ".json" and b"_name_or_path" in path.read_bytes()
    ]


def test_the_miniature_paints_what_english_says() -> None:
    """A few held-out captions through the stock base pipeline; `make demo` measures 200 of them."""
    from corpora.miniature.miniature_accuracy import measure

    accuracy = measure(count=16, batch=16)
    assert all(shares["scenes"] >= 0.75 for shares in accuracy.values())


def test_its_tokenizers_pad_as_sdxl_does() -> None:
    from corpora.miniature.miniature import load_tokenizers

    first, second = load_tokenizers(Path(TOYWORLD_MODELS / "base"))
    settings_77 = {"padding": "max_length", "max_length": 77, "truncation": True}
    end = len(first) - 1
    assert first("", **settings_77).input_ids == [end - 1] + [end] * 76
    assert second("", **settings_77).input_ids == [end - 1, end] + [0] * 75
    assert (
        second("red!", **settings_77).input_ids[2] == 0 != first("red!", **settings_77).input_ids[2]
    )  # a literal "!" is a pad there
    assert first("red " * 100, **settings_77).input_ids[-1] == end
