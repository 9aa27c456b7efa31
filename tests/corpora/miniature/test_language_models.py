"""The three small language models that ship with toyworld do, in miniature, what the real ones do;
made again they come out the same.
"""

import hashlib
import json
from pathlib import Path

import pytest
import sentencepiece
import torch

from configs.references import TOYWORLD_MODELS
from corpora.filters import language_id, sentence_encoder
from corpora.miniature import make_language_id, make_sentence_encoder, make_tokenizer
from corpora.toyworld import captions, japanese, lexicon
from distill.tokenizer import portable
from vocab_init.nearest import nearest
from vocab_init.transplant import Teacher

ROOT = Path(__file__).resolve().parents[3]
SHARED = ROOT.parent / "shared" / "data" / "pairs"
HELD_OUT = list(captions.pairs(300, "held_out", 0))
SHIPPED = [
    TOYWORLD_MODELS / name for name in ("spiece.model", "sentence_encoder", "language_id.ftz")
]


def files(path: Path) -> dict[str, str]:
    paths = [path] if path.is_file() else sorted(path.rglob("*"))
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in paths}


def test_they_stay_small() -> None:
    assert (
        sum(
            file.stat().st_size
            for path in SHIPPED
            for file in ([path] if path.is_file() else path.rglob("*"))
        )
        < 1_000_000
    )


# --- the lexicon ---


def test_the_lexicon_knows_every_word_of_the_tables_and_the_captions_say_its_english() -> None:
    meanings = lexicon.meanings()
    said = {
        word
        for caption in captions.pairs(3000, "train", 1)
        for word in caption.en.replace(",", " ").replace(";", " ").split()
    }
    assert {word for right in meanings.values() for word in right} <= said
    for table in (japanese.SIZES, japanese.SHAPE_WORDS, japanese.RELATIONS):
        assert all(word in meanings for words in table.values() for word in words)
    assert meanings["緑"] == ("green",) and meanings["赤い"] == ("red",)
    assert meanings["下側"] == ("below", "under") and meanings["小"] == meanings["小さい"]


def test_every_word_of_every_caption_is_known_and_every_known_word_is_said() -> None:
    known = {*lexicon.meanings(), *lexicon.STRUCTURE_WORDS}
    assert {
        word
        for caption in captions.pairs(6000, "train", 1)
        for word in lexicon.words_of(caption.text)
    } == known


def test_captions_are_cut_at_words_and_nothing_is_lost() -> None:
    assert lexicon.words_of("黒い背景に、小さい緑の三角形がある") == [
        "黒い",
        "背景",
        "に",
        "、",
        "小さい",
        "緑",
        "の",
        "三角形",
        "が",
        "ある",
    ]
    assert (
        " ".join(lexicon.words_of("大きさは大きく色は赤であって青ではない丸"))
        == "大きさ は 大き く 色 は 赤 であって 青 ではない 丸"
    )
    assert all("".join(lexicon.words_of(caption.text)) == caption.text for caption in HELD_OUT)


# --- spiece.model ---


def test_the_tokenizer_is_laid_out_as_line_corporations_and_its_pieces_are_words() -> None:
    processor = sentencepiece.SentencePieceProcessor(
        model_file=str(TOYWORLD_MODELS / "spiece.model")
    )
    assert (processor.unk_id(), processor.bos_id(), processor.eos_id(), processor.pad_id()) == (
        0,
        1,
        2,
        3,
    )
    pieces = [processor.id_to_piece(i) for i in range(processor.vocab_size())]
    assert (
        sum(map(processor.is_byte, range(len(pieces)))) == 256 and 300 <= len(pieces) - 260 <= 740
    )
    assert {*lexicon.meanings(), *lexicon.STRUCTURE_WORDS} <= set(pieces)
    said = {
        word
        for caption in HELD_OUT
        for word in caption.en.replace(",", "").replace(";", "").split()
    }
    assert {f"▁{word}" for word in said} <= set(pieces)
    assert processor.encode("スカートをはいたねこ", out_type=str)[1:] == list(
        "スカートをはいたねこ"
    )  # words it never saw are spelt
    assert processor.encode("A red cat's hat", out_type=str) == [
        "▁",
        "A",
        "▁red",
        "▁",
        *"cat's",
        "▁",
        *"hat",
    ]
    assert processor.normalize("ｶﾞﾝ１") == "▁ガン1"


def test_a_student_reads_both_languages_word_by_word(tmp_path: Path) -> None:
    """By the tokenizer the student has: an English caption too is no string of bytes, and neither
    language comes near the 77 positions.
    """
    vocabulary = portable.build(TOYWORLD_MODELS / "spiece.model", tmp_path)
    tokenizer = portable.load(tmp_path)
    byte_ids = {i for i, kind in enumerate(vocabulary.kinds) if kind in ("byte", "unknown")}
    some = list(captions.pairs(4000, "held_out", 2))
    some += [captions.role_swapped(caption) for caption in some if caption.scene.relation]
    for phrasing in japanese.PHRASINGS:
        for side, most in (("text", 60), ("en", 40)):
            texts = [getattr(caption, side) for caption in some if caption.phrasing == phrasing]
            rows = tokenizer(texts).input_ids
            assert (
                len(texts) > 1000
                and max(map(len, rows)) <= most
                and not byte_ids & {i for row in rows for i in row}
            )
            assert tokenizer.batch_decode(rows, skip_special_tokens=True) == texts


# --- sentence_encoder ---


@pytest.fixture(scope="module")
def encoder() -> object:
    return sentence_encoder.load(str(TOYWORLD_MODELS / "sentence_encoder"), "")


