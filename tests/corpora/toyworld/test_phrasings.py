"""Toyworld's Japanese: what every pattern means, what one particle decides, and that a bag of its
words never says which picture is meant.
"""

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from configs.references import TOYWORLD_MODELS
from configs.schema.load import load_recipe
from configs.schema.sources import ToyworldSource
from corpora import sources
from corpora.miniature import miniature
from corpora.miniature.design import OF_TOYWORLD
from corpora.pair import read_manifest
from corpora.toyworld import captions, japanese, lexicon
from corpora.toyworld.captions import role_swapped
from corpora.toyworld.japanese import PHRASINGS
from corpora.toyworld.scenes import (
    BACKGROUNDS,
    COLORS,
    RELATIONS,
    SHAPES,
    SIZES,
    Scene,
    Thing,
    sample,
)

ROOT = Path(__file__).resolve().parents[3]

# a small red circle on white; and the same to the left of a big blue square
ONE = Scene("white", (Thing("red", "circle", "small"),))
TWO = Scene("white", (Thing("red", "circle", "small"), Thing("blue", "square", "big")), "left")


class Choosing(random.Random):
    """Takes what is wanted where it is offered, elsewhere the first of the options: 小さい赤い丸,
    大きい青い四角, 左.
    """

    def __init__(self, *wanted: object) -> None:
        super().__init__(0)
        self.wanted = wanted

    def choice(self, options):
        return next((option for option in options if option in self.wanted), options[0])


def said(scene: Scene, phrasing: japanese.Phrasing, *wanted: object) -> str:
    return str(japanese.say(scene, phrasing, Choosing(*wanted)))


# What each pattern says of ONE or of TWO, written by hand from the picture; the patterns are taken
# in their order.
RELATIVE_OF_ONE = (
    "白い背景に置かれた小さい赤い丸",  # a small red circle put on a white background
    "小さい赤い丸がひとつある白い背景",
    "小さい赤い丸が描かれた白い背景の絵",
    "背景が白になっている、小さい赤い丸の絵",
)
RELATIVE_OF_TWO = (
    # a small red circle that has a big blue square on its right
    "右に大きい青い四角がある小さい赤い丸",
    # a big blue square that has a small red circle on its left
    "左に小さい赤い丸がある大きい青い四角",
    # a small red circle on whose right there is a big blue square
    "大きい青い四角が右にある小さい赤い丸",
    # a small red circle that is to the left of a big blue square
    "大きい青い四角の左にある小さい赤い丸",
    "小さい赤い丸が左にある大きい青い四角",
    "小さい赤い丸の右にある大きい青い四角",
    "大きい青い四角が右に置かれた小さい赤い丸",
    "大きい青い四角の左に置かれた小さい赤い丸",
)
MODIFIERS_OF_ONE = (
    # on a white background, a circle small of size and red of color
    "白い背景に、大きさは小さく色は赤い丸",
    "背景は白で、大きさは小さく色は赤い丸がひとつ",
    "丸がひとつ、色は赤で大きさは小、背景は白",
    "背景は白、大きさは小、色は赤、形は丸",
)
MODIFIERS_OF_TWO = (
    "白い背景に、大きさは大きく色は青い四角があり、その左に大きさは小さく色は赤い丸がある",
    "背景は白で、左に大きさは小さく色は赤い丸、右に大きさは大きく色は青い四角",
    # from the left: a circle, a square
    "左から順に、大きさは小さく色は赤い丸と大きさは大きく色は青い四角、背景は白",
    # from the right: a square, a circle
    "右から順に、大きさは大きく色は青い四角と大きさは小さく色は赤い丸、背景は白",
    # the left one is red and small, the right one ...
    "左に丸、右に四角があり、左のほうは赤くて小さく、右のほうは青くて大きく、背景は白",
    "左に丸、右に四角があり、右のほうは青くて大きく、左のほうは赤くて小さく、背景は白",
    # from the left, the shapes are circle and square, the colors ...
    "左から順に、形は丸と四角、色は赤と青、大きさは小と大、背景は白",
)
MODIFIED = (
    "大きさは小さく色は赤い丸",
    "色が赤で大きさが小さい丸",
    "小さくてしかも赤い丸",
    "赤くてしかも小さい丸",
)
# "not orange but red", "not orange", "not big", "not a square but"
NEGATED_COLOR = (
    "オレンジではなく赤い小さい丸",
    "オレンジじゃなくて赤い小さい丸",
    "赤であってオレンジではない小さい丸",
)
NEGATED_SIZE = ("大きくない赤い丸", "赤くて大きくない丸")
NEGATED_SHAPE = ("四角ではなく小さい赤い丸", "四角じゃなくて赤い小さい丸")
NEGATED_BACKGROUND = (
    "黒ではなく白い背景に、大きい青い四角の左に小さい赤い丸",
    "背景は黒ではなく白で、大きい青い四角の左に小さい赤い丸",
    "背景は白であって黒ではなく、大きい青い四角の左に小さい赤い丸",
)
NEGATED_RELATION = (
    "白い背景に、大きい青い四角の右ではなく左に小さい赤い丸",
    "背景は白で、小さい赤い丸は大きい青い四角の左にあり、右にはない",
    "小さい赤い丸があるのは大きい青い四角の右ではなく左、背景は白",
)


