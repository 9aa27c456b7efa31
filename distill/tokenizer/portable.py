"""Converts any unigram tokenizer into a portable one that the unmodified SDXL pipelines load.
Training uses the same files.

In:  a SentencePiece unigram model, a Unigram tokenizer.json, or a folder or hub repository with one
     of them (`distill/tokenizer/unigram.py` reads it).
Out: a folder with `tokenizer.json`, `tokenizer_config.json` and `special_tokens_map.json`, written
     by hand: `save_pretrained` of transformers 5 writes class names that transformers 4 cannot
     load.

Rows of the vocabulary: the source's pieces in the source's order, without its BOS and EOS; filler
rows up to the requested multiple; BOS = V-2 and EOS = V-1. So V is the source's size if no filler
is needed, and each of CLIP's pooling rules (highest id, first EOS) finds the EOS. Padding is with
EOS, as in CLIP-L: one tokenizer serves both encoders.

No text produces a special id: rows without a text have a space in their names, which the model
never sees; BOS and EOS have CLIP's names but are not in the unigram model; and
`split_special_tokens` makes the library read their names in a prompt as text.

Of spaces only those before a letter of a script that writes spaces between words are read. Every
other one is left out, also the one that unigram models put before each text. So 大きい 赤い 丸 has
the ids of 大きい赤い丸. So have, together, the parts in which other programs tokenise a prompt with
weights. CLIP's own tokenizer does as much: to it a space only ends a word.

Otherwise the ids are the source's, shifted by the removed rows. For a tokenizer.json that always
holds. A SentencePiece model can differ in these cases:
- ties: a repetitive text can have equally likely segmentations, and sentencepiece's float32 sums
  may choose another one than float64;
- composition: a combining mark after a character that the normalizer expands (`㎏́`), or combining
  marks in non-canonical order, are composed here only;
- user-defined symbols that the normalizer changes (sentencepiece matches them first); rules for
  several characters in a custom normalizer, other than composition; a spelled-out byte ("<0x41>")
  if a piece contains "<0"; U+FFF0; a piece with the name of our BOS or EOS;
- a letter that is newer than a library's tables of Unicode, behind a space.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from transformers import AutoTokenizer, PreTrainedTokenizerFast

from configs import model_folder
from configs.errors import DataError, explained
from configs.files import whole
from distill.tokenizer import unigram
from distill.tokenizer.unigram import SPACE, PieceKind, Unigram

BOS_TOKEN, EOS_TOKEN, UNK_TOKEN = "<|startoftext|>", "<|endoftext|>", "<|unknown token|>"
MODEL_MAX_LENGTH = 77  # positions of SDXL's text encoders
FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
# \u30fc, the mark of a long vowel, belongs to hiragana and katakana, so to neither class.
SPACED_LETTER = r"[\p{L}&&[^\p{Han}\p{Hiragana}\p{Katakana}\x{30fc}]]"
UNREAD_SPACES = {
    "type": "Split",
    "pattern": {"Regex": f"{SPACE}(?!{SPACED_LETTER})"},
    "behavior": "Removed",
    "invert": False,
}
# In transformers 5, CLIPTokenizer (the class people write by habit) takes only the vocabulary from
# tokenizer.json and encodes Japanese as unknown tokens. With a string for the list of merges it
# raises an error instead; the other classes ignore this key.
NO_CLIP_TOKENIZER = "none: load this with AutoTokenizer, CLIPTokenizer cannot read it"

Kind = PieceKind | Literal["filler", "bos", "eos"]


@dataclass(frozen=True)
class Vocabulary:
    """The rows of the student's token embeddings in id order: names as in `tokenizer.json`, kinds,
    unigram scores (log probabilities).
    """

    pieces: tuple[str, ...]
    kinds: tuple[Kind, ...]
    scores: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.pieces)

    @property
    def unk_id(self) -> int:
        return self.kinds.index("unknown")

    @property
    def bos_id(self) -> int:
        return len(self) - 2

    @property
    def eos_id(self) -> int:
        """Also the pad token's id."""
        return len(self) - 1

    @property
    def byte_fallback(self) -> bool:
        return "byte" in self.kinds


