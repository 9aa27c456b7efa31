"""Toyworld's Japanese: words, sentence patterns, and how they describe a scene.

In and out: a scene and a random generator in, a `Sentence` out; nothing on disk.

Four phrasings. In the last three the word order is far from English, or a bag of words is not
enough:
- `plain`: the landmark before the thing, the verb last.
- `relative`: head-final clauses. 青い四角が右にある赤い丸 and 青い四角の右にある赤い丸 differ in
  one particle and say opposite things.
- `modifiers`: attributes stacked before a noun, or listed separately:
  左から順に、形は丸と四角、色は赤と青.
- `negation`: a wrong value before or after the right one: 赤ではなく青い丸,
  青であって赤ではない丸.
"""

import random
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from corpora.toyworld.scenes import COLORS, SHAPES, Scene, Thing

Phrasing = Literal["plain", "relative", "modifiers", "negation"]
PHRASINGS: tuple[Phrasing, ...] = get_args(Phrasing)

SIZES = {"small": ("小さい", "小さな", "ちっちゃい"), "big": ("大きい", "大きな", "でっかい")}
SIZE_STEMS = {"small": "小さ", "big": "大き"}  # 小さく, 小さくて, 小さくない
SIZE_NOUNS = {"small": "小", "big": "大"}
# forms before a noun, form before another adjective, noun
COLOR_WORDS = {
    "red": (("赤い", "赤の"), "赤くて", "赤"),
    "orange": (("オレンジの", "オレンジ色の"), "オレンジ色で", "オレンジ"),
    "yellow": (("黄色い", "黄色の"), "黄色くて", "黄色"),
    "green": (("緑の", "緑色の"), "緑色で", "緑"),
    "cyan": (("水色の",), "水色で", "水色"),
    "blue": (("青い", "青の"), "青くて", "青"),
    "purple": (("紫の", "紫色の"), "紫色で", "紫"),
    "pink": (("ピンクの", "ピンク色の"), "ピンク色で", "ピンク"),
}
SHAPE_WORDS = {
    "circle": ("丸", "円"),
    "square": ("四角", "正方形"),
    "triangle": ("三角", "三角形"),
    "diamond": ("ひし形", "ダイヤ"),
    "cross": ("十字", "十字架"),
    "ring": ("輪", "リング"),
}
KAMON_WORDS = {
    "mikazuki": ("三日月",),
    "kuginuki": ("釘抜", "釘抜き"),
    "futatsubiki": ("二つ引", "二引両"),
    "yamagata": ("山形",),
    "mitsuboshi": ("三つ星",),
    "tomoe": ("巴",),
}
NAMES_OF_SHAPES = SHAPE_WORDS | KAMON_WORDS
RELATIONS = {
    "left": ("左", "左側"),
    "right": ("右", "右側"),
    "above": ("上", "上側"),
    "below": ("下", "下側"),
}
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}
BACKGROUNDS = {
    "white": ("白い", "白"),
    "black": ("黒い", "黒"),
    "gray": ("灰色の", "灰色"),
    "brown": ("茶色い", "茶色"),
}

# Sentence patterns: `first` is at `relation` of `second`, so `second` is at `opposite` of `first`.

