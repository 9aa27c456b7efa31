"""What counts as unsafe, and above all what does not."""

import re
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from configs.schema import yaml12
from configs.schema.filters import Filters, TagFilters
from corpora.filters import rules, unsafe

DATA = Path(__file__).resolve().parents[3] / ".." / "shared" / "data" / "pairs"
LISTED = yaml12.read(unsafe.WORDS.read_text(encoding="utf-8"))
ENGLISH = [word for key in unsafe.NEEDED for word in LISTED[key]["en"]]


@pytest.mark.parametrize(
    ("text", "en", "found"),
    [
        ("裸", "nude", "nude"),
        ("裸エプロンの人", "Naked_apron", "naked"),
        ("胸の先", "nipples", "nipples"),
        ("全裸", "unclothed", "全裸"),
        ("ｾｯｸｽ", "x", "セックス"),  # half width
        ("大人のおもちゃ", "sex-toy", "sex"),
        ("エロい絵", "a picture", "エロ"),
        # of minors, whatever else is said
        ("ロリ巨乳", "x", "ロリ"),
        ("おねショタ", "x", "ショタ"),
        ("小さな子", "loli", "loli"),
        # of minors beside suggestive words, on whichever side
        ("下着の子供", "x", "下着 beside 子供"),
        ("子供", "underwear", "underwear beside 子供"),
        ("x", "a schoolgirl in lingerie", "lingerie beside schoolgirl"),
    ],
)
def test_what_makes_a_pair_unsafe(text: str, en: str, found: str) -> None:
    assert unsafe.reason(text, en) == found
    assert rules.drop_reason(f"あ{text}", f"a {en}", TagFilters()) == "unsafe"
    assert rules.drop_reason(f"あ{text}", f"a {en}", Filters(max_length_ratio=8)) is None


@pytest.mark.parametrize(
    ("text", "en"),
    [
        ("1人の女の子", "1girl"),
        ("公園で遊ぶ子供", "children playing in a park"),
        ("水着の女の子たち", "girls in swimsuits"),
        ("下着", "underwear"),
        ("巨乳", "large breasts"),
        ("処女航海", "maiden voyage"),
        ("六分儀", "sextant"),
        ("エセックス州", "Essex"),
        ("操縦席のコックピット", "cockpit"),
        ("カクテルと孔雀", "a cocktail and a peacock"),
        ("雄鶏が鳴く", "the cock crows"),
        ("乳牛の牛乳", "milk of dairy cows"),
        ("少年は胸を張る", "the boy sticks out his chest"),
        ("聖書を読む子供", "a child reading the Bible"),
        ("バイブルとピエロ", "a pierrot"),
        ("カップヌードル", "cup noodles"),
        ("パチンコ", "pachinko"),
        ("フェラーリとグレイプ", "a Ferrari"),
        ("低カロリーのロリポップ", "a lollipop"),
        ("甘ロリ", "sweet lolita"),
        ("ゴスロリの服を着た少女", "a girl in gothic lolita"),
        ("男女の性交際", "dating"),
        ("女性交通指導員", "a woman directing traffic"),
        ("正常位置", "normal position"),
        ("裸足の子供たち", "barefoot children"),
        ("上半身裸の少年", "a shirtless boy"),
        ("ぶっかけうどん", "udon with broth"),
        ("菜の花", "rape blossoms"),
        ("異性", "the opposite sex"),
        ("肉眼で見える", "visible to the naked eye"),
        ("ネコヤナギ", "pussy willow"),
        ("文書を集める", "document and circumstance"),
        ("国の中央", "Country of the Center"),
        ("解析と分析", "analysis of a canal"),
    ],
)
def test_what_only_looks_unsafe(text: str, en: str) -> None:
    assert unsafe.reason(text, en) is None


def test_the_short_cut_finds_every_word_of_the_list() -> None:
    """Each word alone, and in capitals, plural and half a sentence."""
    minor, suggestive = LISTED["minors"]["en"][0], LISTED["suggestive"]["en"][0]
    for key in ("sexual", "sexualised_minors"):
        for word in LISTED[key]["en"]:
            assert unsafe.reason("絵", word) and unsafe.reason("絵", f"The {word.upper()}s, seen")
            assert unsafe.reason("絵", word.replace(" ", "_"))
        for word in LISTED[key]["ja"]:
            assert unsafe.reason(word, "x") and unsafe.reason(f"白い「{word}」、と絵", "x"), word
    for key, other in (("suggestive", minor), ("minors", suggestive)):
        for word in (*LISTED[key]["en"], *LISTED[key]["ja"]):
            assert unsafe.reason("絵", word) is None and unsafe.reason(word, "x") is None, word
            assert unsafe.reason(word, other), word


def test_the_list_holds_no_word_twice_and_none_that_cannot_be_found() -> None:
    assert set(LISTED) == {*unsafe.NEEDED, "minors", "harmless"}
    for key, languages in LISTED.items():
        assert set(languages) == {"en", "ja"}
        words = [word for listed in languages.values() for word in listed]
        assert len(words) == len(set(words)), key
        # as comparison keys are, and as hyphens become
        assert all(unsafe._searched(word) == word for word in words), key
        assert all(re.fullmatch("[a-z0-9]+(?: [a-z0-9]+)*", word) for word in languages["en"])


@given(st.text("abcdefghijklmnopqrstuvwxyz", min_size=1), st.sampled_from(LISTED["sexual"]["en"]))
def test_a_part_of_a_longer_word_is_no_word(letters: str, word: str) -> None:
    longer = f"{letters}{word}"
    assume(not re.search(rf"\b(?:{'|'.join(ENGLISH)})s?\b", longer))
    assert unsafe.reason("絵", longer) is None


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("tanaka_train", 4),
        ("youcook2_jp", 0),
        ("bsd_dev", 0),
        ("flickr30k_valid_ja_mt", 2),
        ("flickr30k_train_autoaligned_m05", 4),
        ("wmt22.en-ja", 5),
        ("wmt22.ja-en", 1),
    ],
)
def test_hardly_a_real_pair_is_dropped(name: str, most: int) -> None:
    path = DATA / f"{name}.tsv"
    if not path.is_file():
        pytest.skip(f"{name} of the shared test data is not beside this checkout")
    rows = [one.split("\t")[:2] for one in path.read_text("utf-8").split("\n")[1:] if one]
    found = [(reason, *row) for row in rows if (reason := unsafe.reason(*row))]
    assert len(found) <= most, found
