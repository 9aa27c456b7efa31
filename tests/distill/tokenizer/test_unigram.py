"""Every source a unigram tokenizer comes in, and texts of every kind: our ids are the source's, or
the difference has a known cause.
"""

import json
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.utils import filter_repo_objects
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from sentencepiece.sentencepiece_model_pb2 import ModelProto
from test_portable import MODELS, SHARED, UNREAD, Case, open_case, write_model
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from configs.errors import DataError
from configs.references import TOYWORLD_MODELS
from distill.tokenizer import portable, unigram

SPIECE = TOYWORLD_MODELS / "spiece.model"
ATOMS = [
    *"赤い丸のにガがぱぷーabcABC <>/s12.,、。▁①㍻👍𠮷é한!？\u3000\t\n\r龘",
    *(
        "ｶﾞ",
        "ﾊﾟ",
        "ﾞ",
        "か\u3099",
        "は\u309a",
        "か゛",
        "e\u0301",
        "２\u0301",
        "\u0301",
        "\u3099",
        "a\u0302\u0323",
        "㎏\u0301",
    ),  # voicing, accents
    *(
        "👩‍👩‍👧",
        "☕\ufe0f",
        "葛\U000e0100",
        "🇯🇵",
        "\u200d",
        "\ufe0f",
        "각",
        "क्षि",
        "İ",
        "ß",
        "ﬁ",
        "～",
        "＝\u0338",
    ),  # clusters
    *(
        "\x00",
        "\x01",
        "\x7f",
        "\x85",
        "\u200b",
        "\ufeff",
        "\u2028",
        "\u2029",
        "\r\n",
        "\n\n",
        "   ",
        "\ufffd",
        "\u00ad",
    ),  # control, lines
    *(
        "ＡＢ",
        "１２",
        "<0x41>",
        "<0xE3>",
        "<|endoftext|>",
        "<|unused 3|>",
        "<|unknown token|>",
        "</s>",
        "<pad>",
        "<unk>",
    ),
]
TEXTS = st.lists(st.sampled_from(ATOMS), max_size=20).map("".join) | st.text(max_size=20)
PROMPTS = TEXTS | st.tuples(
    st.lists(st.sampled_from(ATOMS), min_size=1, max_size=6), st.integers(50, 300)
).map(lambda x: "".join(x[0]) * x[1])


