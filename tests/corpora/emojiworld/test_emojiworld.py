"""Emojiworld: what it holds, that captions say one scene and no other, that held-out scenes and
unpaired words stay out of training, and that reading undoes painting.
"""

import random
import re
from collections import Counter
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.languages import LANGUAGES
from configs.schema.sources import EmojiworldSource, ToyworldSource
from corpora.emojiworld import captions, concepts, korean, renderer, scene_reader
from corpora.emojiworld.concepts import everything, frequencies, of_pictures, vocabulary
from corpora.emojiworld.english import kind
from corpora.emojiworld.scenes import BACKGROUNDS, THINGS, EmojiScene, EmojiThing
from corpora.worlds import emojiworld, of_source

ALL = len(everything()) - len(of_pictures())
FEW = vocabulary(40)


def concept(emoji: str) -> concepts.Concept:
    return next(one for one in everything() if one.emoji == emoji)


@st.composite
def scenes(draw: st.DrawFn) -> EmojiScene:
    layout = draw(st.sampled_from(list(THINGS)))
    size = st.sampled_from(["small", "big"]) if THINGS[layout] < 3 else st.just("small")
    thing = st.builds(EmojiThing, st.sampled_from(FEW), size)
    things = tuple(draw(thing) for _ in range(THINGS[layout]))
    return EmojiScene(draw(st.sampled_from(list(BACKGROUNDS))), layout, things)


def test_the_world_is_as_large_as_promised() -> None:
    groups = Counter(one.group for one in everything())
    assert ALL >= 900 and groups["unpaired"] == 60 and groups["pictures"] == 40
    for language in ("en", "ja"):
        names = [name for one in everything() for name in getattr(one, language)]
        assert len(set(names)) == len(names), "a name of two concepts"
    assert all(one.ko and one.ja[0] and len(one.ja[0]) <= 14 for one in everything())
    with pytest.raises(ValueError, match=f"2 to {ALL}"):
        vocabulary(ALL + 1)


def test_words_are_as_frequent_as_in_life() -> None:
    """The most frequent concept in more than one pair of a hundred, the rarest in one of ten to a
    hundred thousand.
    """
    shares = [share for share in frequencies(ALL) if share]
    things_a_pair = np.mean(
        [len(set(one.scene.things)) for one in captions.pairs(2000, "train", 1, ALL)]
    )
    assert sum(shares) == pytest.approx(1) and shares == sorted(shares, reverse=True)
    assert shares[0] * things_a_pair > 0.01
    assert 1e-5 < shares[-1] * things_a_pair < 1e-4


def test_the_same_row_gives_the_same_caption() -> None:
    first = list(captions.pairs(30, "train", 5, 100))
    assert list(captions.pairs(20, "train", 5, 100)) == first[:20]
    assert list(captions.pairs(20, "train", 6, 100)) != first[:20]


def test_held_out_scenes_and_unpaired_words_are_in_no_pair() -> None:
    train = list(captions.pairs(4000, "train", 0, ALL))
    held_out = list(captions.pairs(600, "held_out", 0, ALL))
    assert {one.scene.split for one in train} == {"train"}
    assert not {one.key for one in train} & {one.key for one in held_out}
    texts = "\n".join(one.text for one in train)
    unpaired = [one for one in vocabulary(ALL) if one.group == "unpaired"]
    assert not [name for one in unpaired for name in one.ja if name in texts]
    spoken_of = {thing.concept for one in held_out for thing in one.scene.things}
    assert len(spoken_of & set(unpaired)) > 30
    teachers = "\n".join(one.en for one in (*train, *held_out))
    assert not [one for one in of_pictures() if re.search(rf"\b{one.en[0]}\b", teachers)]


@pytest.mark.parametrize("language", captions.LANGUAGES)
def test_a_caption_says_one_scene(language: str) -> None:
    """Of three concepts nearly every scene is drawn and said many times: no text means two."""
    meant: dict[str, str] = {}
    for one in captions.pairs(8_000, "train", 0, 3, alike=True, language=language):
        assert meant.setdefault(one.text, one.key) == one.key
        assert meant.setdefault(one.en, one.key) == one.key
    assert len(set(meant.values())) > 500


@pytest.mark.parametrize(
    ("layout", "first", "second"),
    [("horizontal", "左 left", "右 right"), ("vertical", "上 above", "下 below")],
)
def test_left_is_left_and_above_is_above(layout: str, first: str, second: str) -> None:
    scene = EmojiScene(
        "blue",
        "horizontal" if layout == "horizontal" else "vertical",
        (EmojiThing(concept("🐈"), "big"), EmojiThing(concept("🐧"), "big")),
    )
    said = [captions.of_scene(scene, random.Random(seed)) for seed in range(300)]
    end = {"above": "at the top", "below": "at the bottom"}
    found = Counter()
    for word, (cat, penguin) in ((first, (True, False)), (second, (False, True))):
        ja, en = word.split()
        at_end = end.get(en, f"on the {en}")
        beside = f"(?:to the |on the )?{en} of|{en}|over|under"
        for one in said:
            for name in re.findall(
                rf"{ja}側?に(?:大きい|大きな|でっかい)?(ネコ|猫|ペンギン)(?!の)", one.text
            ):
                assert (name != "ペンギン") == cat, one.text
                found["ja", ja] += 1
            for name in re.findall(rf"(cat|penguin) {at_end}(?! of)", one.en):
                assert (name == "penguin") == penguin, one.en
                found["en", en] += 1
            for name in re.findall(rf"(cat|penguin) (?:to the |on the )?{en}(?: of)? an? ", one.en):
                assert (name == "penguin") == penguin, (one.en, beside)
                found["en", en] += 1
    assert len(found) == 4 and min(found.values()) > 30


