"""How toyworld's scenes are said, in English and in Japanese: several phrasings each, in genuinely different word order.

Japanese puts the landmark before the thing and the verb last, so what an English caption says first is often heard last.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from corpora.toyworld.scenes import Scene, Split, Thing, sample

ENGLISH_SIZES = {"small": ("small", "little"), "big": ("big", "large")}
ENGLISH_RELATIONS = {
    "left": ("to the left of", "left of"),
    "right": ("to the right of", "right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}
ENGLISH_RELATIONS_OF_IT = {"left": "to its left", "right": "to its right", "above": "above it", "below": "below it"}
ENGLISH_SINGLE = (
    "a {thing} on a {background} background",
    "on a {background} background there is a {thing}",
    "{background} background with one {thing}",
    "a {shape} that is {size} and {color}, background {background}",
)
ENGLISH_DOUBLE = (
    "a {first} {relation} a {second} on a {background} background",
    "on a {background} background, a {second} with a {first} {of_it}",
    "{relation} a {second} there is a {first}, {background} background",
    "a {second} and {of_it} a {first}; the background is {background}",
)

JAPANESE_SIZES = {"small": ("小さい", "小さな", "ちっちゃい"), "big": ("大きい", "大きな", "でっかい")}
# (before a noun, ...), joined to another adjective, as a noun
JAPANESE_COLORS = {
    "red": (("赤い", "赤の"), "赤くて", "赤"),
    "orange": (("オレンジの", "オレンジ色の"), "オレンジ色で", "オレンジ"),
    "yellow": (("黄色い", "黄色の"), "黄色くて", "黄色"),
    "green": (("緑の", "緑色の"), "緑色で", "緑"),
    "cyan": (("水色の",), "水色で", "水色"),
    "blue": (("青い", "青の"), "青くて", "青"),
    "purple": (("紫の", "紫色の"), "紫色で", "紫"),
    "pink": (("ピンクの", "ピンク色の"), "ピンク色で", "ピンク"),
}
JAPANESE_SHAPES = {
    "circle": ("丸", "円"),
    "square": ("四角", "正方形"),
    "triangle": ("三角", "三角形"),
    "diamond": ("ひし形", "ダイヤ"),
    "cross": ("十字", "十字架"),
    "ring": ("輪", "リング"),
}
JAPANESE_RELATIONS = {"left": ("左", "左側"), "right": ("右", "右側"), "above": ("上", "上側"), "below": ("下", "下側")}
JAPANESE_BACKGROUNDS = {"white": ("白い", "白"), "black": ("黒い", "黒"), "gray": ("灰色の", "灰色"), "brown": ("茶色い", "茶色")}
JAPANESE_SINGLE = (
    "{background_adjective}背景に{thing}",
    "{thing}がひとつ、背景は{background}",
    "背景が{background}で、{thing}がある",
    "{shape}を描いて、色は{color}で{size}やつ、背景は{background}でね",
)
JAPANESE_DOUBLE = (
    "{background_adjective}背景に、{second}の{relation}に{first}がある",
    "{first}が{second}の{relation}にあって、背景は{background}",
    "背景は{background}で、{second}があり、その{relation}に{first}",
    "{second}の{relation}に{first}を描いて、背景は{background}でね",
    "{second}の{relation}にあるのは{first}、{background_adjective}背景",
)


@dataclass(frozen=True)
class Caption:
    scene: Scene
    ja: str
    en: str

    @property
    def key(self) -> str:
        return self.scene.key


def pairs(count: int, split: Split, seed: int) -> Iterator[Caption]:
    """`count` captioned scenes of one split; the same arguments give the same captions."""
    rng = random.Random(f"{split} {seed}")
    for _ in range(count):
        scene = sample(split, rng)
        yield Caption(scene, japanese(scene, rng), english(scene, rng))


def english(scene: Scene, rng: random.Random) -> str:
    first = scene.things[0]
    if scene.relation is None:
        size = rng.choice(ENGLISH_SIZES[first.size])
        return rng.choice(ENGLISH_SINGLE).format(
            thing=f"{size} {first.color} {first.shape}", shape=first.shape, size=size, color=first.color, background=scene.background
        )
    return rng.choice(ENGLISH_DOUBLE).format(
        first=_english_thing(first, rng),
        second=_english_thing(scene.things[1], rng),
        relation=rng.choice(ENGLISH_RELATIONS[scene.relation]),
        of_it=ENGLISH_RELATIONS_OF_IT[scene.relation],
        background=scene.background,
    )


def japanese(scene: Scene, rng: random.Random) -> str:
    first = scene.things[0]
    background_adjective, background = JAPANESE_BACKGROUNDS[scene.background]
    if scene.relation is None:
        return rng.choice(JAPANESE_SINGLE).format(
            thing=_japanese_thing(first, rng),
            shape=rng.choice(JAPANESE_SHAPES[first.shape]),
            size=rng.choice(JAPANESE_SIZES[first.size]),
            color=JAPANESE_COLORS[first.color][2],
            background=background,
            background_adjective=background_adjective,
        )
    return rng.choice(JAPANESE_DOUBLE).format(
        first=_japanese_thing(first, rng),
        second=_japanese_thing(scene.things[1], rng),
        relation=rng.choice(JAPANESE_RELATIONS[scene.relation]),
        background=background,
        background_adjective=background_adjective,
    )


def _english_thing(thing: Thing, rng: random.Random) -> str:
    return f"{rng.choice(ENGLISH_SIZES[thing.size])} {thing.color} {thing.shape}"


def _japanese_thing(thing: Thing, rng: random.Random) -> str:
    """Size and color in either order, or joined by the te-form."""
    size, shape = rng.choice(JAPANESE_SIZES[thing.size]), rng.choice(JAPANESE_SHAPES[thing.shape])
    adjectives, joined, _ = JAPANESE_COLORS[thing.color]
    color = rng.choice(adjectives)
    return rng.choice((f"{size}{color}{shape}", f"{color}{size}{shape}", f"{joined}{size}{shape}"))