@pytest.fixture(scope="module", params=MODELS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return open_case(request.param, tmp_path_factory.mktemp("case"))


# --- the causes of a difference to sentencepiece, those of the docstring of
# distill/tokenizer/portable.py ---


def tie(case: Case, text: str) -> bool:
    """The same text cut otherwise, and the scores' sums equal as far as float32 can tell."""
    (ours, our_sum), (theirs, their_sum) = (
        (
            "".join(case.vocabulary.pieces[i] for i in ids),
            sum(case.vocabulary.scores[i] for i in ids),
        )
        for ids in (case.ids(text), case.expected(text))
    )
    return (
        ours == theirs
        and abs(our_sum - their_sum) <= len(case.expected(text)) * abs(their_sum) * 2**-23
    )


def composed_further(case: Case, text: str) -> bool:
    """What the model's normaliser leaves uncomposed or in another order, ours composes: nothing
    else differs.
    """
    ours, theirs = (
        unigram.model_input(case.tokenizer.backend_tokenizer, text),
        case.source.normalize(text).replace(" ", "▁"),
    )
    composed = normalizers.NFC().normalize_str(theirs)
    return composed != theirs and ours == UNREAD.sub("", composed)


def reserved(case: Case, text: str) -> bool:
    return unigram.CLUSTER_BREAK in text


def new_letter(case: Case, text: str) -> bool:
    """Of a script that one library's tables of Unicode have and another's have not."""
    signs = text.replace(unigram.CLUSTER_BREAK, "")
    return any(unicodedata.category(sign) == "Cn" for sign in signs)


CAUSES: list[Callable[[Case, str], bool]] = [tie, composed_further, reserved, new_letter]


@settings(max_examples=400, deadline=None)
@given(text=PROMPTS)
def test_ids_are_sentencepieces_or_the_cause_is_known(case: Case, text: str) -> None:
    assert case.ids(text) == case.expected(text) or any(cause(case, text) for cause in CAUSES)


def test_each_cause_is_real(tmp_path: Path) -> None:
    """A cause that never occurs would be an excuse."""
    proto = ModelProto.FromString(SPIECE.read_bytes())
    for length, score in ((1, -6.8), (2, -7.3), (3, -8.5)):
        proto.pieces.add(piece="龘" * length, score=score, type=1)
    (tmp_path / "spiece.model").write_bytes(proto.SerializeToString())
    case = Case(tmp_path / "spiece.model", tmp_path / "out")
    for cause, texts in (
        (tie, ["龘" * n for n in range(40)]),
        (composed_further, ["㎏\u0301", "a\u0302\u0323"]),
        (reserved, ["丸\ufff0"]),
        (new_letter, ["丸 \U0003d000"]),
    ):
        differing = [text for text in texts if case.ids(text) != case.expected(text)]
        assert differing and all(
            [other for other in CAUSES if other(case, text)] == [cause] for text in differing
        )


@settings(max_examples=200, deadline=None)
@given(text=TEXTS)
def test_what_decoding_gives_back_is_what_sentencepiece_gives_back(case: Case, text: str) -> None:
    """But for spaces that are not read, and those in front: of a literal "▁" there sentencepiece
    keeps none.
    """
    known = "".join(
        character for character in text if case.vocabulary.unk_id not in case.ids(character)
    )
    assume(not new_letter(case, known))
    assume(
        case.ids(known) == case.expected(known) and case.vocabulary.unk_id not in case.ids(known)
    )
    decoded = case.tokenizer.decode(
        case.tokenizer(known, truncation=False).input_ids, skip_special_tokens=True
    )
    theirs = UNREAD.sub("", case.source.decode(case.source.encode(known)))
    assert decoded.lstrip(" ") == theirs.lstrip(" ")


@settings(max_examples=200, deadline=None)
@given(text=PROMPTS)
def test_every_prompt_begins_and_ends_as_the_encoders_read_it(case: Case, text: str) -> None:
    bos, eos, ids = case.vocabulary.bos_id, case.vocabulary.eos_id, case.ids(text)
    prompt = case.tokenizer(
        text, padding="max_length", max_length=case.tokenizer.model_max_length, truncation=True
    ).input_ids
    assert prompt == [*([bos, *ids[:75]] + [eos] * 76)[:76], eos] and not {bos, eos} & set(ids)


# --- a tokenizer.json ---


def write_json(path: Path, **parts: Any) -> Path:
    """A Unigram tokenizer.json in T5's manner: pieces of toyworld's model, words split at spaces;
    its EOS has the lowest score of all.
    """
    proto = ModelProto.FromString(SPIECE.read_bytes())
    rows = [
        (piece.piece, piece.score) for piece in proto.pieces if piece.type == type(piece).NORMAL
    ]
    vocab = [
        ("[PAD]", 0.0),
        ("[EOS]", -40.0),
        ("[UNK]", 0.0),
        *rows,
        ("龘丸", -25.0),
        ("龗", -24.0),
        ("丸龗", -2.0),
        ("[EXTRA]", 0.0),
        *parts.get("more", ()),
    ]
    tokenizer = Tokenizer(
        parts.get("model") or models.Unigram(vocab, parts.get("unk_id", 2), False)
    )
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap),
            normalizers.Lowercase(),
        ]
    )
    tokenizer.pre_tokenizer = parts.get(
        "pre_tokenizer",
        pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]),
    )
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(["[PAD]", "[EOS]", "[UNK]", "[EXTRA]", "[BEYOND]"])
    tokenizer.add_tokens(["[mask]"])
    path.parent.mkdir(exist_ok=True)
    tokenizer.save(str(path))
    path.with_name("tokenizer_config.json").write_text(
        '{"eos_token": {"content": "[EOS]"}, "tokenizer_class": "T5TokenizerFast"}'
    )
    return path


