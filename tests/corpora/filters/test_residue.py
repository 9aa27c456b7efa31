"""Residue of subtitles and games: taken out where the text is whole without it, and the rows that
cannot be mended are dropped."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.schema.filters import Filters
from corpora.filters import residue, rules
from corpora.filters.normalise import normalise
from corpora.toyworld import captions

PAIRS = [(one.text, one.en) for one in captions.pairs(100, "train", seed=9)]


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        (("<i>赤い</i>丸", "a <b>red</b> circle"), ("赤い丸", "a red circle")),
        (("赤い<br>丸", "a red<br/>circle"), ("赤い 丸", "a red circle")),
        (("&lt;i&gt;赤い丸&lt;/i&gt;", "a red circle"), ("赤い丸", "a red circle")),
        (
            ("<color=#f00>赤い</color>丸", "a <font color='red'>red</font> circle"),
            ("赤い丸", "a red circle"),
        ),
        (("<ruby>丸<rt>まる</rt></ruby>", "a circle"), ("丸", "a circle")),
        ((r"赤い\N丸", r"a red\Ncircle"), ("赤い 丸", "a red circle")),
        ((r"{\an8}{\pos(1,2)}赤い丸", r"{\i1}a red circle{\i0}"), ("赤い丸", "a red circle")),
        (("♪ 赤い丸 ♪", "♪ a red circle ♪"), ("赤い丸", "a red circle")),
        (("赤い丸➡", "a red circle"), ("赤い丸", "a red circle")),
        (("（シロエ）赤い丸だ", "It is a red circle"), ("赤い丸だ", "It is a red circle")),
        ((r"{\an8}（シロエ）\N丸だ", "(Shiroe) A circle"), ("丸だ", "A circle")),
        (("（ため息）丸だ", "[sighs] A circle"), ("丸だ", "A circle")),
        (("（ドアの音）", "(door slams)"), ("", "")),
        (("・赤い丸", "・ a red circle"), ("赤い丸", "a red circle")),
        (("- 赤い丸", "- a red circle"), ("赤い丸", "a red circle")),
        ((r"\C[2]赤い\C[0]丸", r"a \C[2]red\C[0] circle"), ("赤い丸", "a red circle")),
        # whole as they are
        (("愛 <3", "[i changed the <name>"), ("愛 <3", "[i changed the <name>")),
        (
            ("〈とらや〉の飴（白）", "(white) sweets of <Toraya>"),
            ("〈とらや〉の飴（白）", "(white) sweets of <Toraya>"),
        ),
        (("（１）丸", "(1) a circle"), ("（１）丸", "(1) a circle")),
        (("【NFL】丸", "[NFL] a circle"), ("【NFL】丸", "[NFL] a circle")),
        (("-5度 ➡ 3度", "-5 degrees ➡ 3"), ("-5度 ➡ 3度", "-5 degrees ➡ 3")),
    ],
)
def test_what_is_taken_out(raw: tuple[str, str], clean: tuple[str, str]) -> None:
    assert residue.pair(*raw) == clean
    assert residue.pair(*clean) == clean


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        # what an analyser writes
        ("私 は 犬 が 好き です 。", "私は犬が好きです。"),
        ("赤い 丸 の 左 に 青い 四角 が ある", "赤い丸の左に青い四角がある"),
        ("SDXL の 使い方 を 学ぶ", "SDXL の使い方を学ぶ"),
        ("2 匹 の 犬 と 3 匹 の 猫", "2匹の犬と3匹の猫"),
        # what people write
        ("Visual Studio Code の使い方", "Visual Studio Code の使い方"),
        ("本当？ そうだ！ 行こう", "本当？ そうだ！ 行こう"),
        ("りんご みかん ぶどう", "りんご みかん ぶどう"),
        ("監督 山田 太郎", "監督 山田 太郎"),
        ("赤い丸　青い四角　緑の三角", "赤い丸 青い四角 緑の三角"),
        ("駅前のパン屋 は", "駅前のパン屋 は"),
        (
            "駅前のパン屋さんで買った で 売られている食パンと牛乳",
            "駅前のパン屋さんで買った で 売られている食パンと牛乳",
        ),
    ],
)
def test_an_analysers_spaces_are_joined_and_others_stay(raw: str, clean: str) -> None:
    assert residue.japanese(raw) == clean


@given(st.text("赤い丸は。、 aB1<>i/{}\\N[]()（）♪➡-・", max_size=30))
def test_a_clean_text_is_normalised(text: str) -> None:
    for side in residue.pair(text, text):
        assert normalise(side) == side


# of each label: what the file puts around the Japanese and the English text, and whether the text
# is whole without it
SUBTITLES = {
    "position": (r"{{\pos(640,300)}}{}", r"{{\an8}}{}", True),
    "italics": ("<i>{}</i>", "<i>{}</i>", True),
    "speaker": ("（シロエ）{}", "{}", True),
    "notes": ("♪～ {} ♪", "♪ {} ♪", True),
    "arrow": ("{}➡", "{}", True),
    "sound": ("（ため息）{}", "[sighs] {}", True),
    "break": (r"{}\Nです", r"{}\Nof course", True),
    "link": ('<a href="x">{}</a>', '<a href="x">{}</a>', False),
}
GAME = {
    "id": ("{{#id}}{}", "{{#id}} {}", False),
    "printf": ("%s {}", "%s {}", False),
    "name": ("[name] {}", "[name] {}", False),
    "path": ("[actor.name] {}", "[actor.name] {}", False),
    "actor": (r"\N[1] {}", r"\N[1] {}", False),
    "colour": (r"\C[2]{}\C[0]", r"\C[2]{}\C[0]", True),
    "tag": ("<color=red>{}</color>", "<size=12>{}</size>", True),
    "braces": ("{{player_name}} {}", "{{player_name}} {}", False),
}
RESIDUE = re.compile(r"\\[A-Za-z]|[{}<>♪➡%\[\]]|（シロエ）|（ため息）")


@pytest.mark.parametrize("kinds", [SUBTITLES, GAME])
def test_hardly_any_residue_is_kept_of_a_hundred_rows(
    kinds: dict[str, tuple[str, str, bool]],
) -> None:
    kept, wrong = [], []
    for number, texts in enumerate(PAIRS):
        *patterns, is_mended = list(kinds.values())[number % len(kinds)]
        pair = residue.pair(*(one.format(text) for one, text in zip(patterns, texts, strict=True)))
        reason = rules.drop_reason(*pair, Filters())
        if reason is None:
            kept.append(pair)
        if (reason is None) != is_mended:
            wrong.append((pair, reason))
        elif is_mended:
            assert all(side.startswith(text) for side, text in zip(pair, texts, strict=True)), pair
    found = [pair for pair in kept if RESIDUE.search(pair[0]) or RESIDUE.search(pair[1])]
    assert len(kept) >= 20 and len(found) <= 0.05 * len(kept) and len(wrong) <= 5, (found, wrong)