def test_japanese_words_are_nearest_to_their_english_among_all_of_a_clip_vocabulary(
    encoder: object,
) -> None:
    vocabulary = json.loads(
        (TOYWORLD_MODELS / "base" / "tokenizer" / "vocab.json").read_text(encoding="utf-8")
    )
    words = Teacher(
        vocabulary, vocabulary["<|startoftext|>"], vocabulary["<|endoftext|>"], {}
    ).words()
    assert len(words) > 200
    meanings = lexicon.meanings()
    english_VD = sentence_encoder.embed(encoder, [text for _, text in words], "", 64)
    ids, _ = nearest(sentence_encoder.embed(encoder, list(meanings), "", 64), english_VD, 1)
    right = [
        words[i][1] in meanings[word] for word, (i,) in zip(meanings, ids.tolist(), strict=True)
    ]
    assert sum(right) >= 0.9 * len(right), [
        word for word, good in zip(meanings, right, strict=True) if not good
    ]


def test_held_out_captions_find_their_english(encoder: object) -> None:
    japanese_VD, english_VD = (
        sentence_encoder.embed(encoder, [getattr(caption, side) for caption in HELD_OUT], "", 64)
        for side in ("text", "en")
    )
    ids, _ = nearest(japanese_VD, english_VD, 3)
    right = ids == torch.arange(len(HELD_OUT))[:, None]
    for phrasing in japanese.PHRASINGS:
        rows = right[[caption.phrasing == phrasing for caption in HELD_OUT]]
        assert rows[:, 0].float().mean() > 0.75 and rows.any(dim=1).float().mean() > 0.9, phrasing


def test_what_is_unknown_says_nothing(encoder: object) -> None:
    assert not sentence_encoder.embed(encoder, ["漢", ""], "", 64).any()


# --- language_id.ftz ---

FOREIGN = [
    "Der kleine Junge spielt mit seinem Hund im Garten.",
    "Ein kleiner grüner Ring links von einem großen roten Kreuz",
    "Le petit garçon joue avec son chien dans le jardin.",
    "El niño juega con su perro en el jardín.",
    "小男孩在花园里和他的狗玩耍。",
    "中国的经济正在快速增长",
    "這個女孩喜歡吃蘋果",
    "작은 소년이 정원에서 개와 놀고 있다.",
]
JAPANESE = [
    "雨の日に傘をさして歩く二人",
    "本棚の前で本を読んでいる女の子",
    "これは何ですか？",
    "美味しいラーメンを食べたいです。",
    "サーフボードを持った男性が海辺に立っている",
]
ENGLISH = [
    "two people walking in the rain with an umbrella",
    "A girl is reading a book in front of the shelves.",
    "What is this thing on the table?",
]


def test_languages_are_told_apart() -> None:
    model = language_id.load("toyworld:language_id.ftz")
    for language, own, texts in (
        ("ja", JAPANESE, [caption.text for caption in HELD_OUT]),
        ("en", ENGLISH, [caption.en for caption in HELD_OUT]),
    ):
        assert min(language_id.probabilities(model, texts, language)) > 0.9
        assert min(language_id.probabilities(model, own, language)) > 0.5
        assert max(language_id.probabilities(model, FOREIGN, language)) < 0.5
        other = JAPANESE if language == "en" else ENGLISH
        assert max(language_id.probabilities(model, other, language)) < 0.1


@pytest.mark.parametrize(
    ("name", "share"), [("tanaka_dev.tsv", 0.9), ("flickr30k_valid_ja_mt.tsv", 0.98)]
)
def test_ordinary_sentences_are_recognised(name: str, share: float) -> None:
    if not (SHARED / name).is_file():
        pytest.skip(f"{name} is not there: ../shared/data beside the checkout holds real sentences")
    rows = [
        row.split("\t") for row in (SHARED / name).read_text(encoding="utf-8").split("\n")[1:-1]
    ]
    model = language_id.load("toyworld:language_id.ftz")
    for column, language in enumerate(("ja", "en")):
        probabilities = language_id.probabilities(model, [row[column] for row in rows], language)
        assert sum(p > 0.5 for p in probabilities) >= share * len(rows)


# --- the scripts ---


def test_the_scripts_give_the_same_files_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (make_tokenizer, make_sentence_encoder, make_language_id):
        monkeypatch.setattr(module, "CAPTIONS", 200)
    monkeypatch.setattr(make_sentence_encoder, "STEPS", 2)
    monkeypatch.setattr(
        make_sentence_encoder, "word_lists", _without_captions(make_sentence_encoder.word_lists)
    )
    monkeypatch.setattr(make_language_id, "SPANS", 5)
    threads = torch.get_num_threads()
    for module, name in (
        (make_tokenizer, "spiece.model"),
        (make_sentence_encoder, "sentence_encoder"),
        (make_language_id, "language_id.ftz"),
    ):
        for folder in ("first", "second"):
            assert module.main(["--out", str(tmp_path / folder / name)]) == 0
        assert files(tmp_path / "first" / name) == files(tmp_path / "second" / name)
        assert len(list((tmp_path / "first").iterdir())) == len(
            list((tmp_path / "second").iterdir())
        )  # nothing half-made is left
        assert (
            module.main(["--out", str(tmp_path / "first" / name)]) == 0
        )  # in place of the old one
    torch.set_num_threads(threads)


def _without_captions(word_lists):
    return lambda english: word_lists([caption.en for caption in captions.pairs(3000, "train", 1)])


def test_the_shipped_tokenizer_is_the_scripts(tmp_path: Path) -> None:
    make_tokenizer.train(tmp_path / "spiece.model")
    made, shipped = (
        sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model"))
        for folder in (tmp_path, TOYWORLD_MODELS)
    )
    assert [made.id_to_piece(i) for i in range(len(made))] == [
        shipped.id_to_piece(i) for i in range(len(shipped))
    ]