@pytest.mark.parametrize("name", ["T5's manner", "llm-jp"])
def test_a_tokenizer_json_keeps_its_ids(
    name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("json")
    path = SHARED / "tokenizers/llm-jp/code10K_en20K_ja30K.ver2.2_hf_fast.b4.tokenizer.json"
    if name != "llm-jp":
        path = write_json(folder / "source" / "tokenizer.json")
    elif not path.is_file():
        pytest.skip(
            f"{path.name} is not there: ../shared/data beside the checkout holds the real "
            "tokenizers"
        )
    own = {1} if name != "llm-jp" else {1, 7}  # the rows of its BOS and EOS
    vocabulary, source = portable.build(path, folder / "tokenizer"), Tokenizer.from_file(str(path))
    tokenizer, rows = (
        portable.load(folder / "tokenizer"),
        [i for i in range(source.get_vocab_size()) if i not in own],
    )
    source.encode_special_tokens = True
    unread = pre_tokenizers.Split(Regex(portable.UNREAD_SPACES["pattern"]["Regex"]), "removed")
    own_cuts = [] if source.pre_tokenizer is None else [source.pre_tokenizer]
    source.pre_tokenizer = pre_tokenizers.Sequence([*own_cuts, unread])
    assert (
        len(vocabulary) == len(rows) + 2 == len(tokenizer)
        and vocabulary.pieces[vocabulary.unk_id] == portable.UNK_TOKEN
    )
    kept = [
        kind == "unused" or piece == source.id_to_token(i)
        for i, piece, kind in zip(rows, vocabulary.pieces, vocabulary.kinds, strict=False)
    ]
    assert kept.count(False) == 1  # the unknown token's name

    @settings(max_examples=400, deadline=None)
    @given(text=PROMPTS)
    @example("龘丸龗")  # what an unknown character costs decides how T5's is cut
    def check(text: str) -> None:
        ids, encoded = (
            tokenizer(text, truncation=False).input_ids[1:-1],
            source.encode(text, add_special_tokens=False),
        )
        assert [rows[i] for i in ids] == encoded.ids
        assert vocabulary.unk_id in ids or tokenizer.decode(ids) == source.decode(encoded.ids)

    check()


def test_added_tokens_of_a_tokenizer_json(tmp_path: Path) -> None:
    vocabulary = portable.build(write_json(tmp_path / "tokenizer.json"), tmp_path / "out")
    tokenizer = portable.load(tmp_path / "out")
    assert vocabulary.kinds[:2] == ("unused", "unknown") and vocabulary.kinds[-5:] == (
        "unused",
        "unused",
        "normal",
        "bos",
        "eos",
    )
    assert vocabulary.pieces[-3] == "[mask]" and "[mask]" in tokenizer.tokenize(
        "赤い[MASK]丸"
    )  # its normaliser lower-cases
    ids = tokenizer("[EXTRA]丸[BEYOND][PAD]").input_ids[1:-1]
    assert "unused" not in {
        vocabulary.kinds[i] for i in ids
    } and "丸" in tokenizer.convert_ids_to_tokens(ids)  # their names are plain text


# --- folders and hub names ---


def test_a_folders_sentencepiece_model_goes_first(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    write_json(folder / "tokenizer.json")
    assert unigram.find(folder) == folder / "tokenizer.json"
    for name in ("some.model", "sentencepiece.model", "tokenizer.model", "spiece.model"):
        shutil.copy(SPIECE, folder / name)
        assert unigram.find(folder) == folder / name
    files = []
    for i, source in enumerate((folder, str(folder / "spiece.model"), SPIECE)):
        portable.build(source, tmp_path / str(i))
        files.append((tmp_path / str(i) / "tokenizer.json").read_bytes())
    assert files[0] == files[1] == files[2]


def test_a_lower_casing_folder_lower_cases(tmp_path: Path) -> None:
    shutil.copy(SPIECE, tmp_path / "spiece.model")
    (tmp_path / "tokenizer_config.json").write_text(
        '{"do_lower_case": true, "tokenizer_class": "T5Tokenizer"}'
    )
    case = Case(tmp_path, tmp_path / "out", tmp_path / "spiece.model")
    assert case.ids("A RED 丸") == case.expected("a red 丸") != case.expected("A RED 丸")


def test_of_a_hub_repository_only_the_tokenizer_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository, fetched = tmp_path / "repository", tmp_path / "fetched"
    (repository / "onnx").mkdir(parents=True)
    for name in (
        "tokenization_own.py",
        "model.safetensors",
        "pytorch_model.bin",
        "onnx/spiece.model",
        "README.md",
    ):
        (repository / name).write_text("never fetched")
    shutil.copy(SPIECE, repository / "spiece.model")
    (repository / "tokenizer_config.json").write_text("{}")

    def snapshot_download(name: str, **patterns: Any) -> str:
        assert name == "organisation/name"
        names = [
            path.relative_to(repository).as_posix()
            for path in repository.rglob("*")
            if path.is_file()
        ]
        fetched.mkdir()
        for wanted in filter_repo_objects(names, **patterns):
            shutil.copy(repository / wanted, fetched / wanted)
        return str(fetched)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert unigram.find("organisation/name") == fetched / "spiece.model"
    assert sorted(path.name for path in fetched.iterdir()) == [
        "spiece.model",
        "tokenizer_config.json",
    ]


# --- refusals ---


def without_unknown(path: Path) -> Path:
    """Toyworld's model without its unknown piece, which sentencepiece loads without a word."""
    proto = ModelProto.FromString(SPIECE.read_bytes())
    pieces = [piece for piece in proto.pieces if piece.type != piece.UNKNOWN]
    del proto.pieces[:]
    proto.pieces.extend(pieces)
    path.write_bytes(proto.SerializeToString())
    return path


def folder_of(path: Path, **files: str) -> Path:
    path.mkdir()
    for name, content in files.items():
        (path / name.replace("_json", ".json").replace("_model", ".model")).write_text(content)
    return path


def test_what_cannot_be_carried_is_one_line(tmp_path: Path) -> None:
    good, spaces = SPIECE.read_bytes(), pre_tokenizers.BertPreTokenizer()
    for length in [
        *range(0, 12_000, 97),
        len(good) // 2,
        len(good) * 9 // 10,
    ]:  # sentencepiece loads some of these without a word
        (tmp_path / f"cut_{length}.model").write_bytes(good[:length])
    (tmp_path / "cut.json").write_bytes(
        write_json(tmp_path / "whole" / "tokenizer.json").read_bytes()[:999]
    )
    bad: dict[str | Path, str] = dict.fromkeys(
        tmp_path.glob("cut_*.model"), "no SentencePiece model"
    ) | {
        tmp_path / "absent.model": "there is no such file; give",
        "organisation/name": "cannot be fetched from the hub (",  # the tests run offline
        write_model(tmp_path / "bpe.model", model_type="bpe"): "of type BPE",
        write_model(
            tmp_path / "suffix.model", treat_whitespace_as_suffix=True
        ): "spaces as suffixes",
        tmp_path / "cut.json": "no tokenizer.json, or a damaged one (",
        write_json(
            tmp_path / "bpe" / "tokenizer.json", model=models.BPE()
        ): "a tokenizer of type BPE",
        write_json(
            tmp_path / "words" / "tokenizer.json", model=models.WordPiece()
        ): "a tokenizer of type WordPiece",
        write_json(tmp_path / "no unknown" / "tokenizer.json", unk_id=None): "no unknown token",
        write_json(
            tmp_path / "twice" / "tokenizer.json", more=[("赤", -3.0)]
        ): "holds '赤' 2 times",
        write_json(tmp_path / "empty" / "tokenizer.json", more=[("", -3.0)]): "an empty piece",
        without_unknown(tmp_path / "unknown.model"): "no unknown piece; give",
        write_json(
            tmp_path / "no spaces" / "tokenizer.json", pre_tokenizer=spaces
        ): "up as 'ab', not as text with ▁ for spaces",
        write_json(
            tmp_path / "bytes" / "tokenizer.json", pre_tokenizer=pre_tokenizers.ByteLevel()
        ): "not as text with ▁",
        folder_of(tmp_path / "nothing", vocab_txt="a"): "neither a SentencePiece model",
        folder_of(
            tmp_path / "several", a_model="", b_model=""
        ): "holds a.model, b.model; give the path of one",
        folder_of(
            tmp_path / "not json", spiece_model="", tokenizer_config_json="{"
        ): "no valid JSON",
        folder_of(
            tmp_path / "mecab",
            vocab_txt="a",
            tokenizer_config_json='{"tokenizer_class": "BertJapaneseTokenizer"}',
        ): "code of BertJapanese",
        folder_of(
            tmp_path / "code",
            spiece_model="",
            tokenizer_config_json=json.dumps({"auto_map": {"AutoTokenizer": ["x.X", None]}}),
        ): "(auto_map)",
    }
    for source, cause in bad.items():
        with pytest.raises(DataError) as error:
            portable.build(source, tmp_path / "out")
        assert (
            str(source) in str(error.value)
            and cause in str(error.value)
            and "\n" not in str(error.value)
        )
    assert not (tmp_path / "out").exists()
