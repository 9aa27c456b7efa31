"""The portable tokenizer, proved against sentencepiece itself: same ids, and every file as the
unmodified pipelines want it.
"""

import io
import itertools
import json
import random
import unicodedata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import regex
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece.sentencepiece_model_pb2 import ModelProto

from configs.errors import DataError
from configs.references import TOYWORLD_MODELS
from corpora.toyworld import captions
from distill.tokenizer import portable
from distill.tokenizer.portable import BOS_TOKEN, EOS_TOKEN, UNK_TOKEN, Vocabulary

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"
REAL = {
    "llm-jp": "llm-jp/code10K_en20K_ja30K.ver2.2.model",
    "sentencepiece-ja": "sentencepiece/test_ja_model.model",
}
SENTENCES = [caption.text for caption in captions.pairs(200, "train", 0)] + [
    caption.en for caption in captions.pairs(200, "train", 0)
]
TRICKY = [
    "",
    " ",
    "   赤い  丸   ",
    "ＡＢＣ１２３ ｶﾞﾝﾀﾞﾑ ﾊﾟﾝ",  # full-width Latin; half-width kana with marks of their own
    unicodedata.normalize("NFD", "ガンダムのパンとプリン"),  # as macOS writes file names
    "</s><pad><unk><s>",
    "▁ ▁▁",
    "㍻㎏①…～〜",
    "👩‍👩‍👧 𠮷野家 한국어 é",
    "改行\n とタブ\tと\u3000全角空白 \n",
]


# What the tokenizer does not read, by the `regex` library's tables of Unicode: a space before
# anything but a letter of a script that has spaces.
UNREAD = regex.compile(r"[▁ ](?![\p{L}--[\p{Han}\p{Hiragana}\p{Katakana}ー]])", regex.V1)


class Case:
    """One model in both forms."""

    def __init__(self, source: Path, folder: Path, model: Path | None = None) -> None:
        self.vocabulary = portable.build(source, folder)
        self.tokenizer = portable.load(folder)
        self.source = sentencepiece.SentencePieceProcessor(model_file=str(model or source))
        proto = ModelProto.FromString(self.source.serialized_model_proto())
        proto.normalizer_spec.precompiled_charsmap = b""
        proto.normalizer_spec.add_dummy_prefix = False
        proto.normalizer_spec.remove_extra_whitespaces = False
        self.as_it_is = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())

    def expected(self, text: str) -> list[int]:
        """sentencepiece's ids of what stands between spaces that are not read, in our rows, which
        follow its order without its BOS and EOS.
        """
        special = [i for i in (self.source.bos_id(), self.source.eos_id()) if i >= 0]
        parts = UNREAD.split(self.source.normalize(text))
        ids = [i for part in parts for i in self.as_it_is.encode(part)]
        return [i - sum(i > other for other in special) for i in ids]

    def ids(self, text: str) -> list[int]:
        return self.tokenizer(text, truncation=False).input_ids[1:-1]


def test_the_class_people_write_by_habit_raises(tmp_path: Path) -> None:
    """transformers 5 would read every Japanese character as unknown, without an error."""
    from transformers import AutoTokenizer, CLIPTokenizer

    portable.build(TOYWORLD_MODELS / "spiece.model", tmp_path / "tokenizer")
    with pytest.raises((ValueError, TypeError)):  # transformers 5, 4
        CLIPTokenizer.from_pretrained(tmp_path, subfolder="tokenizer")
    AutoTokenizer.from_pretrained(tmp_path / "tokenizer").save_pretrained(tmp_path / "saved")
    with pytest.raises((ValueError, TypeError)):
        CLIPTokenizer.from_pretrained(tmp_path / "saved")


def write_model(path: Path, **options: Any) -> Path:
    """A SentencePiece model trained on the spot."""
    model = io.BytesIO()
    texts = [*SENTENCES, "def f(x):    return x", "赤い[MASK]丸"]
    settings: dict[str, Any] = {
        "model_type": "unigram",
        "vocab_size": 400,
        "hard_vocab_limit": False,
        "num_threads": 1,
        "minloglevel": 2,
    }
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=model, **settings | options
    )
    path.write_bytes(model.getvalue())
    return path


TRAINED: dict[str, dict[str, Any]] = {
    "line-corporation layout": {
        "unk_id": 0,
        "bos_id": 1,
        "eos_id": 2,
        "pad_id": 3,
        "byte_fallback": True,
        "normalization_rule_name": "nfkc",
    },
    "cases folded, no bytes": {"normalization_rule_name": "nmt_nfkc_cf"},
}
MODELS = ["toyworld", *REAL, *TRAINED]


