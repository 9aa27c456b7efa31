"""Where a tokenizer cannot join two characters: what lies between two such places has the same ids
in every text.

Two kinds of tokenizers are known: Unigram ones whose steps before the model are among those below,
and CLIP's. A unigram model joins two characters only where a piece holds them side by side; CLIP's
reads every word by itself. Only plain characters are cut apart. All else, and every step that is
not known here, stays with its neighbours.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from distill.tokenizer.unigram import (
    BYTE_CUT,
    CLUSTER_BREAK,
    SPACE,
    SPACES_AT_ENDS,
    SPACES_IN_A_ROW,
    model_input,
)

ASCII = "".join(map(chr, range(0x21, 0x7F)))
# No normal form composes or reorders these with a neighbour that is one of them, and each is a
# grapheme cluster of its own.
PLAIN = (
    ASCII
    + "".join(map(chr, [*range(0x3041, 0x3097), *range(0x30A1, 0x30FD), *range(0x4E00, 0xA000)]))
    + "、。「」『』"
)
# Steps that change each character, or each cluster, by itself; or spaces that stand in a row or at
# an end, which are not plain.
LOCAL_STEPS = ("Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Precompiled", "Prepend", "Strip")
LOCAL_REPLACEMENTS = {
    (r"\Y", CLUSTER_BREAK),
    (CLUSTER_BREAK, ""),
    (SPACES_AT_ENDS, ""),
    (SPACES_IN_A_ROW, " "),
    (SPACES_IN_A_ROW, SPACE),
    (rf"\A[ {SPACE}]", 2 * SPACE),
    (r"(?<!\n)^", SPACE),
    (" ", SPACE),
}
CLIP_NORMALIZERS = ("NFC", "Replace", "Lowercase")
CLIP_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


@dataclass(frozen=True)
class Cuts:
    """`kinds` (every code point): which of the plain characters behave alike; 0 is not plain.

    `joined` (kinds, kinds): may the two be joined?
    """

    plain: frozenset[str]  # without the space
    kinds: np.ndarray
    joined: np.ndarray

    def before(self, codes: np.ndarray) -> np.ndarray:
        """(N,) whether a text, given as (N,) code points, is cut before each character.

        A single space between two plain characters is one itself, but never the last of what it
        ends: at an end it would be another text.
        """
        kinds, space = self.kinds[codes], codes == ord(" ")
        visible = (kinds > 0) & ~space
        plain = visible.copy()
        plain[1:-1] |= (kinds[1:-1] > 0) & space[1:-1] & visible[:-2] & visible[2:]
        result = np.zeros(len(codes), np.bool_)
        result[1:] = visible[:-1] & plain[1:] & ~self.joined[kinds[:-1], kinds[1:]]
        return result


def find(tokenizer: Any) -> Cuts | None:
    """Of a transformers tokenizer of the fast kind; None where nothing is known of it."""
    tree = json.loads(tokenizer.backend_tokenizer.to_str())
    steps = [
        *_flat(tree["normalizer"], "normalizers"),
        *_flat(tree["pre_tokenizer"], "pretokenizers"),
    ]
    added = tree["added_tokens"]
    if tree["model"]["type"] == "Unigram":
        joined = model_input(tokenizer.backend_tokenizer, "a b").removeprefix(SPACE) == f"a{SPACE}b"
        # tokens found in a text beforehand would split it in texts of their own
        none_found = tokenizer.split_special_tokens and all(token["special"] for token in added)
        return (
            _unigram(tokenizer.backend_tokenizer, tree)
            if all(map(_local, steps)) and joined and none_found
            else None
        )
    loose = any(
        token["lstrip"] or token["rstrip"] or token["single_word"] or " " in token["content"]
        for token in added
    )
    return _between_words() if _is_clip(tree["model"], steps) and not loose else None


def _flat(step: dict[str, Any] | None, key: str) -> Iterator[dict[str, Any]]:
    for inner in (step or {key: []}).get(key, [step]):
        yield from _flat(inner, key) if key in inner else [inner]


def _local(step: dict[str, Any]) -> bool:
    pattern = next(iter(step.get("pattern", {}).values()), None)
    if step["type"] == "Replace":
        return (pattern, step["content"]) in LOCAL_REPLACEMENTS
    if step["type"] == "Split":
        return (pattern, step["behavior"]) == (BYTE_CUT, "MergedWithPrevious")
    if step["type"] == "Metaspace":
        return step["replacement"] == SPACE and not step["split"]
    return step["type"] in LOCAL_STEPS


def _unigram(backend: Any, tree: dict[str, Any]) -> Cuts:
    pieces = [
        piece for piece, _ in tree["model"]["vocab"] if " " not in piece
    ]  # the model sees no space: such a piece is in no text
    alone = set(pieces)  # no plain character is unknown: unknown ones in a row become one
    kept = {
        c
        for c in PLAIN
        if c in alone
        and (backend.normalizer is None or backend.normalizer.normalize_str(c).lstrip(SPACE) == c)
    }
    if SPACE in alone:
        kept.add(SPACE)
    pairs = {piece[i : i + 2] for piece in pieces for i in range(len(piece) - 1)}
    pairs = {pair for pair in pairs if kept.issuperset(pair)}
    kinds = np.zeros(0x110000, np.uint16)
    kinds[[ord(c) for c in kept]] = 1  # those that stand alone in every piece
    for kind, character in enumerate(sorted(set("".join(pairs))), 2):
        kinds[ord(character)] = kind
    kinds[ord(" ")], kinds[ord(SPACE)] = (
        kinds[ord(SPACE)],
        0,
    )  # what stands for a space is one only after the steps before the model
    joined = np.zeros((int(kinds.max()) + 1,) * 2, np.bool_)
    codes = [[ord(c if c != SPACE else " ") for c in pair] for pair in pairs]
    codes_P2 = np.array(codes, np.int64).reshape(-1, 2)  # there may be no such pair
    joined[kinds[codes_P2[:, 0]], kinds[codes_P2[:, 1]]] = True
    joined[kinds[ord(" ")]] = True  # nothing ends with a space
    return Cuts(frozenset(kept - {SPACE}), kinds, joined)


def _is_clip(model: dict[str, Any], steps: list[dict[str, Any]]) -> bool:
    """Words are read one by one, and none holds a space."""
    types = [step["type"] for step in steps]
    if (
        model["type"] != "BPE"
        or model["dropout"] is not None
        or types != [*CLIP_NORMALIZERS, "Split", "ByteLevel"]
    ):
        return False
    spaces, words = steps[1], steps[3]
    return (
        (spaces["pattern"], spaces["content"]) == ({"Regex": r"\s+"}, " ")
        and words["pattern"].get("Regex", "").removeprefix(r"<\|startoftext\|>|<\|endoftext\|>|")
        == CLIP_WORDS
        and (words["behavior"], words["invert"]) == ("Removed", True)
        and not steps[4]["add_prefix_space"]
    )


def _between_words() -> Cuts:
    kinds = np.zeros(0x110000, np.uint16)
    kinds[[ord(c) for c in ASCII]], kinds[ord(" ")] = 1, 2
    joined = np.ones((3, 3), np.bool_)
    joined[1, 2] = False
    return Cuts(frozenset(ASCII), kinds, joined)