def test_every_pattern_says_what_was_checked_by_hand() -> None:
    after = japanese.FRAMES[1]  # "{core}、背景は{background}"
    assert (
        tuple(said(ONE, "relative", pattern) for pattern in japanese.RELATIVE_SINGLE)
        == RELATIVE_OF_ONE
    )
    assert [said(TWO, "relative", core, after) for core in japanese.RELATIVE_CORES] == [
        f"{core}、背景は白" for core in RELATIVE_OF_TWO
    ]
    assert (
        tuple(said(ONE, "modifiers", pattern) for pattern in japanese.MODIFIERS_SINGLE)
        == MODIFIERS_OF_ONE
    )
    assert (
        tuple(said(TWO, "modifiers", pattern) for pattern in japanese.MODIFIERS_DOUBLE)
        == MODIFIERS_OF_TWO
    )
    assert [said(ONE, "modifiers", form) for form in japanese.MODIFIED] == [
        f"白い背景に、{thing}" for thing in MODIFIED
    ]
    for attribute, forms, expected in (
        ("color", japanese.NEGATED_COLOR, NEGATED_COLOR),
        ("size", japanese.NEGATED_SIZE, NEGATED_SIZE),
        ("shape", japanese.NEGATED_SHAPE, NEGATED_SHAPE),
    ):
        assert [said(ONE, "negation", 0, attribute, form) for form in forms] == [
            f"白い背景に、{thing}" for thing in expected
        ]
    assert (
        tuple(
            said(TWO, "negation", "background", pattern) for pattern in japanese.NEGATED_BACKGROUND
        )
        == NEGATED_BACKGROUND
    )
    assert (
        tuple(said(TWO, "negation", "relation", pattern) for pattern in japanese.NEGATED_RELATION)
        == NEGATED_RELATION
    )


def test_frames_and_things_alike_were_checked_by_hand_too() -> None:
    core = RELATIVE_OF_TWO[0]
    frames = [said(TWO, "relative", frame) for frame in japanese.FRAMES]
    assert frames == [f"白い背景に、{core}", f"{core}、背景は白", f"背景は白で、{core}"]
    assert (
        said(TWO, "negation", 1, "color", japanese.NEGATION_CORES["double"][1])
        == "白い背景に、小さい赤い丸が赤ではなく青い大きい四角の左にある"
    )
    assert (
        said(ONE, "negation", 0, "color", japanese.NEGATION_CORES["single"][1])
        == "白い背景に、オレンジではなく赤い小さい丸がひとつ"
    )
    alike = replace(
        TWO, things=(TWO.things[0], replace(TWO.things[0], color="blue")), relation="above"
    )
    lists, apart = japanese.MODIFIERS_DOUBLE[6], japanese.MODIFIERS_DOUBLE[4]
    assert (
        said(alike, "modifiers", lists)
        == "上から順に、形はどちらも丸、色は赤と青、大きさはどちらも小、背景は白"
    )
    assert (
        said(alike, "modifiers", apart, "円")
        == "上に円、下にも円があり、上のほうは赤くて小さく、下のほうは青くて小さく、背景は白"
    )
    of_two_alike = said(alike, "modifiers", japanese.MODIFIED_OF_TWO_ALIKE)
    assert (
        of_two_alike == "白い背景に、青くて小さいほうの丸があり、その上に赤くて小さいほうの丸がある"
    )