def test_korean_says_the_same_scenes() -> None:
    """In its own letters, as prompts: the things in their order, their number with its counter."""
    pair = (EmojiThing(concept("🐈"), "small"), EmojiThing(concept("🐧"), "big"))
    for layout, first, last in (("horizontal", "왼쪽", "오른쪽"), ("vertical", "위쪽", "아래쪽")):
        scene = EmojiScene("blue", layout, pair)
        said = [captions.of_scene(scene, random.Random(seed), "ko") for seed in range(80)]
        cat, penguin = concept("🐈").ko, concept("🐧").ko
        for one in said:
            assert one.phrasing == "prompt" and "파란색 배경" in one.text
            before_cat = one.text[: one.text.index(cat)].rsplit(",", 1)[-1]
            before_penguin = one.text[: one.text.index(penguin)].rsplit(",", 1)[-1]
            assert first in before_cat and last not in before_cat
            assert first not in before_penguin
        assert any(f"{last}에 큰 {penguin}" in one.text for one in said)
    several = EmojiScene("white", "row", (EmojiThing(concept("🐈"), "small"),) * 3)
    assert all(
        "세 마리" in captions.of_scene(several, random.Random(seed), "ko").text
        for seed in range(20)
    )
    assert set(korean.BACKGROUNDS) == set(BACKGROUNDS)
    hangul = LANGUAGES["ko"].script
    for one in captions.pairs(300, "train", 0, ALL, language="ko"):
        assert hangul.search(one.text) and not LANGUAGES["ja"].script.search(one.text)
    source = EmojiworldSource(kind="emojiworld", pairs=9, held_out_pairs=1, concepts=9)
    source.use_language("ko")
    assert of_source(source) == emojiworld(9, language="ko")
    toys = ToyworldSource(kind="toyworld", pairs=9, held_out_pairs=1)
    toys.use_language("ko")
    with pytest.raises(ValueError, match="ko: toyworld speaks ja; give another language"):
        of_source(toys)


def test_counters_articles_and_verbs_fit() -> None:
    several = EmojiScene("white", "row", (EmojiThing(concept("🐈"), "small"),) * 3)
    said = [captions.of_scene(several, random.Random(seed)) for seed in range(60)]
    assert all("three cats" in one.en for one in said)
    assert all(re.search("[三3]匹", one.text) for one in said)
    assert any("いる" in one.text for one in said) and not any("ある" in one.text for one in said)


def test_exchanging_the_things_changes_no_word() -> None:
    twins = list(captions.held_out_twins(10, 3, ALL))
    assert len(twins) == 20
    for one, other in zip(twins[::2], twins[1::2], strict=True):
        assert kind(one.scene) == "two" and one.scene.things == other.scene.things[::-1]
        assert Counter(one.en.replace(",", "").split()) == Counter(
            other.en.replace(",", "").split()
        )
        assert one.text != other.text and {one.scene.split, other.scene.split} == {"held_out"}


def test_a_world_says_its_scenes_otherwise() -> None:
    world = emojiworld(100)
    for seed, one in enumerate(world.pairs(40, "held_out", 2)):
        parts = world.words(one)
        assert "".join(ja for ja, _ in parts) == one.text
        english = {en for _, en in parts if en}
        assert english == {thing.concept.en[0] for thing in one.scene.things}
        said = {world.paraphrase(one, random.Random(f"{seed} {n}")) for n in range(9)}
        assert len(said) > 1
        twin = world.swapped(one)
        assert (twin is not None) == (kind(one.scene) == "two")


@settings(deadline=None, max_examples=25)
@given(st.lists(scenes(), min_size=1, max_size=3), st.integers(0, 99))
def test_reading_undoes_painting(drawn: list[EmojiScene], seed: int) -> None:
    pictures = renderer.render(drawn, np.random.default_rng(seed))
    for scene, reading in zip(drawn, scene_reader.read(pictures, FEW), strict=True):
        assert emojiworld(2).right(scene, reading), (scene, reading)
        assert all(scene_reader.things_right(scene, reading)) and reading.error < 8


def test_every_drawing_is_read_right_in_both_sizes() -> None:
    """Among all concepts, blurred and with noise, as a decoder leaves them."""
    drawn = [
        EmojiScene(background, "single", (EmojiThing(one, size),))
        for (one, size), background in zip(
            product(everything()[::40], ("small", "big")), list(BACKGROUNDS) * 99, strict=False
        )
    ]
    pictures = renderer.render(drawn).astype(float)
    noise = np.random.default_rng(0).normal(0, 0.05 * 255, pictures.shape)
    noisy = (pictures + noise).round().clip(0, 255).astype(np.uint8)
    readings = scene_reader.read(noisy)
    wrong = [
        scene.things
        for scene, reading in zip(drawn, readings, strict=True)
        if not emojiworld(2).right(scene, reading)
    ]
    assert len(wrong) <= 1, wrong


def test_what_cannot_be_read_is_refused() -> None:
    with pytest.raises(ValueError, match="pictures must be"):
        scene_reader.read(np.zeros((1, 32, 32, 3), np.uint8))
