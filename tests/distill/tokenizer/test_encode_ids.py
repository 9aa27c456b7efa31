"""Fast tokenising gives the tokenizer's own ids, for every text: real captions, hostile Unicode,
ties, steps that are not known.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sentencepiece.sentencepiece_model_pb2 import ModelProto
from test_portable import MODELS, SENTENCES, SHARED, TRICKY, open_case
from test_unigram import ATOMS, PROMPTS
from tokenizers import Tokenizer, normalizers, pre_tokenizers

from configs.references import TOYWORLD_MODELS
from distill.encoders.family import SDXL
from distill.encoders.teacher import load_tokenizer
from distill.tokenizer import portable
from distill.tokenizer.fast import encode_ids
from distill.tokenizer.fast.encode_ids import Encoder

CAPTIONS = ("youcook2_jp.tsv", "flickr30k_valid_ja_mt.tsv", "tanaka_train.tsv", "wmt22.ja-en.tsv")
WORDS = [
    "白い",
    "背景に",
    "大きい青い四角",
    "、",
    "１つの",
    "！",
    " a red",
    " circle",
    "don't",
    "'s",
    " ",
    "  ",
    "12",
    "<",
    "0x41>",
    "!",
]
TEXTS = PROMPTS | st.lists(st.sampled_from(WORDS + ATOMS), max_size=40).map("".join)
UNREAD = "llm-jp/code10K_en20K_ja30K.ver2.2_hf_fast.b4.tokenizer.json"


@pytest.fixture(scope="module", params=[*MODELS, "tokenizer.json", *SDXL.parts])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("tokenizer")
    if request.param in SDXL.parts:
        return load_tokenizer(str(TOYWORLD_MODELS / "base"), request.param)
    if request.param != "tokenizer.json":
        return open_case(request.param, folder).tokenizer
    if not (SHARED / "tokenizers" / UNREAD).is_file():
        pytest.skip(
            f"{UNREAD} is not there: ../shared/data beside the checkout holds the real tokenizers"
        )
    portable.build(SHARED / "tokenizers" / UNREAD, folder)
    return portable.load(folder)


@pytest.fixture(scope="module")
def encoder(tokenizer: Any) -> Encoder:
    return Encoder(tokenizer)


def expected(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    ids: list[list[int]] = tokenizer(
        texts, truncation=True, max_length=tokenizer.model_max_length
    ).input_ids
    return ids


def found(encoder: Encoder, texts: list[str]) -> list[list[int]]:
    ids, lengths = encoder(texts)
    assert ids.dtype == np.uint32 and lengths.sum() == len(ids) and len(lengths) == len(texts)
    return [row.tolist() for row in np.split(ids, np.cumsum(lengths)[:-1])] if texts else []


def test_captions(tokenizer: Any, encoder: Encoder) -> None:
    """Their parts have ids of their own: few texts go through the tokenizer whole."""
    texts = [*SENTENCES, *TRICKY]
    assert found(encoder, texts) == expected(tokenizer, texts) and found(encoder, []) == []
    assert encoder.parts is not None and 100 < sum(
        row != encode_ids.UNSURE for row in encoder.parts.values()
    ) > 0.8 * len(encoder.parts)


def test_real_captions(tokenizer: Any, encoder: Encoder) -> None:
    for name in CAPTIONS:
        if not (SHARED / "pairs" / name).is_file():
            pytest.skip(
                f"{name} is not there: ../shared/data beside the checkout holds real captions"
            )
        rows = (SHARED / "pairs" / name).read_text(encoding="utf-8").split("\n")[1:2501]
        for side in (0, 1):
            texts = [row.split("\t")[side] for row in rows if row]
            for start in range(0, len(texts), 2000):
                part = texts[start : start + 2000]
                assert found(encoder, part) == expected(tokenizer, part)


@settings(max_examples=150, deadline=None)
@given(texts=st.lists(TEXTS, min_size=1, max_size=6))
@example(["", " ", "a", " a", "a ", " a b ", "a  b", "赤 い", " 赤", "赤　い"])
@example(
    [
        "<pad>",
        "</s>",
        "a</s>b",
        "<|endoftext|>",
        "a <|endoftext|> b",
        "a!b ! c",
        "<|unknown token|>",
        "<<0x41><0x42>",
        "a<0x41>",
    ]
)
@example(
    ["赤い丸" * 40, "か\u3099" * 90, "ー" * 200, " a" * 90, "a" * 300, "\x00", "ｶﾞﾊﾟ", "👩‍👩‍👧赤"]
)
def test_any_text(tokenizer: Any, encoder: Encoder, texts: list[str]) -> None:
    assert found(encoder, texts) == expected(tokenizer, texts)


def test_ties_are_left_to_the_tokenizer(tmp_path: Path) -> None:
    """Equally good segmentations: which one is taken depends on the sum of all that stands
    before.
    """
    proto = ModelProto.FromString((TOYWORLD_MODELS / "spiece.model").read_bytes())
    for piece, score in (
        ("龘", -6.8),
        ("龘龘", -7.3),
        ("龘龘龘", -8.5),
        ("一", -3.3),
        ("二", -4.4),
        ("一二", -7.7),
        ("二一", -7.7),
    ):
        proto.pieces.add(piece=piece, score=score, type=1)
    (tmp_path / "spiece.model").write_bytes(proto.SerializeToString())
    portable.build(tmp_path / "spiece.model", tmp_path / "tokenizer")
    tokenizer = portable.load(tmp_path / "tokenizer")
    encoder = Encoder(tokenizer)
    texts = [
        first + tied * n
        for first in ("", "赤い丸", "背景は白")
        for tied in ("龘", "一二", "二一")
        for n in range(40)
    ]
    assert found(encoder, texts) == expected(tokenizer, texts)
    assert (
        encoder.parts is not None
        and encoder.parts[encode_ids.START + "龘" * 5] == encode_ids.UNSURE
    )


STEPS: dict[str, Callable[[Tokenizer], None]] = {
    "a normaliser": lambda backend: setattr(
        backend, "normalizer", normalizers.Replace("い丸", "る")
    ),
    "a pre-tokenizer": lambda backend: setattr(
        backend, "pre_tokenizer", pre_tokenizers.Metaspace(split=True)
    ),
    "a token": lambda backend: backend.add_tokens(["い丸"]) and None,
}


@pytest.mark.parametrize("change", STEPS.values(), ids=STEPS)
def test_what_is_not_known_is_left_to_the_tokenizer(
    change: Callable[[Tokenizer], None], tmp_path: Path
) -> None:
    portable.build(TOYWORLD_MODELS / "spiece.model", tmp_path)
    backend = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    change(backend)
    (tmp_path / "tokenizer.json").write_text(
        json.dumps(json.loads(backend.to_str())), encoding="utf-8"
    )
    tokenizer = portable.load(tmp_path)
    encoder = Encoder(tokenizer)
    assert encoder.cuts is None and found(encoder, ["赤い丸", *SENTENCES]) == expected(
        tokenizer, ["赤い丸", *SENTENCES]
    )


def test_the_memory_of_parts_is_bounded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(encode_ids, "PARTS_KEPT", 20)
    portable.build(TOYWORLD_MODELS / "spiece.model", tmp_path)
    tokenizer = portable.load(tmp_path)
    encoder = Encoder(tokenizer)
    for start in range(0, 100, 2):
        assert found(encoder, SENTENCES[start : start + 2]) == expected(
            tokenizer, SENTENCES[start : start + 2]
        )
        assert encoder.parts is not None and len(encoder.parts) < 100
