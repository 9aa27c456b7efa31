r"""Prompts as AUTOMATIC1111's web UI (A1111) and ComfyUI read them: weights, BREAK, chunks.

In:  a prompt, and a tokenizer as a function of a text.
Out: `Chunk`s: the ids that a text encoder reads at once, and a weight for each.

| written | `a1111` | `comfyui` |
|---|---|---|
| `(x)` | weight times 1.1 | the same |
| `(x:1.3)` | times 1.3 | 1.3, whatever stands around it |
| `[x]` | divided by 1.1 | text |
| `\(`, `\)` | a bracket as text | the same |
| `\[`, `\]`, `\\` | the sign as text | text, with the backslash |
| `\` before another sign | left out | text |
| a bracket that is never closed | counts to the end | text |
| a closing bracket alone | text | text |
| `(:3)` | nothing, of weight 3 | `:3`, times 1.1 |
| `BREAK` | what follows begins a chunk | the same |
| more than 75 tokens | a chunk ends after a comma, if one of its last 20 tokens is one | after 75 |

The signs （ ） ［ ］ ： and digits of full width, as Japanese keyboards write them, count as their
ASCII forms. `embedding:NAME` is text, its colon begins no weight.

Both programs tokenise every weighted piece by itself. A tokenizer that begins each text with a
space then puts spaces into a sentence that has none. Here the pieces are joined, the text is
tokenised once, and a token takes the weight of its first character.

Rules and constants are those of A1111's `parse_prompt_attention` (modules/prompt_parser.py) and
`tokenize_line` (modules/sd_hijack_clip.py, with its default `comma_padding_backtrack`), and of
ComfyUI's `token_weights` and `tokenize_with_weights` (comfy/sd1_clip.py), as of 2026. Other than
there: BREAK counts inside brackets too and in ComfyUI's grammar; in ComfyUI's an unclosed bracket
leaves the brackets inside it their meaning, and numbers are plain decimals (no `1e2`, `inf`);
weights end at `LIMIT`. A1111's `[from:to:when]`, `[a|b]` and `<lora:…>` are not read.

This file needs nothing but the standard library, so that extensions of other programs can hold a
copy of it.
"""

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

Style = Literal["a1111", "comfyui"]
STYLES: tuple[Style, ...] = get_args(Style)
# ids of a text, without BOS and EOS, and where in the text each token begins and ends
Tokenize = Callable[[str], tuple[Sequence[Any], Sequence[tuple[int, int]]]]

BRACKET = 1.1  # what one pair of brackets without a number multiplies by
LIMIT = 1e6  # of a weight's size, so that it is finite however brackets are nested
COMMAS = ",，、"
COMMA_WITHIN = 20  # A1111's default of comma_padding_backtrack

OPEN, CLOSE = (
    dict.fromkeys("(（", "(") | dict.fromkeys("[［", "["),
    dict.fromkeys(")）", "(") | dict.fromkeys("]］", "["),
)
BREAK = re.compile(r"\s*\bBREAK\b\s*")
# ComfyUI's mark of a word learnt by textual inversion; a Japanese comma ends the name too
EMBEDDING = r"embedding:[^\s,:：、，。()（）\[\]［］\\]+"


def _marks(escaped: str, brackets: str) -> re.Pattern[str]:
    return re.compile(
        rf"(?P<name>(?<![A-Za-z0-9_]){EMBEDDING})"
        rf"|\\(?P<escaped>{escaped})"
        r"|[:：]\s*(?P<number>[-+－＋]?(?:\d+[.．]?\d*|[.．]\d+))\s*[)）]"
        rf"|(?P<bracket>[{brackets}])"
    )


MARKS: dict[Style, re.Pattern[str]] = {
    "a1111": _marks(r"[()\[\]\\（）［］]?", r"()\[\]（）［］"),
    "comfyui": _marks("[()（）]", "()（）"),
}


class WeightedText(NamedTuple):
    """Plain text, and the weight of each of its characters."""

    text: str
    weights: list[float]


class Chunk(NamedTuple):
    """What a text encoder reads at once: ids with BOS, EOS and padding, and a weight for each,
    which is 1 for these three.
    """

    ids: list[Any]
    weights: list[float]


@dataclass
class _Piece:
    """`text` is None for BREAK. `decided`: a number has set the weight, in ComfyUI's grammar for
    good.
    """

    text: str | None
    weight: float = 1.0
    decided: bool = False