@pytest.mark.parametrize(("of_head", "of_landmark"), [(2, 3), (4, 5), (6, 7)])
def test_one_particle_decides_which_side_is_meant(of_head: int, of_landmark: int) -> None:
    """四角が右にある丸: the circle is on the left. 四角の右にある丸: it is on the right.

    All but が and の is the same.
    """
    left = said(TWO, "relative", japanese.RELATIVE_CORES[of_head])
    mirrored = replace(TWO, relation="right")
    right = said(mirrored, "relative", japanese.RELATIVE_CORES[of_landmark])
    assert TWO.key != mirrored.key and [
        pair for pair in zip(left, right, strict=True) if len(set(pair)) > 1
    ] == [("が", "の")]


def test_the_order_decides_which_value_is_denied() -> None:
    for one, other, choices in (
        (ONE, replace(ONE, background="black"), ("background", japanese.NEGATED_BACKGROUND[1])),
        (TWO, replace(TWO, relation="right"), ("relation", japanese.NEGATED_RELATION[0])),
    ):
        first, second = said(one, "negation", *choices), said(other, "negation", *choices)
        assert first != second and Counter(lexicon.words_of(first)) == Counter(
            lexicon.words_of(second)
        )


def attributes(scene: Scene) -> set[str]:
    return {
        scene.background,
        *(value for thing in scene.things for value in (thing.color, thing.shape, thing.size)),
    }


def said_attributes(text: str) -> set[str]:
    """The colors, shapes, sizes and backgrounds a Japanese caption names; of the English words for
    one thing the first.
    """
    named = {
        lexicon.meanings()[word][0] for word in lexicon.words_of(text) if word in lexicon.meanings()
    }
    return named & {*COLORS, *SHAPES, *SIZES, *BACKGROUNDS}


def said_relations(text: str) -> set[str]:
    return {
        lexicon.meanings()[word][0] for word in lexicon.words_of(text) if word in lexicon.meanings()
    } & {*RELATIONS}


def test_every_caption_says_its_whole_scene_and_nothing_else() -> None:
    rng = random.Random(0)
    for phrasing in ("plain", "relative", "modifiers"):
        for _ in range(1000):
            scene = sample("train", rng)
            caption = captions.of_scene(scene, phrasing, rng)
            assert said_attributes(caption.text) == attributes(scene), caption.text
            assert said_relations(caption.text) <= {
                scene.relation,
                japanese.OPPOSITE.get(scene.relation or ""),
            }, caption.text
            english = (
                caption.en.replace("little", "small")
                .replace("large", "big")
                .replace(",", " ")
                .replace(";", " ")
                .split()
            )
            assert attributes(scene) <= set(english), caption.en


def test_a_negation_names_one_wrong_value_drawn_from_all_the_others() -> None:
    rng = random.Random(0)
    scene = Scene("gray", (Thing("green", "ring", "big"), Thing("pink", "cross", "big")), "above")
    wrong: Counter[str] = Counter()
    for _ in range(6000):
        text = captions.of_scene(scene, "negation", rng).text
        named = (said_attributes(text) - attributes(scene)) | (said_relations(text) - {"above"})
        # a wrong value may be the right one of the other thing: then the sentence names nothing
        # that is not there
        assert len(named) <= 1 and any(
            word in text for word in ("ではなく", "じゃなくて", "ではない", "くない", "にはない")
        ), text
        assert {"gray", "green", "pink"} <= said_attributes(text)
        wrong.update(named)
    for group in (
        set(COLORS) - {"green", "pink"},
        set(SHAPES) - {"ring", "cross"},
        {"white", "black", "brown"},
        {"below", "left", "right"},
    ):
        counts = [wrong.pop(value) for value in sorted(group)]
        assert min(counts) > 0.6 * max(counts), (group, counts)
    assert set(wrong) == {"small"}, "nothing but the other size is left"


def test_no_sentence_is_said_of_two_pictures() -> None:
    meant: dict[str, str] = {}
    for caption in captions.pairs(15_000, "train", 2):
        both = [caption, role_swapped(caption)] if caption.scene.relation else [caption]
        for one in both:
            for text in (one.text, one.en):
                assert meant.setdefault(text, one.key) == one.key, text


