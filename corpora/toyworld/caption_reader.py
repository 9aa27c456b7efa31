"""Parses English captions back to scenes, to check what a translation means.

In and out: a caption in, its scene or None out; nothing on disk. Two captions describe the same
picture if their scenes share a `key`.
"""

import re
from collections.abc import Iterable
from functools import cache

from corpora.toyworld.captions import (
    ENGLISH_DOUBLE,
    ENGLISH_RELATIONS,
    ENGLISH_RELATIONS_OF_IT,
    ENGLISH_SINGLE,
    ENGLISH_SIZES,
)
from corpora.toyworld.scenes import BACKGROUNDS, COLORS, SHAPES, Scene, Thing

_SIZES = {word: size for size, words in ENGLISH_SIZES.items() for word in words}
_RELATIONS = {
    phrase: relation for relation, phrases in ENGLISH_RELATIONS.items() for phrase in phrases
}
_RELATIONS |= {phrase: relation for relation, phrase in ENGLISH_RELATIONS_OF_IT.items()}
_WORDS: dict[str, Iterable[str]] = {"size": _SIZES, "color": COLORS, "shape": SHAPES}


def read(caption: str) -> Scene | None:
    """The scene that a caption describes, or None for a text outside the grammar."""
    for pattern in _patterns():
        if found := pattern.fullmatch(caption.strip()):
            words = found.groupdict()
            ordinals = [one for one in ("first", "second") if f"{one}_color" in words]
            things = [
                Thing(words[f"{one}_color"], words[f"{one}_shape"], _SIZES[words[f"{one}_size"]])
                for one in ordinals
            ]
            relation = words.get("relation") or words.get("of_it")
            return Scene(
                words["background"], tuple(things), _RELATIONS[relation] if relation else None
            )
    return None


@cache
def _patterns() -> list[re.Pattern[str]]:
    slots = {
        "{relation}": _group(
            "relation", [one for phrases in ENGLISH_RELATIONS.values() for one in phrases]
        )
    }
    slots |= {
        "{of_it}": _group("of_it", ENGLISH_RELATIONS_OF_IT.values()),
        "{background}": _group("background", BACKGROUNDS),
    }
    for thing in ("first", "second"):
        parts = {part: _group(f"{thing}_{part}", words) for part, words in _WORDS.items()}
        slots[f"{{{thing}}}"] = f"{parts['size']} {parts['color']} {parts['shape']}"
        slots |= {f"{{{thing}.{part}}}": group for part, group in parts.items()}
    return [
        re.compile(re.sub(r"\{[\w.]+\}", lambda slot: slots[slot[0]], pattern))
        for pattern in (*ENGLISH_SINGLE, *ENGLISH_DOUBLE)
    ]


def _group(name: str, words: Iterable[str]) -> str:
    return f"(?P<{name}>{'|'.join(sorted(words, key=len, reverse=True))})"
