"""Emojiworld's English: how it says a scene, as a sentence or as a comma-separated prompt.

In and out: a scene and a random generator in, a `Sentence` out; nothing on disk.
"""

import random
import re

from corpora.emojiworld.scenes import OF_SEVERAL, EmojiScene, EmojiThing
from corpora.toyworld.captions import ENGLISH_RELATIONS_OF_IT
from corpora.toyworld.japanese import OPPOSITE, Sentence, Words

SIZES = {"small": ("small", "little", "tiny"), "big": ("big", "large")}
NUMBERS = {2: "two", 3: "three", 4: "four"}
# Where the first of two stands; "left of" alone would do for toyworld's shapes, not for "a picture"
RELATIONS = {
    "left": ("to the left of", "on the left of", "left of"),
    "right": ("to the right of", "on the right of", "right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}
ENDS = {"horizontal": ("left", "right"), "vertical": ("above", "below")}
ENDS |= {"row": ENDS["horizontal"], "column": ENDS["vertical"]}
AT_END = {"left": "on the left", "right": "on the right", "above": "at the top"}
AT_END |= {"below": "at the bottom"}
IN_ORDER = {"row": "from left to right", "column": "from top to bottom"}

ON = ("on a {background} background", "against a {background} background", "on plain {background}")
SENTENCES = {
    "single": (
        "{first} {on}",
        "a picture of {first} {on}",
        "a {background} background with {first} in the middle",
        "{first} in the middle of a {background} background",
        "{first}; the background is {background}",
    ),
    "two": (
        "{first} {relation} {second} {on}",
        "{second} with {first} {of_it}, {on}",
        "a {background} background with {first} {at_first} and {second} {at_second}",
        "a picture of {first} {relation} {second}; the background is {background}",
        "{on}, {first} {at_first} and {second} {at_second}",
    ),
    "three": (
        "{first}, {second} and {third} {in_order} {on}",
        "{second} between {first} {at_first} and {third} {at_third}, {on}",
        "{on}, {first} {at_first}, {second} in the middle and {third} {at_third}",
    ),
    "counted": (
        "{first} {on}",
        "a picture of {first} {on}",
        "a {background} background with {first}",
        "{first} together {on}",
    ),
}
PROMPTS = {
    "single": ("{first}", "{first}, centered", "one thing, {first}"),
    "two": ("{first} {at_first}, {second} {at_second}", "{second}, {first} {of_it}"),
    "three": (
        "{first} {at_first}, {second} in the middle, {third} {at_third}",
        "{first}, {second}, {third}, {in_order}",
    ),
    "counted": ("{first}", "{first}, together"),
}
FRAMES = ("{core}, {background} background", "{background} background, {core}")
ARTICLE = re.compile(r"^(?:an?|the) ")


def kind(scene: EmojiScene) -> str:
    """Which patterns say a scene."""
    if scene.is_counted:
        return "counted"
    return {1: "single", 2: "two", 3: "three"}[len(scene.things)]


def say(scene: EmojiScene, phrasing: str, tag: str, rng: random.Random) -> Sentence:
    """`tag`: a word of style at the end of a prompt, or nothing."""
    others = {"background": scene.background, **_places(scene, rng)}
    if phrasing == "prompt":
        pattern = rng.choice(FRAMES).replace("{core}", rng.choice(PROMPTS[kind(scene)]))
        pattern += f", {tag}" if tag else ""
    else:
        pattern = rng.choice(SENTENCES[kind(scene)]).replace("{on}", rng.choice(ON))
    if scene.is_counted:
        return Sentence(pattern, (_several(scene, rng),), others)
    articles = phrasing != "prompt" or rng.random() < 0.5
    things = tuple(
        Words(_thing(thing, articles, scene.layout in OF_SEVERAL, rng)) for thing in scene.things
    )
    if kind(scene) == "two" and rng.random() < 0.5:  # "B right of A" for "A left of B"
        things, others = things[::-1], _turned(others)
    return Sentence(pattern, things, others)


def _places(scene: EmojiScene, rng: random.Random) -> dict[str, str]:
    if scene.layout not in ENDS or scene.is_counted:
        return {}
    first, last = ENDS[scene.layout]
    places = {"at_first": AT_END[first], "at_second": AT_END[last], "at_third": AT_END[last]}
    number = rng.randrange(len(RELATIONS[first]))
    return {
        **places,
        "relation": RELATIONS[first][number],
        "of_it": ENGLISH_RELATIONS_OF_IT[first],
        "in_order": IN_ORDER.get(scene.layout, ""),
        # the same said of the other thing
        "relation_of_other": RELATIONS[OPPOSITE[first]][number],
        "of_it_of_other": ENGLISH_RELATIONS_OF_IT[OPPOSITE[first]],
    }


def _turned(others: dict[str, str]) -> dict[str, str]:
    return others | {
        "at_first": others["at_second"],
        "at_second": others["at_first"],
        "relation": others["relation_of_other"],
        "of_it": others["of_it_of_other"],
    }


def _thing(thing: EmojiThing, article: bool, of_several: bool, rng: random.Random) -> str:
    """'a cat', 'a small cat'; 'small cat' without the article. What has no size in the caption is
    big, or one of three.
    """
    name = rng.choice(thing.concept.en)
    size = _size(thing.size, of_several, rng)
    bare = ARTICLE.sub("", name, count=1)
    found = ARTICLE.match(name)
    if not article or not found:
        return f"{size}{bare}"
    if not size:
        return name
    return f"{'the' if found[0] == 'the ' else 'a'} {size}{bare}"


def _several(scene: EmojiScene, rng: random.Random) -> Words:
    thing = scene.things[0]
    size = _size(thing.size, scene.layout in OF_SEVERAL, rng)
    return Words(f"{NUMBERS[len(scene.things)]} {size}{thing.concept.plural}")


def _size(size: str, of_several: bool, rng: random.Random) -> str:
    """With a space behind it. What is big is called so half of the times."""
    if of_several or (size == "big" and rng.random() < 0.5):
        return ""
    return f"{rng.choice(SIZES[size])} "