def test_a_role_swapped_twin_has_the_same_words_and_another_picture() -> None:
    twins = [
        (caption, role_swapped(caption))
        for caption in captions.pairs(2000, "held_out", 3)
        if caption.scene.relation
    ]
    for caption, twin in twins:
        assert (
            twin.key != caption.key
            and twin.scene.relation == caption.scene.relation
            and role_swapped(twin) == caption
        )
        assert twin.text != caption.text and twin.en != caption.en
        assert Counter(lexicon.words_of(twin.text)) == Counter(
            lexicon.words_of(caption.text)
        ) and sorted(twin.en) == sorted(caption.en)
    assert {caption.phrasing for caption, _ in twins} == set(PHRASINGS)
    # a held-out scene's twin is held out no oftener than any scene
    held_out = sum(twin.scene.split == "held_out" for _, twin in twins) / len(twins)
    assert 0.05 < held_out < 0.16
    with pytest.raises(AssertionError, match="one thing"):
        role_swapped(captions.of_scene(ONE, "plain", random.Random(0)))


def test_phrasings_come_in_their_shares_whatever_the_scene() -> None:
    """So figures by phrasing compare like with like: one thing in a quarter of the scenes, in every
    phrasing.
    """
    made = list(captions.pairs(8000, "train", 5))
    counts = Counter((caption.phrasing, caption.scene.relation is None) for caption in made)
    assert sum(captions.SHARES.values()) == pytest.approx(1) and list(captions.SHARES) == list(
        PHRASINGS
    )
    for phrasing, share in captions.SHARES.items():
        single, double = counts[phrasing, True], counts[phrasing, False]
        assert (single + double) / len(made) == pytest.approx(share, abs=0.02)
        assert single / (single + double) == pytest.approx(0.25, abs=0.04)


def test_the_english_is_what_the_miniature_was_trained_on(tmp_path: Path) -> None:
    """Made again from today's captions, its tokenizer is the shipped one byte for byte: Japanese
    may grow, English and scenes stay.
    """
    english = (caption.en for caption in captions.pairs(4000, "train", 0))
    miniature.write_tokenizers(english, tmp_path, OF_TOYWORLD.tokens)
    for name in ("vocab.json", "merges.txt"):
        assert (tmp_path / "tokenizer" / name).read_bytes() == (
            TOYWORLD_MODELS / "base" / "tokenizer" / name
        ).read_bytes()


# --- the way into the pairs ---


def test_each_row_carries_its_phrasing_as_its_source() -> None:
    source = ToyworldSource(kind="toyworld", pairs=3000, held_out_pairs=1, seed=6)
    part = sources.Part(0, (), (0,), (3000,), 0, 3000, "train")
    rows = [
        row
        for batch in sources.read(source, part)
        for row in zip(batch.sources, batch.text, batch.en, strict=True)
    ]
    assert rows == [
        (f"toyworld_{one.phrasing}", one.text, one.en) for one in captions.pairs(3000, "train", 6)
    ]


def test_preparing_drops_duplicates_and_nothing_else(tmp_path: Path) -> None:
    from corpora import prepare

    recipe = [str(ROOT / "configs" / "toyworld.yaml"), f"run={tmp_path / 'run'}"]
    assert load_recipe(recipe[0]).corpora.near_duplicates is None
    sizes = ["corpora.sources.0.pairs=1700", "corpora.sources.0.held_out_pairs=300"]
    assert prepare.main([*recipe, *sizes]) == 0
    manifest = read_manifest(tmp_path / "run" / "pairs")
    dropped = Counter(
        {
            reason: count
            for stage in manifest.stages
            for reason, count in stage.dropped.items()
            if count
        }
    )
    texts = {
        (one.text, one.en)
        for split, count in (("held_out", 300), ("train", 1700))
        for one in captions.pairs(count, split, 0)
    }
    assert set(dropped) <= {"exact_duplicate"} and dropped.total() == 2000 - len(texts)
    assert sum(map(manifest.rows, ("train", "held_out"))) == len(texts)


def test_held_out_twins_come_in_couples_that_nobody_was_trained_on() -> None:
    twins = list(captions.held_out_twins(5, 0))
    assert len(twins) == 10 and all(caption.scene.split == "held_out" for caption in twins)
    assert all(
        role_swapped(one) == other for one, other in zip(twins[::2], twins[1::2], strict=True)
    )
