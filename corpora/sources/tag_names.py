"""How a tag of an image board is spelt in a prompt, beside its name in the student's language.

In:  a tag and its names, as lists of tags have them.
Out: the pairs they make, or the reason why they make none.

| in the list | in the pairs |
|---|---|
| `long_hair` | long hair; `^_^` and other emoticons stay |
| `((lineart))`, `(ink:1.2)`, `<lora:ink:0.7>` | lineart, ink: weights and networks are settings |
| セイバー, `saber_(fate)` or `saber \\(fate\\)` | two pairs: セイバー, saber; \
セイバー (fate), saber (fate) |
| レベッカ（漫画）, `rebecca_(comic)` | two pairs: with both qualifiers, without them |
| ミクのコスプレ, `miku_(cosplay)` | one pair: the name says it in other words |
| 半纏（和風）, `hanten` | one pair, without the remark that nobody types |

Who writes a prompt seldom types a qualifier, and models trained on tags read it: so both are pairs,
each saying the same on both sides.
"""

import re
from collections.abc import Iterator, Sequence

MOST_BRACKETS = 20  # taken off a tag: each takes as long as the tag
SEVERAL = "several_tags"  # drop reason
QUALIFIED = re.compile(r"(?P<name>.*\S)\s*[(（](?P<of>[^()（）]+)[)）]")
IN_THE_NAME = frozenset({"cosplay"})  # qualifiers that change what is meant
_NETWORK = re.compile(r"<[a-z]+:[^<>]*>", re.IGNORECASE)
_WEIGHT = re.compile(r":\s*-?\d{0,3}\.?\d{1,6}$")
_EMOTICON = re.compile(r"(?!.*[^\W_]{2})\S+")  # has no two letters side by side
_BRACKETS = {"(": ")", "[": "]", "{": "}"}
# an escaped bracket is text: it stands aside while weights are taken off
_ESCAPED = {"\\(": "\ue000", "\\)": "\ue001", "\\[": "\ue002", "\\]": "\ue003"}


def pairs(tag: str, names: Sequence[str], most: int) -> Iterator[tuple[str, str] | str]:
    """(name, tag) for each of the first `most` names, in one or two spellings; at least one item,
    which is the drop reason where there is no pair.
    """
    tag = written(tag)
    if "," in tag:
        yield SEVERAL
        return
    found = [name for name in map(written, names) if name]
    if not found or not tag:
        yield "null"
    for name in found[:most] if tag else ():
        yield from _forms(name, tag)


def written(tag: str) -> str:
    """The tag as a prompt has it, without weights."""
    tag = " ".join(tag.split())
    if _EMOTICON.fullmatch(tag):
        return tag
    for escape, aside in _ESCAPED.items():
        tag = tag.replace(escape, aside)
    tag = " ".join(_NETWORK.sub(" ", tag).replace("_", " ").split()).strip(" ,")
    for _ in range(MOST_BRACKETS):
        if not _closes_at_the_end(tag):
            break
        tag = _WEIGHT.sub("", tag[1:-1]).strip(" ,")
    for escape, aside in _ESCAPED.items():
        tag = tag.replace(aside, escape[1])
    return tag


def _closes_at_the_end(tag: str) -> bool:
    """Whether the tag begins with a bracket that its last character closes."""
    opening = tag[:1]
    closing = _BRACKETS.get(opening)
    if closing is None or tag[-1] != closing:
        return False
    depth = 0
    for place, character in enumerate(tag):
        depth += (character == opening) - (character == closing)
        if depth == 0:
            return place == len(tag) - 1
    return False


def _forms(name: str, tag: str) -> Iterator[tuple[str, str]]:
    own = QUALIFIED.fullmatch(name)
    of_tag = None if _EMOTICON.fullmatch(tag) else QUALIFIED.fullmatch(tag)
    if of_tag is None:
        yield own["name"] if own else name, tag
    elif own is not None:
        yield own["name"], of_tag["name"]
        yield name, tag
    elif of_tag["of"] in IN_THE_NAME:
        yield name, tag
    else:
        yield name, of_tag["name"]
        yield f"{name} ({of_tag['of']})", tag
