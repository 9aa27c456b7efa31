"""Emojiworld's Japanese: how it says a scene, as a sentence or as a comma-separated prompt.

In and out: a scene and a random generator in, a `Sentence` out; nothing on disk. What lives is
(いる), all else is there (ある); counters are those of the vocabulary.
"""

import random

from corpora.emojiworld.english import ENDS, kind
from corpora.emojiworld.scenes import OF_SEVERAL, EmojiScene, EmojiThing
from corpora.toyworld import japanese as toyworld
from corpora.toyworld.japanese import OPPOSITE, RELATIONS, Sentence, Words

BACKGROUNDS = toyworld.BACKGROUNDS | {
    color: (adjectives[0], noun) for color, (adjectives, _, noun) in toyworld.COLOR_WORDS.items()
}
ALIVE = ("匹", "頭", "羽", "人")  # the counters of what lives
NUMBERS = {2: ("二", "2"), 3: ("三", "3"), 4: ("四", "4")}
NATIVE_NUMBERS = {2: ("二つ", "ふたつ"), 3: ("三つ", "みっつ"), 4: ("四つ", "よっつ")}
MIDDLE = ("真ん中", "中央")

SENTENCES = {
    "single": (
        "{background_adjective}背景に{first}",
        "{background_adjective}背景の{middle}に{first}が{first.verb}",
        "背景は{background}で、{middle}に{first}が{first.verb}",
        "{background_adjective}背景に描かれた{first}",
        "{first}の絵、背景は{background}",
    ),
    "two": (
        "{background_adjective}背景に、{second}の{relation}に{first}が{first.verb}",
        "{first}が{second}の{relation}に{first.verb}、背景は{background}",
        "背景は{background}で、{relation}に{first}、{opposite}に{second}",
        "{background_adjective}背景に、{opposite}に{second}が{second.verb}{first}",
        "{second}の{relation}に{first.verb}{first}、{background_adjective}背景",
        "背景は{background}で、{second}が{second.verb}、その{relation}に{first}",
        "{background_adjective}背景に、{start_of_first}から順に{first}と{second}",
    ),
    "three": (
        "{background_adjective}背景に、{start}から順に{first}、{second}、{third}",
        "背景は{background}で、{start}に{first}、{middle}に{second}、{end}に{third}",
        "{start}の{first}と{end}の{third}の間に{second}が{second.verb}、背景は{background}",
        "{end}から順に{third}、{second}、{first}が並ぶ{background_adjective}背景の絵",
    ),
    "counted": (
        "{background_adjective}背景に{number}の{first}",
        "{background_adjective}背景に{first}が{number}{first.verb}",
        "{first}が{number}、背景は{background}",
        "背景は{background}で、並んだ{number}の{first}",
    ),
}
PROMPTS = {
    "single": ("{first}", "{first}、{middle}", "{middle}に{first}"),
    "two": (
        "{relation}に{first}、{opposite}に{second}",
        "{second}、その{relation}に{first}",
    ),
    "three": (
        "{start}に{first}、{middle}に{second}、{end}に{third}",
        "{start}から{first}、{second}、{third}",
    ),
    "counted": ("{number}の{first}", "{first}{number}"),
}
FRAMES = ("{core}、{background_adjective}背景", "{background_adjective}背景、{core}")


def say(scene: EmojiScene, phrasing: str, tag: str, rng: random.Random) -> Sentence:
    """`tag`: a word of style at the end of a prompt, or nothing."""
    adjective, noun = BACKGROUNDS[scene.background]
    others = {"background_adjective": adjective, "background": noun, "middle": rng.choice(MIDDLE)}
    others |= _places(scene, rng)
    if phrasing == "prompt":
        pattern = rng.choice(FRAMES).replace("{core}", rng.choice(PROMPTS[kind(scene)]))
        pattern += f"、{tag}" if tag else ""
    else:
        pattern = rng.choice(SENTENCES[kind(scene)])
    of_several = scene.layout in OF_SEVERAL
    if scene.is_counted:
        thing = scene.things[0]
        others["number"] = _number(len(scene.things), thing.concept.counter, rng)
        return Sentence(pattern, (_thing(thing, of_several, rng),), others)
    things = tuple(_thing(thing, of_several, rng) for thing in scene.things)
    if kind(scene) == "two" and rng.random() < 0.5:
        things = things[::-1]
        others |= {"relation": others["opposite"], "opposite": others["relation"]}
        others["start_of_first"] = others["end"]
    return Sentence(pattern, things, others)


def _places(scene: EmojiScene, rng: random.Random) -> dict[str, str]:
    if scene.layout not in ENDS or scene.is_counted:
        return {}
    first, last = ENDS[scene.layout]
    form = rng.randrange(len(RELATIONS[first]))
    relation, opposite = RELATIONS[first][form], RELATIONS[OPPOSITE[first]][form]
    start, end = RELATIONS[first][0], RELATIONS[last][0]
    ends = {"start": start, "end": end, "start_of_first": start}
    return {"relation": relation, "opposite": opposite, **ends}


def _thing(thing: EmojiThing, of_several: bool, rng: random.Random) -> Words:
    """What has no size in the caption is big, or one of several."""
    name = rng.choice(thing.concept.ja)
    size = ""
    if not of_several and (thing.size == "small" or rng.random() < 0.5):
        size = rng.choice(toyworld.SIZES[thing.size])
    alive = thing.concept.counter in ALIVE
    return Words(f"{size}{name}", shape=name, size=size, verb="いる" if alive else "ある")


def _number(count: int, counter: str, rng: random.Random) -> str:
    """三匹, 3匹, 三つ."""
    if counter == "つ":
        return rng.choice(NATIVE_NUMBERS[count])
    return f"{rng.choice(NUMBERS[count])}{counter}"
