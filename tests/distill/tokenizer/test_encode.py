"""Token ids of many texts at once are the tokenizer's own, for every tokenizer and every text."""

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_portable import MODELS, SENTENCES, SHARED, TRICKY, open_case
from test_unigram import ATOMS, PROMPTS

from configs.references import TOYWORLD_MODELS
from distill.encoders.family import SDXL
from distill.encoders.teacher import load_tokenizer
from distill.tokenizer import portable
from distill.tokenizer.encode import batch_encoder

WORDS = "白い 背景に 大きい青い四角 、 １つの ！ don't 's 12 < 0x41> !".split()
SPACED = [*WORDS, *ATOMS, " a red", " circle", " ", "  "]
TEXTS = PROMPTS | st.lists(st.sampled_from(SPACED), max_size=40).map("".join)
UPSTREAM = "llm-jp/code10K_en20K_ja30K.ver2.2_hf_fast.b4.tokenizer.json"


@pytest.fixture(scope="module", params=[*MODELS, "tokenizer.json", *SDXL.parts])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("tokenizer")
    if request.param in SDXL.parts:
        return load_tokenizer(str(TOYWORLD_MODELS / "base"), SDXL.parts[request.param])
    if request.param != "tokenizer.json":
        return open_case(request.param, folder).tokenizer
    if not (SHARED / "tokenizers" / UPSTREAM).is_file():
        pytest.skip(f"{UPSTREAM} is missing: ../shared/data beside the checkout has it")
    portable.build(SHARED / "tokenizers" / UPSTREAM, folder)
    return portable.load(folder)


def check(tokenizer: Any, texts: list[str]) -> None:
    expected = tokenizer(texts, truncation=True, max_length=tokenizer.model_max_length).input_ids
    ids, lengths = batch_encoder(tokenizer)(texts)
    assert ids.dtype == np.uint32 and lengths.tolist() == list(map(len, expected))
    assert ids.tolist() == [token for row in expected for token in row]


def test_captions(tokenizer: Any) -> None:
    check(tokenizer, [*SENTENCES, *TRICKY])


@settings(max_examples=50, deadline=None)
@given(texts=st.lists(TEXTS, min_size=1, max_size=6))
@example(["</s>", "a</s>b", "a <|endoftext|> b", "a!b ! c", "<|unknown token|>", "<<0x41><0x42>"])
@example(["赤い丸" * 40, "か\u3099" * 90, " a" * 90, "a" * 300, "\x00", "ｶﾞﾊﾟ", "👩‍👩‍👧赤"])
def test_any_text(tokenizer: Any, texts: list[str]) -> None:
    check(tokenizer, texts)