@dataclass(frozen=True)
class Window:
    """The special ids of a tokenizer, and how many others it reads at once."""

    bos: Any
    eos: Any
    pad: Any
    length: int = 75

    def chunk(self, ids: Sequence[Any] = (), weights: Sequence[float] = ()) -> Chunk:
        """At most `length` ids; without any, the chunk of the empty prompt."""
        rest = self.length - len(ids)
        assert rest >= 0 and len(ids) == len(weights)
        return Chunk(
            [self.bos, *ids, self.eos, *[self.pad] * rest], [1.0, *weights, *[1.0] * (rest + 1)]
        )


def chunks(prompt: str, style: Style, tokenize: Tokenize, window: Window) -> list[Chunk]:
    """The chunks of a prompt, at least one. Each text between two BREAKs is tokenised once."""
    found = []
    for text, weights in read(prompt, style):
        ids, offsets = tokenize(text)
        places = [_first_letter(text, start, end) for start, end in offsets]
        of_tokens = [weights[place] if weights else 1.0 for place in places]
        commas = [text[place : place + 1] in COMMAS for place in places]
        start = 0
        while True:
            end = _end(start, commas, style, window.length)
            found.append(window.chunk(ids[start:end], of_tokens[start:end]))
            start = end
            if start >= len(ids):
                break
    return found


def read(prompt: str, style: Style) -> list[WeightedText]:
    """The texts between BREAKs, without markup; nothing is left out after the last BREAK but an
    empty text. A prompt without markup is returned as it is, every weight 1.
    """
    result = [WeightedText("", [])]
    for piece in _pieces(prompt, style):
        if piece.text is None:
            result.append(WeightedText("", []))
        else:
            text, weights = result[-1]
            result[-1] = WeightedText(text + piece.text, weights + [piece.weight] * len(piece.text))
    return result[:-1] if len(result) > 1 and not result[-1].text else result


def _pieces(prompt: str, style: Style) -> list[_Piece]:
    pieces: list[_Piece] = []
    # of each kind of bracket those that are open: their piece, and where what they hold begins
    opened: dict[str, list[tuple[int, int]]] = {"(": [], "[": []}
    position = 0
    for mark in MARKS[style].finditer(prompt):
        pieces += _plain(prompt[position : mark.start()])
        position = mark.end()
        sign = mark["bracket"]
        if mark["name"] is not None:
            pieces.append(_Piece(mark["name"]))
        elif mark["escaped"] is not None:
            pieces.append(_Piece(mark["escaped"]))
        elif sign in OPEN:
            opened[OPEN[sign]].append((len(pieces), mark.end()))
            pieces.append(_Piece(sign))
        elif not opened[CLOSE.get(sign, "(")]:
            pieces += _plain(mark[0])
        elif sign is not None:
            index, _ = opened[CLOSE[sign]].pop()
            _close(pieces, index, BRACKET if CLOSE[sign] == "(" else 1 / BRACKET)
        else:
            index, start = opened["("].pop()
            if style == "comfyui" and start == mark.start():
                pieces += _plain(mark[0][:-1])
                _close(pieces, index, BRACKET)
            else:
                number = float(unicodedata.normalize("NFKC", mark["number"]))
                _close(pieces, index, number, decided=style == "comfyui")
    pieces += _plain(prompt[position:])
    if style == "a1111":
        for kind, factor in (("(", BRACKET), ("[", 1 / BRACKET)):
            for index, _ in opened[kind]:
                _close(pieces, index, factor)
    return pieces


def _plain(text: str) -> list[_Piece]:
    first, *others = BREAK.split(text)
    return [_Piece(first), *(piece for other in others for piece in (_Piece(None), _Piece(other)))]


def _close(pieces: list[_Piece], opening: int, factor: float, decided: bool = False) -> None:
    """Takes the opening bracket out of the text and weights what came after it."""
    pieces[opening].text = ""
    for piece in pieces[opening:]:
        if not piece.decided:
            piece.weight = max(-LIMIT, min(LIMIT, piece.weight * factor))
            piece.decided = decided


def _first_letter(text: str, start: int, end: int) -> int:
    """Where a token's first character is that is no space, else where it begins: a token that
    stands for a word with the space before it has the word's weight.
    """
    letters = (place for place in range(start, end) if not text[place].isspace())
    return next(letters, min(start, max(len(text) - 1, 0)))


def _end(start: int, commas: list[bool], style: Style, length: int) -> int:
    """Where the chunk that begins at token `start` ends."""
    end = min(start + length, len(commas))
    if style == "comfyui" or end == len(commas) or commas[end]:
        return end
    late = range(end - 1, max(start, end - COMMA_WITHIN) - 1, -1)
    return next((place + 1 for place in late if commas[place]), end)
