"""Prompts with weights: examples by hand from the two programs' rules, and what holds of every
prompt.
"""

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from written_prompts import WRITTEN

from configs.references import TOYWORLD_MODELS
from distill import prompt
from distill.prompt import LIMIT, STYLES, Chunk, Style, Window
from distill.tokenizer import portable

WIDE = str.maketrans("()[]:", "（）［］：")
MARKUP = st.lists(
    st.sampled_from(
        [*"()[]:\\,（）［］： \n　", *"a猫👨‍👩‍👧", "1.3", "-.5", "BREAK", "embedding:x", ":1.2)"]
    ),
    max_size=30,
).map("".join)
STYLE = st.sampled_from(STYLES)


def spans(text: str, style: Style) -> list[tuple[str, float]]:
    """Runs of one weight, `|` between the texts of a prompt."""
    found: list[tuple[str, float]] = []
    for number, (plain, weights) in enumerate(prompt.read(text, style)):
        found += [("|", 0.0)] if number else []
        for sign, weight in zip(plain, weights, strict=True):
            if found and found[-1][1] == round(weight, 6) and sign != "|":
                found[-1] = (found[-1][0] + sign, found[-1][1])
            else:
                found.append((sign, round(weight, 6)))
    return found


BOTH: list[tuple[str, list[tuple[str, float]]]] = [
    ("a (red:1.3) circle", [("a ", 1), ("red", 1.3), (" circle", 1)]),
    ("大きい（赤い：1.3）丸", [("大きい", 1), ("赤い", 1.3), ("丸", 1)]),
    ("大きい（赤い：１．３）丸", [("大きい", 1), ("赤い", 1.3), ("丸", 1)]),
    ("((b)) (c)", [("b", 1.21), (" ", 1), ("c", 1.1)]),
    ("((b):2)", [("b", 2.2)]),
    (r"hatsune miku \(cosplay\)", [("hatsune miku (cosplay)", 1)]),
    (r"（\（注\）：0.5）", [("（注）", 0.5)]),
    ("(a : -0.5 )", [("a ", -0.5)]),
    ("(a:1.2.3)", [("a:1.2.3", 1.1)]),
    ("(a:b)", [("a:b", 1.1)]),
    ("a) :1.3) b", [("a) :1.3) b", 1)]),
    ("(embedding:5) embedding:neg.v2, x", [("embedding:5", 1.1), (" embedding:neg.v2, x", 1)]),
    ("(embedding:neg:1.2)", [("embedding:neg", 1.2)]),
    ("embedding:neg、(犬：2)", [("embedding:neg、", 1), ("犬", 2)]),
    ("猫 BREAK 犬", [("猫", 1), ("|", 0), ("犬", 1)]),
    ("(a BREAK b:2)", [("a", 2), ("|", 0), ("b", 2)]),
    ("BREAKFAST 大BREAK", [("BREAKFAST 大BREAK", 1)]),
    ("a BREAK", [("a", 1)]),
    ("", []),
]
ALONE: dict[Style, list[tuple[str, list[tuple[str, float]]]]] = {
    "a1111": [
        ("((b:2))", [("b", 2.2)]),
        ("[b] ［猫］", [("b", 0.909091), (" ", 1), ("猫", 0.909091)]),
        ("([b])", [("b", 1.0)]),
        ("x (b", [("x ", 1), ("b", 1.1)]),
        ("x [[b", [("x ", 1), ("b", 0.826446)]),
        (r"\[a\] \\ \o/", [("[a] \\ o/", 1)]),
        ("(:3)", []),
    ],
    "comfyui": [
        ("((b:2))", [("b", 2)]),
        ("(((x (cat:6) y:100)))", [("x ", 100), ("cat", 6), (" y", 100)]),
        ("(((x (cat:6) y):100))", [("x ", 110), ("cat", 6), (" y", 110)]),
        ("[b] ［猫］", [("[b] ［猫］", 1)]),
        ("x (b (c:2)", [("x (b ", 1), ("c", 2)]),
        (r"\[a\] \\ \o/ \\(", [(r"\[a\] \\ \o/ \(", 1)]),
        ("(:3)", [(":3", 1.1)]),
    ],
}


@pytest.mark.parametrize("style", STYLES)
def test_the_two_grammars(style: Style) -> None:
    for text, expected in BOTH + ALONE[style]:
        assert spans(text, style) == expected, text


def test_prompts_as_people_write_them() -> None:
    assert len(WRITTEN) == 30 == len({written.prompt for written in WRITTEN})
    for text, plain, weighted in WRITTEN:
        found = spans(text, "a1111")
        assert "".join(part for part, _ in found) == (text if plain is None else plain)
        assert tuple((part, weight) for part, weight in found if weight not in (0, 1)) == weighted