def open_case(name: str, folder: Path) -> Case:
    """One of MODELS, built into `folder`; skips where a real one is not there."""
    model = (
        TOYWORLD_MODELS / "spiece.model"
        if name == "toyworld"
        else SHARED / "tokenizers" / REAL.get(name, "")
    )
    if name in TRAINED:
        model = write_model(folder / "trained.model", **TRAINED[name])
    if not model.is_file():
        pytest.skip(
            f"{model.name} is not there: ../shared/data beside the checkout holds the real "
            "tokenizers"
        )
    return Case(model, folder / "tokenizer")


@pytest.fixture(scope="module", params=MODELS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return open_case(request.param, tmp_path_factory.mktemp("case"))


def test_ids_are_sentencepieces(case: Case) -> None:
    texts = [*SENTENCES, *TRICKY]
    for name in ("tanaka_dev.tsv", "flickr30k_valid_ja_mt.tsv"):
        if (SHARED / "pairs" / name).is_file():
            rows = (SHARED / "pairs" / name).read_text(encoding="utf-8").split("\n")[1:500]
            texts += [text for row in rows for text in row.split("\t")[:2]]
    assert not [text for text in texts if case.ids(text) != case.expected(text)]


def test_a_text_in_parts_has_the_same_ids(case: Case) -> None:
    """However programs cut a prompt at its weighted words, with or without spaces beside them: each
    part tokenised by itself, as they do.
    """
    draw = random.Random(0)
    for text in [*SENTENCES[:200], "1girl, 浴衣, 夏祭り, (花火), 3匹の猫, best quality"]:
        batch = case.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        places = sorted({start for start, _ in batch.offset_mapping[1:]})
        ends = [place for place in places if not _within_a_word(text, place)]
        around = [0, *sorted(draw.sample(ends, min(3, len(ends)))), len(text)]
        parts = [text[a:b] for a, b in itertools.pairwise(around)]
        assert [i for part in parts for i in case.ids(part)] == batch.input_ids
        assert case.ids(" ".join(parts)) == batch.input_ids


def _within_a_word(text: str, place: int) -> bool:
    """English: its words need the spaces that they have, and no others."""
    return text[place - 1 : place + 1].isascii() and text[place].isalpha()


def test_every_row_has_its_name_and_bos_and_eos_are_the_highest(case: Case) -> None:
    vocabulary, tokenizer = case.vocabulary, case.tokenizer
    size = len(vocabulary)
    assert size == len(tokenizer) == case.source.vocab_size()  # the reference's 51,200 stay 51,200
    assert (
        tokenizer.convert_ids_to_tokens(range(size)) == list(vocabulary.pieces)
        and len(set(vocabulary.pieces)) == size
    )
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (
        size - 2,
        size - 1,
        size - 1,
    )
    assert tokenizer.unk_token_id == vocabulary.unk_id == 0 and vocabulary.kinds[0] == "unknown"
    assert vocabulary.kinds.count("byte") in (0, 256)


def test_prompts_are_padded_and_truncated_as_the_pipelines_ask(case: Case) -> None:
    long = "赤い丸の上に青い四角がある。" * 40
    texts = ["", "赤い丸", long]
    batch = case.tokenizer(
        texts,
        padding="max_length",
        max_length=case.tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    )
    assert sorted(batch) == ["attention_mask", "input_ids"] and batch.input_ids.shape == (3, 77)
    bos, eos = case.vocabulary.bos_id, case.vocabulary.eos_id
    assert batch.input_ids[0].tolist() == [bos] + [eos] * 76 and batch.attention_mask[0].sum() == 2
    assert batch.input_ids[1].tolist() == [bos, *case.ids("赤い丸")] + [eos] * (
        76 - len(case.ids("赤い丸"))
    )
    assert batch.input_ids[2].tolist() == [bos, *case.ids(long)[:75], eos]
    assert (batch.input_ids == eos).int().argmax(dim=1).tolist() == [
        1,
        1 + len(case.ids("赤い丸")),
        76,
    ]


def test_no_prompt_holds_a_special_row(case: Case) -> None:
    """Not even one that spells out its name: it is the text it is, as sentencepiece reads it."""
    names = [
        name
        for name, kind in zip(case.vocabulary.pieces, case.vocabulary.kinds, strict=True)
        if kind != "normal"
    ]
    texts = [
        *names,
        *map("丸{}四角".format, names),
        "</s>",
        "<s>",
        "<pad>",
        "<unk>",
        "[EOS]",
        "<<0x41><0x42>",
    ]
    assert {BOS_TOKEN, EOS_TOKEN, UNK_TOKEN} <= set(names)
    assert not [text for text in texts if case.ids(text) != case.expected(text)]


def test_captions_survive_the_round_trip(case: Case) -> None:
    for text in SENTENCES[:50]:
        assert case.tokenizer.decode(
            case.tokenizer(text).input_ids, skip_special_tokens=True
        ) == case.source.decode(case.source.encode(text))


def test_the_files_hold_what_both_generations_of_transformers_read(
    case: Case, tmp_path: Path
) -> None:
    folder = Path(case.tokenizer.name_or_path)
    assert sorted(path.name for path in folder.iterdir()) == sorted(portable.FILES)
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert (
        config["tokenizer_class"] == "PreTrainedTokenizerFast" and config["model_max_length"] == 77
    )
    assert config["model_input_names"] == ["input_ids", "attention_mask"]
    expected = {
        "bos_token": BOS_TOKEN,
        "eos_token": EOS_TOKEN,
        "unk_token": UNK_TOKEN,
        "pad_token": EOS_TOKEN,
    }
    assert (
        json.loads((folder / "special_tokens_map.json").read_text(encoding="utf-8")) == expected
        and config | expected == config
    )
    assert (
        json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"][
            "byte_fallback"
        ]
        is case.vocabulary.byte_fallback
    )


