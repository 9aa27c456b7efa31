"""Composed prompts: the teacher reads what the student reads; each row is drawn by itself."""

import re
from pathlib import Path

import numpy as np
import pytest
from conftest import write_pairs

from configs import artefact
from configs.references import TOYWORLD_MODELS
from configs.schema.load import load_recipe
from corpora import prepare
from corpora.pair import read_pairs
from corpora.toyworld import captions, lexicon
from distill.encoders.family import SDXL
from distill.tokenizer import portable
from distill.tokens import composed, store, translations
from distill.tokens.composed import Composer
from distill.tokens.translations import Translations

PAIRS = [(one.text, one.en) for one in captions.pairs(3000, "train", 0)]
MEANINGS = {word: set(meanings) for word, meanings in lexicon.meanings().items()}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Translations:
    folder = tmp_path_factory.mktemp("composed") / "tokenizer"
    portable.build(TOYWORLD_MODELS / "spiece.model", folder)
    return translations.count(PAIRS, portable.load(folder))


def prompts(
    table: Translations, kind: str, monkeypatch: pytest.MonkeyPatch
) -> list[tuple[str, str]]:
    monkeypatch.setattr(composed, "KINDS", (kind,))
    found = Composer(1.0, 0, table)(PAIRS[:400], 0)
    assert len(found) == 400
    return found


def test_the_table_is_the_grammars_own_dictionary(table: Translations) -> None:
    """Every word that it translates best is one of the lexicon's meanings, and it knows most."""
    known = {piece: words for piece, words in table.words.items() if piece in MEANINGS}
    assert len(known) > 40
    wrong = [piece for piece, words in known.items() if next(iter(words)) not in MEANINGS[piece]]
    assert len(wrong) <= 0.05 * len(known), wrong


def test_phrases_say_the_same_in_both_languages(table: Translations) -> None:
    found = [
        phrase
        for pair, units in zip(PAIRS[:200], table.units(PAIRS[:200]), strict=True)
        for phrase in translations.phrases(pair, units)
    ]
    assert len(found) > 600
    for phrase in found:
        meant = [MEANINGS[one] for one in lexicon.words_of(phrase.text) if one in MEANINGS]
        assert all(any(word in one for one in meant) for word in phrase.en.split()), phrase