@settings(max_examples=300, deadline=None)
@given(text=MARKUP, style=STYLE)
def test_every_prompt_is_read(text: str, style: Style) -> None:
    """Unbalanced or not: nothing is raised or invented, weights are finite, and signs of full
    width are read as their ASCII forms are.
    """
    found = prompt.read(text, style)
    assert found and all(len(plain) == len(weights) for plain, weights in found)
    assert all(math.isfinite(weight) for _, weights in found for weight in weights)
    rest = iter(text)
    assert all(sign in rest for plain, _ in found for sign in plain)
    names_apart = text.replace("embedding:", "embedding")
    wide = prompt.read(names_apart.translate(WIDE), style)
    assert wide == [
        (plain.translate(WIDE), weights) for plain, weights in prompt.read(names_apart, style)
    ]


@settings(max_examples=200, deadline=None)
@given(text=st.text().filter(lambda text: not set(text) & set("()[]（）［］\\")), style=STYLE)
def test_a_prompt_without_markup_is_itself(text: str, style: Style) -> None:
    text = text.replace("BREAK", "break")
    assert prompt.read(text, style) == [(text, [1.0] * len(text))]


@pytest.mark.parametrize("style", STYLES)
def test_weights_end_at_a_limit(style: Style) -> None:
    for text, largest in (("(" * 400 + "x" + ")" * 400, LIMIT), (f"(x:{'9' * 400})", LIMIT)):
        assert max(prompt.read(text, style)[0].weights) == largest
    assert min(prompt.read("(x:-1e7)(y:-99999999)", style)[0].weights) == -LIMIT


def letters(text: str) -> tuple[list[str], list[tuple[int, int]]]:
    return list(text), [(i, i + 1) for i in range(len(text))]


WINDOW = Window("<", ">", "_")


def words(chunk: Chunk) -> str:
    assert len(chunk.ids) == len(chunk.weights) == 77 and chunk.ids[0] == "<"
    end = chunk.ids.index(">")
    assert set(chunk.ids[end + 1 :]) <= {"_"}
    assert chunk.weights[0] == 1.0 and set(chunk.weights[end:]) == {1.0}
    return "".join(chunk.ids[1:end])


@settings(max_examples=200, deadline=None)
@given(text=MARKUP, times=st.integers(1, 12), style=STYLE)
def test_chunks_hold_every_token_once(text: str, times: int, style: Style) -> None:
    """Each text between BREAKs is tokenised once, and its tokens lie in whole chunks of their
    own.
    """
    asked: list[str] = []
    found = prompt.chunks(
        text * times, style, lambda plain: (asked.append(plain), letters(plain))[1], WINDOW
    )
    texts = prompt.read(text * times, style)
    assert asked == [plain for plain, _ in texts]
    assert "".join(map(words, found)) == "".join(asked)
    assert len(found) >= sum(max(1, math.ceil(len(plain) / 75)) for plain in asked)


@pytest.mark.parametrize(
    ("text", "style", "expected"),
    [
        ("a" * 75, "a1111", [75]),
        ("a" * 76, "a1111", [75, 1]),
        ("a" * 60 + "," + "b" * 20, "a1111", [61, 20]),
        ("あ" * 60 + "、" + "い" * 20, "a1111", [61, 20]),
        ("a" * 60 + "," + "b" * 20, "comfyui", [75, 6]),
        ("a" * 54 + "," + "b" * 30, "a1111", [75, 10]),  # a comma too far back
        ("a" * 60 + "," + "b" * 14 + ",", "a1111", [75, 1]),  # what follows is a comma
        ("a" * 70 + " BREAK " + "b" * 70, "comfyui", [70, 70]),
        (" BREAK a", "a1111", [0, 1]),
        ("", "a1111", [0]),
    ],
)
def test_where_chunks_end(text: str, style: Style, expected: list[int]) -> None:
    found = prompt.chunks(text, style, letters, WINDOW)
    assert [len(words(chunk)) for chunk in found] == expected


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    portable.build(TOYWORLD_MODELS / "spiece.model", folder / "student")
    return portable.load(folder / "student")


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(
    ("weighted", "plain", "heavy"),
    [
        ("大きい（赤い：1.5）丸", "大きい赤い丸", ["赤い"]),
        ("a (red:1.5) circle", "a red circle", ["▁red"]),  # whose offset begins at the space
        ("（大きい：1.5）赤い丸", "大きい赤い丸", ["大きい"]),
        ("(👩:1.5)丸", "👩丸", ["<0xF0>", "<0x9F>", "<0x91>", "<0xA9>"]),
        ("(ｶﾞ:1.5)丸", "ｶﾞ丸", ["ガ"]),
    ],
)
def test_a_weighted_word_keeps_the_ids_of_the_sentence(
    weighted: str, plain: str, heavy: list[str], style: Style, tokenizer: Any
) -> None:
    def tokenize(text: str) -> Any:
        found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return found.input_ids, found.offset_mapping

    special = Window(tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    (chunk,) = prompt.chunks(weighted, style, tokenize, special)
    assert chunk.ids == tokenizer(plain, padding="max_length").input_ids
    pieces = tokenizer.convert_ids_to_tokens(chunk.ids)
    weights = zip(pieces, chunk.weights, strict=True)
    assert [piece for piece, weight in weights if weight != 1.0] == heavy
    assert set(chunk.weights) == {1.0, 1.5}
