"""Translates captions to English, and back. The door to CTranslate2; the alternative is
transformers' `generate`.

In:  `Translator` settings: a Marian (opus-mt-ja-en), NLLB, M2M100 or MADLAD model in transformers'
     layout.
Out: a function from texts to their translations, in order. Decoding is greedy or by beam search, so
     equal texts get equal translations. Each text is translated by itself: batching changes only
     the last bits of scores, which can decide only near ties. CTranslate2's copy of the model is in
     `<folder>/<model's name>-ct2`, made once, whole or not at all.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import ctranslate2
import torch
from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils import logging

from configs import model_folder
from configs.errors import DataError, RecipeError, explained, first_line
from configs.files import whole_folder
from configs.languages import LANGUAGES
from configs.schema.captions import Translator
from corpora.captions.devices import device
from corpora.executor import pieces

# the shortest training length among the families; no caption is that long
MAX_SOURCE_TOKENS = 512

Translate = Callable[[list[str]], list[str]]


class Tags(NamedTuple):
    """How a model family is told the languages to translate between. All tags are in its
    vocabulary.
    """

    before_text: str = ""
    source_language: str | None = None
    source_token: str | None = None
    first_token: str | None = None  # of the translation


def families(source: str, target: str) -> dict[str, Tags]:
    nllb = {"en": "eng_Latn"} | {code: one.nllb for code, one in LANGUAGES.items()}
    m2m = {"en": "en"} | {code: one.m2m for code, one in LANGUAGES.items()}
    return {
        "NLLB": Tags("", nllb[source], nllb[source], nllb[target]),
        "M2M100": Tags("", m2m[source], f"__{m2m[source]}__", f"__{m2m[target]}__"),
        "MADLAD": Tags(f"<2{target}> "),
        "Marian": Tags(),  # a model of one direction
    }


# the families of each model type of config.json
KINDS = {"m2m_100": ("NLLB", "M2M100"), "t5": ("MADLAD",), "marian": ("Marian",)}


class Tokenizer:
    """A model's own tokenizer, and its family's tags."""

    def __init__(self, reference: str, source: str = "ja", target: str = "en") -> None:
        """Raises DataError for a model of an unknown family."""
        tags = families(source, target)
        model_folder.check(reference)
        with (
            explained(f"{reference}: its tokenizer cannot be loaded", "give a translation model"),
            _quiet(),
        ):
            kind = AutoConfig.from_pretrained(reference, trust_remote_code=False).model_type
            # transformers 5 would rebuild T5's tokenizer with T5's unknown id, which is not
            # MADLAD's; the saved one is right
            tokenizer = PreTrainedTokenizerFast if kind == "t5" else AutoTokenizer
            stock = tokenizer.from_pretrained(reference, trust_remote_code=False)
        known = stock.get_vocab()
        fitting = [
            family
            for family in KINDS.get(kind, ())
            if all(one in known for one in _tokens(tags[family]))
        ]
        if not fitting:
            raise DataError(
                f"{reference}: a {kind} whose vocabulary is none of {', '.join(tags)} from "
                f"{source} to {target}; give one of them"
            )
        self.family, self.stock = fitting[0], stock
        self.tags = tags[self.family]
        if self.tags.source_language:
            self.stock.src_lang = self.tags.source_language

    @property
    def first_id(self) -> int | None:
        """The id that every translation begins with, after the decoder's start token; None if there
        is none.
        """
        return (
            self.stock.convert_tokens_to_ids(self.tags.first_token)
            if self.tags.first_token
            else None
        )

    def encode(self, texts: list[str]) -> list[list[int]]:
        before = self.tags.before_text
        return self.stock(
            [before + text for text in texts], truncation=True, max_length=MAX_SOURCE_TOKENS
        ).input_ids

    def decode(self, ids: list[int]) -> str:
        # transformers 5 would decode Marian's English with its Japanese pieces
        own = {"use_source_tokenizer": False} if self.family == "Marian" else {}
        return self.stock.decode(
            [one for one in ids if one != self.first_id], skip_special_tokens=True, **own
        ).strip()


def load(settings: Translator, folder: Path, source: str = "ja", target: str = "en") -> Translate:
    """The recipe's translator, on the GPU if there is one; `folder` keeps CTranslate2's copy.

    Raises DataError for a model that is missing, damaged or no translator, RecipeError for a
    precision that this machine does not support.
    """
    reference = settings.model.path
    tokenizer = Tokenizer(reference, source, target)
    if settings.engine == "transformers":
        of_texts = _by_transformers(reference, tokenizer, settings)
    else:
        of_texts = _by_ctranslate2(converted(reference, folder), tokenizer, settings)

    def translate(texts: list[str]) -> list[str]:
        # CTranslate2 translates an empty text to nothing, transformers to something
        not_empty = [text for text in texts if text.strip()]
        translations = iter(of_texts(not_empty) if not_empty else [])
        return [next(translations) if text.strip() else "" for text in texts]

    return translate


def converted(reference: str, folder: Path) -> Path:
    """The folder of CTranslate2's copy of the model, made if it does not exist. Raises
    DataError.
    """
    target = folder / f"{Path(reference).name}-ct2"
    if not target.is_dir():
        with (
            whole_folder(target) as partial,
            _quiet(),
            explained(
                f"{reference}: CTranslate2 cannot convert it", "set the engine to transformers"
            ),
        ):
            _Converter(reference).convert(str(partial), force=True)
    return target


class _Converter(ctranslate2.converters.TransformersConverter):
    def load_model(self, *arguments: Any, **others: Any) -> Any:
        model = super().load_model(*arguments, **others, use_safetensors=True)
        # Transformers 5 reports every T5 as tied. CTranslate2 would then scale MADLAD's logits down
        # and spoil its beam search: whether to scale is now in `scale_decoder_outputs`.
        model.config.tie_word_embeddings = getattr(
            model.config, "scale_decoder_outputs", model.config.tie_word_embeddings
        )
        return model


def _by_ctranslate2(folder: Path, tokenizer: Tokenizer, settings: Translator) -> Translate:
    gpus = ctranslate2.get_cuda_device_count()
    where = (
        {"device": "cuda", "device_index": pieces.worker_number % gpus}
        if gpus
        else {"device": "cpu", "intra_threads": torch.get_num_threads()}
    )
    try:
        model = ctranslate2.Translator(str(folder), compute_type=settings.precision, **where)
    except ValueError as error:
        raise RecipeError(
            f"the precision {settings.precision} is not supported on this {where['device']} "
            f"({first_line(error)}); choose another"
        ) from None
    except RuntimeError as error:
        raise DataError(
            f"{folder}: CTranslate2 cannot load it ({first_line(error)}); remove the folder, it "
            "will be made again"
        ) from None
    first = tokenizer.tags.first_token

    def translate(texts: list[str]) -> list[str]:
        sources = [tokenizer.stock.convert_ids_to_tokens(ids) for ids in tokenizer.encode(texts)]
        found = model.translate_batch(
            sources,
            target_prefix=[[first]] * len(sources) if first else None,
            beam_size=settings.beams,
            batch_type="tokens",
            max_batch_size=settings.tokens_per_batch,
            # an empty answer is allowed: the guards drop it
            min_decoding_length=0,
            max_decoding_length=settings.max_new_tokens,
            max_input_length=0,  # the tokenizer has truncated the texts
        )
        return [
            tokenizer.decode(tokenizer.stock.convert_tokens_to_ids(one.hypotheses[0]))
            for one in found
        ]

    return translate


def _by_transformers(reference: str, tokenizer: Tokenizer, settings: Translator) -> Translate:
    with (
        explained(
            f"{reference}: the translator cannot be loaded",
            "fetch the model again, or give another",
        ),
        _quiet(),
    ):
        model = AutoModelForSeq2SeqLM.from_pretrained(
            reference, dtype=torch.float32, trust_remote_code=False, use_safetensors=True
        )
    model.eval().to(device())
    # with the model's own limit beside ours, transformers would warn at every batch
    model.generation_config.max_length = None
    search: dict[str, Any] = {
        "num_beams": settings.beams,
        "do_sample": False,
        "length_penalty": 1.0,
        "early_stopping": False,
    }
    search |= {"max_new_tokens": settings.max_new_tokens, "forced_bos_token_id": tokenizer.first_id}

    @torch.inference_mode()
    def translate(texts: list[str]) -> list[str]:
        ids = tokenizer.encode(texts)
        result = [""] * len(texts)
        for rows in batches([len(one) for one in ids], settings.tokens_per_batch):
            inputs = tokenizer.stock.pad(
                {"input_ids": [ids[row] for row in rows]}, return_tensors="pt"
            ).to(device())
            found = model.generate(
                input_ids=inputs.input_ids, attention_mask=inputs.attention_mask, **search
            )
            for row, one in zip(rows, found.tolist(), strict=True):
                result[row] = tokenizer.decode(one)
        return result

    return translate


def batches(lengths: list[int], tokens: int) -> Iterator[list[int]]:
    """Rows of similar length, longest first, at most `tokens` per batch with padding; a longer row
    goes alone.
    """
    rows = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    start = 0
    while start < len(rows):
        stop = start + max(1, tokens // max(1, lengths[rows[start]]))
        yield rows[start:stop]
        start = stop


def _tokens(tags: Tags) -> list[str]:
    return [one for one in (tags.before_text.strip(), tags.source_token, tags.first_token) if one]


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences transformers' progress bars, reports and warnings."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