PLAIN_SINGLE = (
    "{background_adjective}背景に{first}",
    "{first}がひとつ、背景は{background}",
    "背景が{background}で、{first}がある",
    "{first.shape}を描いて、色は{first.color}で{first.size}やつ、背景は{background}でね",
)
PLAIN_DOUBLE = (
    "{background_adjective}背景に、{second}の{relation}に{first}がある",
    "{first}が{second}の{relation}にあって、背景は{background}",
    "背景は{background}で、{second}があり、その{relation}に{first}",
    "{second}の{relation}に{first}を描いて、背景は{background}でね",
    "{second}の{relation}にあるのは{first}、{background_adjective}背景",
)
FRAMES = (
    "{background_adjective}背景に、{core}",
    "{core}、背景は{background}",
    "背景は{background}で、{core}",
)
RELATIVE_SINGLE = (
    "{background_adjective}背景に置かれた{first}",
    "{first}がひとつある{background_adjective}背景",
    "{first}が描かれた{background_adjective}背景の絵",
    "背景が{background}になっている、{first}の絵",
)
RELATIVE_CORES = (
    "{opposite}に{second}がある{first}",
    "{relation}に{first}がある{second}",
    "{second}が{opposite}にある{first}",
    "{second}の{relation}にある{first}",
    "{first}が{relation}にある{second}",
    "{first}の{opposite}にある{second}",
    "{second}が{opposite}に置かれた{first}",
    "{second}の{relation}に置かれた{first}",
)
MODIFIED = (
    "大きさは{stem}く色は{adjective}{shape}",
    "色が{color}で大きさが{stem}い{shape}",
    "{stem}くてしかも{adjective}{shape}",
    "{joined}しかも{size}{shape}",
)
# "the red one" of two circles: their colors always differ
MODIFIED_OF_TWO_ALIKE = "{joined}{size}ほうの{shape}"
MODIFIERS_SINGLE = (
    "{background_adjective}背景に、{first}",
    "背景は{background}で、{first}がひとつ",
    "{first.shape}がひとつ、色は{first.color}で大きさは{first.size}、背景は{background}",
    "背景は{background}、大きさは{first.size}、色は{first.color}、形は{first.shape}",
)
MODIFIERS_DOUBLE = (
    "{background_adjective}背景に、{second}があり、その{relation}に{first}がある",
    "背景は{background}で、{relation}に{first}、{opposite}に{second}",
    "{relation}から順に、{first}と{second}、背景は{background}",
    "{opposite}から順に、{second}と{first}、背景は{background}",
    "{relation}に{first.shape}、{opposite}に{also}{second.shape}があり、"
    "{relation}のほうは{first.joined}{first.stem}く、"
    "{opposite}のほうは{second.joined}{second.stem}く、背景は{background}",
    "{relation}に{first.shape}、{opposite}に{also}{second.shape}があり、"
    "{opposite}のほうは{second.joined}{second.stem}く、"
    "{relation}のほうは{first.joined}{first.stem}く、背景は{background}",
    "{relation}から順に、{shapes}、{colors}、{sizes}、背景は{background}",
)
NEGATED_COLOR = (
    "{wrong}ではなく{adjective}{size}{shape}",
    "{wrong}じゃなくて{adjective}{size}{shape}",
    "{color}であって{wrong}ではない{size}{shape}",
)
NEGATED_SIZE = ("{wrong}くない{adjective}{shape}", "{joined}{wrong}くない{shape}")
NEGATED_SHAPE = (
    "{wrong}ではなく{size}{adjective}{shape}",
    "{wrong}じゃなくて{adjective}{size}{shape}",
)
NEGATION_CORES = {
    "single": ("{first}", "{first}がひとつ"),
    "double": ("{second}の{relation}に{first}", "{first}が{second}の{relation}にある"),
}
NEGATED_BACKGROUND = (
    "{wrong}ではなく{background_adjective}背景に、{core}",
    "背景は{wrong}ではなく{background}で、{core}",
    "背景は{background}であって{wrong}ではなく、{core}",
)
NEGATED_RELATION = (
    "{background_adjective}背景に、{second}の{wrong}ではなく{relation}に{first}",
    "背景は{background}で、{first}は{second}の{relation}にあり、{wrong}にはない",
    "{first}があるのは{second}の{wrong}ではなく{relation}、背景は{background}",
)


@dataclass(frozen=True)
class Words:
    """How a caption names one thing: as a phrase, and as single words for patterns that separate
    them.
    """

    phrase: str
    shape: str = ""
    color: str = ""
    joined: str = ""
    size: str = ""
    stem: str = ""
    verb: str = ""  # いる or ある: whether it lives

    def __str__(self) -> str:
        return self.phrase


@dataclass(frozen=True)
class Sentence:
    """A pattern and the words that fill it. Exchanging the things changes neither."""

    pattern: str
    things: tuple[Words, ...]
    others: dict[str, str]

    def __str__(self) -> str:
        slots: dict[str, Any] = dict(zip(("first", "second", "third"), self.things, strict=False))
        return self.pattern.format(**slots, **self.others)

    def swapped(self) -> "Sentence":
        return replace(self, things=self.things[::-1])


class BothLanguages:
    """A scene said in the student's language and in English; captions of the same scene have the
    same `key`.
    """

    scene: Any
    sentence: Sentence
    english: Sentence

    @property
    def key(self) -> str:
        return str(self.scene.key)

    @property
    def text(self) -> str:
        return str(self.sentence)

    @property
    def en(self) -> str:
        return str(self.english)


def say(scene: Scene, phrasing: Phrasing, rng: random.Random) -> Sentence:
    return {"plain": plain, "relative": relative, "modifiers": modifiers, "negation": negation}[
        phrasing
    ](scene, rng)


def plain(scene: Scene, rng: random.Random) -> Sentence:
    pattern = rng.choice(PLAIN_DOUBLE if scene.relation else PLAIN_SINGLE)
    things = [_thing(thing, rng) for thing in scene.things]
    if scene.relation is None:
        (thing,) = scene.things
        things = [
            replace(
                things[0],
                shape=rng.choice(NAMES_OF_SHAPES[thing.shape]),
                size=rng.choice(SIZES[thing.size]),
            )
        ]
    return Sentence(pattern, tuple(things), _others(scene, rng))


def relative(scene: Scene, rng: random.Random) -> Sentence:
    things = tuple(_thing(thing, rng) for thing in scene.things)
    pattern = (
        rng.choice(FRAMES).replace("{core}", rng.choice(RELATIVE_CORES))
        if scene.relation
        else rng.choice(RELATIVE_SINGLE)
    )
    return Sentence(pattern, things, _others(scene, rng))