OPTIONS: dict[str, dict[str, Any]] = {
    "no byte fallback, no pad": {},
    "no bos, no eos": {"bos_id": -1, "eos_id": -1},
    "spaces kept": {
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "byte_fallback": True,
    },
    "no dummy prefix": {"add_dummy_prefix": False, "byte_fallback": True},
    "symbols of its own": {
        "user_defined_symbols": ["[MASK]", "正方"],
        "control_symbols": ["<ctrl>"],
        "byte_fallback": True,
    },
    "a piece named as our EOS": {"user_defined_symbols": [EOS_TOKEN]},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_every_kind_of_unigram_model(options: dict[str, Any], tmp_path: Path) -> None:
    case = Case(write_model(tmp_path / "spiece.model", **options), tmp_path / "tokenizer")
    texts = [
        *SENTENCES[:100],
        *TRICKY,
        "  def  f(x):",
        "正方形[MASK]正方形",
        "未知の文字 龘 と <ctrl>",
    ]
    assert not [text for text in texts if case.ids(text) != case.expected(text)]
    unknown = case.ids("龘")
    assert case.vocabulary.eos_id not in unknown and (
        case.vocabulary.byte_fallback or case.vocabulary.unk_id in unknown
    )


@settings(max_examples=30, deadline=None)
@given(multiple=st.integers(1, 600))
def test_filler_rows_lie_below_bos_and_leave_the_pieces_where_they_are(multiple: int) -> None:
    model = TOYWORLD_MODELS / "spiece.model"
    with TemporaryDirectory() as folder:
        plain, padded = (
            portable.build(model, Path(folder) / str(value), value) for value in (1, multiple)
        )
        tokenizer = portable.load(Path(folder) / str(multiple))
    size = len(padded)
    assert size % multiple == 0 and 0 <= size - len(plain) < multiple
    assert (
        padded.pieces[: len(plain) - 2] == plain.pieces[:-2]
        and padded.scores[: len(plain) - 2] == plain.scores[:-2]
    )
    assert (
        padded.kinds == (*plain.kinds[:-2], *["filler"] * (size - len(plain)), "bos", "eos")
        and len(set(padded.pieces)) == size
    )
    assert len(tokenizer) == size and tokenizer("").input_ids == [size - 2, size - 1] == [
        tokenizer.bos_token_id,
        tokenizer.eos_token_id,
    ]


def test_a_vocabulary_knows_its_special_rows() -> None:
    vocabulary = Vocabulary(
        ("a", UNK_TOKEN, BOS_TOKEN, EOS_TOKEN),
        ("normal", "unknown", "bos", "eos"),
        (-1.0, 0.0, 0.0, 0.0),
    )
    assert (vocabulary.unk_id, vocabulary.bos_id, vocabulary.eos_id, vocabulary.byte_fallback) == (
        1,
        2,
        3,
        False,
    )


def test_a_damaged_tokenizer_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"tokenizer\.json is missing"):
        portable.load(tmp_path)
    portable.build(TOYWORLD_MODELS / "spiece.model", tmp_path)
    (tmp_path / "tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match="cannot be loaded"):
        portable.load(tmp_path)