def test_some_words_become_english_ones_in_their_places(
    table: Translations, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = prompts(table, "words", monkeypatch)
    assert [en for _, en in found] == [en for _, en in PAIRS[:400]]
    english = []
    for (mixed, _), (text, _) in zip(found, PAIRS, strict=False):
        english.append(re.findall("[a-z]+", mixed))
        kept = map(re.escape, re.split("[a-z ]+", mixed))
        assert re.fullmatch(".+".join(kept), text), "what is left stays in its place"
        meanings = set().union(*(MEANINGS.get(one, set()) for one in lexicon.words_of(text)))
        assert meanings.issuperset(english[-1])
    assert min(map(len, english)) <= 1 and max(map(len, english)) >= 6


def test_lists_keep_their_order_in_both_languages(
    table: Translations, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = prompts(table, "list", monkeypatch)
    assert {len(en.split(", ")) for _, en in found} == set(range(2, 8))
    both = 0
    for text, en in found:
        parts = re.split("、|, ", text)
        if len(parts) == len(en.split(", ")):
            english = [part == other for part, other in zip(parts, en.split(", "), strict=True)]
            both += any(english) and not all(english)
    assert both > 80


def test_clauses_stand_in_either_order(
    table: Translations, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = prompts(table, "clauses", monkeypatch)
    two = [
        (read, text.split("、"))
        for (read, _), (text, _) in zip(found, PAIRS, strict=False)
        if text.count("、") == 1
    ]
    first = sum(read.startswith(clauses[0]) for read, clauses in two)
    last = sum(read.startswith(clauses[1]) for read, clauses in two)
    assert min(first, last) > 0.25 * len(two) > 20


def test_a_prompt_depends_on_the_row_and_the_seed(table: Translations) -> None:
    whole = Composer(0.3, 0, table)(PAIRS[:500], 0)
    assert whole == Composer(0.3, 0, table)(PAIRS[:500], 0)
    assert whole != Composer(0.3, 1, table)(PAIRS[:500], 0)
    assert whole != Composer(0.3, 0, table)(PAIRS[:500], 500)
    assert 110 < len(whole) < 190 and not Composer(0.0, 0, table)(PAIRS[:500], 0)


def test_the_stored_tokens(tmp_path: Path) -> None:
    """The pairs keep their ids, composed prompts stand behind them, other shares are other
    tokens.
    """
    write_pairs(tmp_path / "pairs", PAIRS[:300], "train")
    portable.build(TOYWORLD_MODELS / "spiece.model", tmp_path / "initial_student" / "tokenizer")
    artefact.seal(tmp_path / "initial_student", {})
    plain, half = (
        load_recipe("configs/toyworld.yaml", [f"run={tmp_path}", f"distill.composed_share={share}"])
        for share in (0, 0.5)
    )
    before = {side: np.array(ids) for side, ids in store.prepare(plain, SDXL).ids.items()}
    assert store.stored(half, SDXL) is None and store.stored(plain, SDXL) is not None
    after = store.prepare(half, SDXL)
    assert len(after) == 300 and 110 < after.composed < 190
    for side, ids in before.items():
        assert np.array_equal(ids, after.ids[side][: len(ids)])
    tokenizer = portable.load(tmp_path / "initial_student" / "tokenizer")
    expected = Composer(0.5, 0, translations.count(PAIRS[:300], tokenizer))(PAIRS[:300], 0)
    assert len(expected) == after.composed
    for i in (0, after.composed - 1):
        assert after.row("text", 300 + i).tolist() == tokenizer(expected[i][0]).input_ids
    assert store.stored(half, SDXL) is not None and store.stored(plain, SDXL) is None


def test_rare_words_are_counted_where_they_are_asked_for(tmp_path: Path) -> None:
    """By hand: `red` is in two pairs, `banjo` in one, `a` in three; a pair without words counts as
    frequent.
    """
    texts = ["A red ring", "a red, red banjo", "a ring", "!"]
    write_pairs(tmp_path / "pairs", [("赤い輪", en) for en in texts], "train")
    portable.build(TOYWORLD_MODELS / "spiece.model", tmp_path / "initial_student" / "tokenizer")
    artefact.seal(tmp_path / "initial_student", {})
    plain, five, nine = (
        load_recipe("configs/toyworld.yaml", [f"run={tmp_path}", f"distill.repeat_words_below={n}"])
        for n in (0, 5, 9)
    )
    assert store.prepare(plain, SDXL).rarest_N is None and store.stored(five, SDXL) is None
    rarest = store.prepare(five, SDXL).rarest_N
    assert rarest is not None and rarest.tolist() == [2, 1, 2, store.EVERYWHERE]
    assert store.stored(nine, SDXL) is not None  # another bound counts nothing again


def test_tags_become_phrases_of_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a list of tags as it is published to prompts: a pair of a tag is a phrase as it is."""
    tags = {
        "1girl": "一人の女の子",
        "yukata": "浴衣",
        "summer_festival": "夏まつり",
        "fireworks": "花火",
        "(paper lantern:1.2)": "ちょうちん",
        "bow_(weapon)": "弓（ぶき）",
    }
    lines = "".join(f"{tag},{name}\n" for tag, name in tags.items())
    (tmp_path / "tags.csv").write_text(f"{lines}nude,裸\n", encoding="utf-8")
    own = f"{{kind: tags, name: mine, licence: CC0, path: {tmp_path / 'tags.csv'}}}"
    world = "{kind: toyworld, pairs: 60, held_out_pairs: 4}"
    arguments = [
        "configs/toyworld.yaml",
        f"run={tmp_path}",
        f"corpora.sources=[{world}, {own}]",
        "distill.composed_share=0.8",
    ]
    assert prepare.main(arguments) == 0
    portable.build(TOYWORLD_MODELS / "spiece.model", tmp_path / "initial_student" / "tokenizer")
    artefact.seal(tmp_path / "initial_student", {})
    pairs = [(one.text, one.en) for one in read_pairs(tmp_path / "pairs", "train")]
    names = {
        "1girl": "一人の女の子",
        "yukata": "浴衣",
        "summer festival": "夏まつり",
        "fireworks": "花火",
        "paper lantern": "ちょうちん",
        "bow": "弓",
        "bow (weapon)": "弓（ぶき）",
    }
    assert {(name, tag) for tag, name in names.items()} < set(pairs)
    assert "nude" not in {en for _, en in pairs}
    monkeypatch.setattr(composed, "KINDS", ("list",))
    tokenizer = portable.load(tmp_path / "initial_student" / "tokenizer")
    table = translations.count(pairs, tokenizer)
    listed = set()
    for text, en in Composer(1.0, 0, table)(pairs, 0):
        parts = [tag for tag in en.split(", ") if tag in names]
        places = [(text.find(names[tag]), text.find(tag)) for tag in parts]
        assert all(max(one) >= 0 for one in places), (text, en)
        listed.update(parts)
        if len(parts) > 1 and not any(tag in text for tag in parts):
            assert [own for own, _ in places] == sorted(own for own, _ in places)
    assert listed == set(names)
    recipe = load_recipe(arguments[0], arguments[1:])
    stored, expected = store.prepare(recipe, SDXL), Composer(0.8, 0, table)(pairs, 0)
    assert len(stored) == len(pairs) and stored.composed == len(expected) > 40
    row = next(i for i, (_, en) in enumerate(expected) if names.keys() & set(en.split(", ")))
    found = stored.row("text", len(pairs) + row).tolist()
    assert found == tokenizer(expected[row][0]).input_ids
