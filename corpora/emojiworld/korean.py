"""Emojiworld's Korean, a second mother tongue from the same scenes: comma-separated prompts.

In and out: a scene and a random generator in, a `Sentence` out; nothing on disk.
"""

import random

from corpora.emojiworld.english import ENDS, kind
from corpora.emojiworld.scenes import OF_SEVERAL, EmojiScene, EmojiThing
from corpora.toyworld.japanese import OPPOSITE, Sentence, Words

BACKGROUNDS = {
    "white": "흰색",
    "black": "검은색",
    "gray": "회색",
    "brown": "갈색",
    "red": "빨간색",
    "green": "초록색",
    "blue": "파란색",
    "cyan": "하늘색",
    "purple": "보라색",
    "pink": "분홍색",
}
SIZES = {"small": ("작은", "조그만"), "big": ("큰", "커다란")}
NUMBERS = {2: "두", 3: "세", 4: "네"}
COUNTERS = {"人": "명", "匹": "마리", "頭": "마리", "羽": "마리"}  # of what lives, by the Japanese
AT = {"left": "왼쪽", "right": "오른쪽", "above": "위쪽", "below": "아래쪽"}
PROMPTS = {
    "single": ("{first}", "가운데에 {first}", "{first}, 중앙"),
    "two": (
        "{start}에 {first}, {end}에 {second}",
        "{end}에 {second}, {start}에 {first}",
        "{second}, 그 {start}에 {first}",
    ),
    "three": (
        "{start}에 {first}, 가운데에 {second}, {end}에 {third}",
        "{start}부터 {first}, {second}, {third}",
    ),
    "counted": ("{first} {number}", "{number}의 {first}"),
}
FRAMES = ("{core}, {background} 배경", "{background} 배경, {core}")


def say(scene: EmojiScene, tag: str, rng: random.Random) -> Sentence:
    """`tag`: a word of style at the end, or nothing."""
    pattern = rng.choice(FRAMES).replace("{core}", rng.choice(PROMPTS[kind(scene)]))
    pattern += f", {tag}" if tag else ""
    others = {"background": BACKGROUNDS[scene.background]}
    of_several = scene.layout in OF_SEVERAL
    if scene.is_counted:
        thing = scene.things[0]
        counter = COUNTERS.get(thing.concept.counter, "개")
        others["number"] = f"{NUMBERS[len(scene.things)]} {counter}"
        return Sentence(pattern, (_thing(thing, of_several, rng),), others)
    if scene.layout in ENDS:
        first, _ = ENDS[scene.layout]
        others |= {"start": AT[first], "end": AT[OPPOSITE[first]]}
    return Sentence(pattern, tuple(_thing(one, of_several, rng) for one in scene.things), others)


def _thing(thing: EmojiThing, of_several: bool, rng: random.Random) -> Words:
    """What has no size in the caption is big, or one of several, as in Japanese."""
    size = ""
    if not of_several and (thing.size == "small" or rng.random() < 0.5):
        size = f"{rng.choice(SIZES[thing.size])} "
    return Words(f"{size}{thing.concept.ko}", shape=thing.concept.ko, size=size)