def modifiers(scene: Scene, rng: random.Random) -> Sentence:
    # two circles get the same word
    shapes = {thing.shape: rng.choice(NAMES_OF_SHAPES[thing.shape]) for thing in scene.things}
    alike = len(shapes) < len(scene.things)
    forms = (*MODIFIED, MODIFIED_OF_TWO_ALIKE) if alike else MODIFIED
    things = tuple(
        _filled(rng.choice(forms), thing, rng, shape=shapes[thing.shape]) for thing in scene.things
    )
    things = tuple(
        replace(words, size=SIZE_NOUNS[thing.size])
        for words, thing in zip(things, scene.things, strict=True)
    )
    pattern = rng.choice(MODIFIERS_DOUBLE if scene.relation else MODIFIERS_SINGLE)
    if scene.relation:
        for slot, name, attribute in (
            ("{shapes}", "形", "shape"),
            ("{colors}", "色", "color"),
            ("{sizes}", "大きさ", "size"),
        ):
            pattern = pattern.replace(slot, _of_each(name, attribute, things))
    return Sentence(pattern, things, {**_others(scene, rng), "also": "も" if alike else ""})


def negation(scene: Scene, rng: random.Random) -> Sentence:
    """Contrasts one value of the scene with a random wrong one."""
    things = [_thing(thing, rng) for thing in scene.things]
    others = _others(scene, rng)
    core = rng.choice(NEGATION_CORES["double" if scene.relation else "single"])
    negated = rng.choice(("background", "relation", 0, 1) if scene.relation else ("background", 0))
    if negated == "relation":
        pattern = rng.choice(NEGATED_RELATION)
        side = RELATIONS[scene.relation or ""].index(others["relation"])
        others["wrong"] = RELATIONS[_other(scene.relation or "", RELATIONS, rng)][side]
    elif negated == "background":
        pattern = rng.choice(NEGATED_BACKGROUND).replace("{core}", core)
        others["wrong"] = BACKGROUNDS[_other(scene.background, BACKGROUNDS, rng)][1]
    else:
        pattern = rng.choice(FRAMES).replace("{core}", core)
        things[int(negated)] = _negated(scene.things[int(negated)], rng)
    return Sentence(pattern, tuple(things), others)


def _others(scene: Scene, rng: random.Random) -> dict[str, str]:
    background_adjective, background = BACKGROUNDS[scene.background]
    others = {"background_adjective": background_adjective, "background": background}
    if scene.relation:
        relation = rng.choice(RELATIONS[scene.relation])
        others |= {
            "relation": relation,
            "opposite": RELATIONS[OPPOSITE[scene.relation]][
                RELATIONS[scene.relation].index(relation)
            ],
        }
    return others


def _thing(thing: Thing, rng: random.Random) -> Words:
    """Size and color in either order, or joined by the te-form."""
    size, shape = rng.choice(SIZES[thing.size]), rng.choice(NAMES_OF_SHAPES[thing.shape])
    adjectives, joined, color = COLOR_WORDS[thing.color]
    adjective = rng.choice(adjectives)
    phrase = rng.choice(
        (f"{size}{adjective}{shape}", f"{adjective}{size}{shape}", f"{joined}{size}{shape}")
    )
    return Words(phrase, shape, color, joined, size, SIZE_STEMS[thing.size])


def _filled(
    form: str, thing: Thing, rng: random.Random, shape: str | None = None, wrong: str = ""
) -> Words:
    """The thing named by the given form."""
    adjectives, joined, color = COLOR_WORDS[thing.color]
    size, shape = rng.choice(SIZES[thing.size]), shape or rng.choice(NAMES_OF_SHAPES[thing.shape])
    words = {
        "shape": shape,
        "color": color,
        "joined": joined,
        "size": size,
        "stem": SIZE_STEMS[thing.size],
    }
    return Words(form.format(adjective=rng.choice(adjectives), wrong=wrong, **words), **words)


def _negated(thing: Thing, rng: random.Random) -> Words:
    attribute = rng.choice(("color", "size", "shape"))
    if attribute == "color":
        return _filled(
            rng.choice(NEGATED_COLOR),
            thing,
            rng,
            wrong=COLOR_WORDS[_other(thing.color, COLORS, rng)][2],
        )
    if attribute == "size":
        return _filled(
            rng.choice(NEGATED_SIZE), thing, rng, wrong=SIZE_STEMS[_other(thing.size, SIZES, rng)]
        )
    return _filled(
        rng.choice(NEGATED_SHAPE),
        thing,
        rng,
        wrong=rng.choice(SHAPE_WORDS[_other(thing.shape, SHAPES, rng)]),
    )


def _of_each(name: str, attribute: str, things: tuple[Words, ...]) -> str:
    """色は赤と青, or 色はどちらも赤; as a pattern, since the things may be exchanged."""
    first, second = (getattr(words, attribute) for words in things)
    return (
        f"{name}はどちらも{{first.{attribute}}}"
        if first == second
        else f"{name}は{{first.{attribute}}}と{{second.{attribute}}}"
    )


def _other(value: str, values: Any, rng: random.Random) -> str:
    return rng.choice([other for other in values if other != value])
