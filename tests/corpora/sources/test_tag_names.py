"""How a tag is spelt: what a prompt has, on both sides the same."""

import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpora.sources import tag_names


@pytest.mark.parametrize(
    ("tag", "written"),
    [
        ("long_hair", "long hair"),
        ("  1girl,  ", "1girl"),
        ("k-on!", "k-on!"),
        ("6+girls", "6+girls"),
        ('don\'t_say_"lazy"', 'don\'t say "lazy"'),
        (r"saber \(fate\)", "saber (fate)"),
        ("(lineart)", "lineart"),
        ("(((ink)))", "ink"),
        ("(summer festival:1.2)", "summer festival"),
        ("[[{fireworks:0.8}]]", "fireworks"),
        ("((yukata:1.3))", "yukata"),
        (r"(saber_\(fate\):1.1)", "saber (fate)"),
        ("(re:zero)", "re:zero"),
        ("(a cat) and (a dog)", "(a cat) and (a dog)"),
        ("kimono<lora:Kimono_v2:0.7>", "kimono"),
        ("^_^", "^_^"),
        ("(o)_(o)", "(o)_(o)"),
        ("x_x", "x_x"),
        (":d", ":d"),
        ("<3", "<3"),
        ("女の子_(絵)", "女の子 (絵)"),
        ("_", "_"),
        ("()", "()"),
        ("", ""),
    ],
)
def test_a_tag_as_it_is_typed(tag: str, written: str) -> None:
    assert tag_names.written(tag) == written


@pytest.mark.parametrize(
    ("tag", "names", "expected"),
    [
        ("1girl", ["一人の女の子"], [("一人の女の子", "1girl")]),
        (
            "saber_(fate)",
            ["セイバー"],
            [("セイバー", "saber"), ("セイバー (fate)", "saber (fate)")],
        ),
        (
            r"bow_\(weapon\)",
            ["弓（武器）"],
            [("弓", "bow"), ("弓（武器）", "bow (weapon)")],
        ),
        (
            "mash_(swimsuit)_(fate)",  # the last one says where it is from
            ["マシュ(水着)(FGO)"],
            [
                ("マシュ(水着)", "mash (swimsuit)"),
                ("マシュ(水着)(FGO)", "mash (swimsuit) (fate)"),
            ],
        ),
        ("miku_(cosplay)", ["ミクのコスプレ"], [("ミクのコスプレ", "miku (cosplay)")]),
        ("hanten", ["半纏（和風）"], [("半纏", "hanten")]),
        ("(o)_(o)", ["丸い目"], [("丸い目", "(o)_(o)")]),
        (
            "fundoshi",
            ["ふんどし", "褌", "フンドシ"],
            [("ふんどし", "fundoshi"), ("褌", "fundoshi")],
        ),
        ("fundoshi", ["", " ", "褌"], [("褌", "fundoshi")]),
        ("ink,((watercolor))", ["水彩画"], ["several_tags"]),
        ("bathtub,", ["浴槽"], [("浴槽", "bathtub")]),
        ("kimono", [], ["null"]),
        ("kimono", ["_"], [("_", "kimono")]),  # for the filters to drop
        ("<lora:x:1>", ["着物"], ["null"]),
    ],
)
def test_the_pairs_of_a_tag(
    tag: str, names: list[str], expected: list[tuple[str, str] | str]
) -> None:
    assert list(tag_names.pairs(tag, names, 2)) == expected


@given(
    st.text("a1あ_ ,()[]{}（）\\:.<>lora", max_size=20),
    st.lists(st.text("あ（）()_a ", max_size=8), max_size=4),
    st.integers(1, 3),
)
def test_every_tag_gives_pairs_or_one_reason(tag: str, names: list[str], most: int) -> None:
    found = list(tag_names.pairs(tag, names, most))
    assert found and len(found) <= 2 * most
    if isinstance(found[0], str):
        assert found in (["null"], ["several_tags"])
        return
    for name, written in found:
        assert name and name == " ".join(name.split())
        assert written and written == " ".join(written.split()) and "," not in written
        assert "_" not in written or not any(
            one.isalnum() and two.isalnum() for one, two in pairwise(written)
        )


@given(st.text("abあ ", min_size=1), st.integers(0, 3))
def test_brackets_and_weights_around_a_tag_change_nothing(text: str, depth: int) -> None:
    tag = f"x {text} y"
    plain = tag_names.written(tag)
    assert tag_names.written("(" * depth + f"({tag}:1.25)" + ")" * depth) == plain
    assert tag_names.written("[" * depth + tag + "]" * depth) == plain


@pytest.mark.parametrize("part", ["(", "((a)", "(1", ":1", "1", "a_", "<a:", "\\(", "（ "])
def test_a_tag_of_a_megabyte_takes_no_time(part: str) -> None:
    began = time.process_time()
    tag = part * (1_000_000 // len(part))
    list(tag_names.pairs(f"({tag}:1x)" + ")" * 1000, [tag], 1))
    list(tag_names.pairs("(" * 500_000 + "a" + ")" * 500_000, [tag], 1))
    assert time.process_time() - began < 10