def build(source: str | Path, folder: str | Path, pad_vocab_to_multiple_of: int = 1) -> Vocabulary:
    """Reads a unigram tokenizer (a file, a folder or a hub name) and writes the three files into
    `folder`. Raises DataError.
    """
    model = unigram.read(unigram.find(source))
    vocabulary = _vocabulary(model, pad_vocab_to_multiple_of)
    special = {
        "bos_token": BOS_TOKEN,
        "eos_token": EOS_TOKEN,
        "unk_token": UNK_TOKEN,
        "pad_token": EOS_TOKEN,
    }
    write(
        Path(folder),
        _tokenizer_json(vocabulary, model),
        MODEL_MAX_LENGTH,
        special,
        split_special_tokens=True,
    )
    return vocabulary


def write(
    folder: Path,
    tokenizer_json: dict[str, Any],
    model_max_length: int,
    special: dict[str, str],
    **settings: bool,
) -> None:
    """Writes the three files of a tokenizer that transformers 4 and 5 load alike; `special`: its
    special tokens by role (`eos_token`, ...).
    """
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "merges": NO_CLIP_TOKENIZER,
        "model_max_length": model_max_length,
        "model_input_names": ["input_ids", "attention_mask"],
        "padding_side": "right",
        "truncation_side": "right",
        "clean_up_tokenization_spaces": False,
        **settings,
        **special,
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in zip(FILES, (tokenizer_json, config, special), strict=True):
        with whole(folder / name) as path:
            path.write_text(
                json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
            )


def load(folder: str | Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a folder `build` wrote, as the pipelines load it. Raises DataError."""
    missing = [name for name in FILES if not (Path(folder) / name).is_file()]
    if missing:
        raise DataError(
            f"{folder}: no tokenizer there, {missing[0]} is missing; run python -m vocab_init first"
        )
    model_folder.check_folder(Path(folder))
    with explained(
        f"{folder}: the tokenizer cannot be loaded", "delete it and run python -m vocab_init again"
    ):
        return AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)


def _vocabulary(model: Unigram, multiple: int) -> Vocabulary:
    rows: list[tuple[str, Kind, float]] = []
    for i, (piece, kind, score) in enumerate(model.rows):
        if kind == "unknown":
            rows.append((UNK_TOKEN, kind, score))
        elif kind == "unused" or piece in (BOS_TOKEN, EOS_TOKEN, UNK_TOKEN):
            rows.append((f"<|unused {i}|>", "unused", score))
        else:
            rows.append((piece, kind, score))
    rows += [
        (f"<|filler {i}|>", "filler", 0.0)
        for i in range(len(rows), len(rows) + -(len(rows) + 2) % multiple)
    ]
    rows += [(BOS_TOKEN, "bos", 0.0), (EOS_TOKEN, "eos", 0.0)]
    pieces, kinds, scores = zip(*rows, strict=True)
    return Vocabulary(pieces, kinds, scores)


def _tokenizer_json(vocabulary: Vocabulary, model: Unigram) -> dict[str, Any]:
    special = {
        UNK_TOKEN: vocabulary.unk_id,
        BOS_TOKEN: vocabulary.bos_id,
        EOS_TOKEN: vocabulary.eos_id,
    }
    flags = {
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }
    bos, text, eos = (
        _special(BOS_TOKEN),
        {"Sequence": {"id": "A", "type_id": 0}},
        _special(EOS_TOKEN),
    )
    # a source that is a tokenizer of ours has it already
    cuts = [one for one in model.pre_tokenizers if one != UNREAD_SPACES]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": name, **flags} for name, i in special.items()],
        "normalizer": {"type": "Sequence", "normalizers": list(model.normalizers)},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*cuts, UNREAD_SPACES]},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [bos, text, eos],
            "pair": [bos, text, eos, {"Sequence": {"id": "B", "type_id": 0}}, eos],
            "special_tokens": {
                name: {"id": name, "ids": [special[name]], "tokens": [name]}
                for name in (BOS_TOKEN, EOS_TOKEN)
            },
        },
        "decoder": unigram.decoder(model.dummy_prefix),
        "model": {
            "type": "Unigram",
            "unk_id": vocabulary.unk_id,
            "vocab": list(zip(vocabulary.pieces, vocabulary.scores, strict=True))[
                :-2
            ],  # BOS and EOS are added tokens only
            "byte_fallback": vocabulary.byte_fallback,
        },
    }


def _special(name: str) -> dict[str, Any]:
    return {"SpecialToken": {"id": name, "type_id": 0}}
