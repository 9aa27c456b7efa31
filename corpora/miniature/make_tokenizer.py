"""Trains toyworld's tokenizer, a miniature of line-corporation's: SentencePiece unigram, byte
fallback, ids 0 unk, 1 bos, 2 eos, 3 pad.

    python -m corpora.miniature.make_tokenizer

In:  toyworld's training captions in both languages. The Japanese is split into words as by a
     morphological analyser, so that pieces are words, not phrases. A Japanese student reads English
     prompts too, so English words are pieces; other words are spelt, other scripts as bytes.
Out: `spiece.model` among toyworld's models. Takes seconds on one core; the same captions give the
     same file.
"""

import argparse
import io
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import sentencepiece
from sentencepiece.sentencepiece_model_pb2 import ModelProto

from configs.files import whole
from configs.references import TOYWORLD_MODELS
from corpora.toyworld import captions, lexicon

CAPTIONS = 20_000
SEED = 1_000
# Every kana and every printable ASCII character is a piece, so that other words are spelt, not
# broken into bytes.
ASCII = "".join(map(chr, range(ord("!"), ord("~") + 1)))
KANA = (
    "".join(map(chr, [*range(ord("ぁ"), ord("ゖ") + 1), *range(ord("ァ"), ord("ヺ") + 1)])) + "ー"
)
DELIMITER = "|"
SPACE = "▁"
MOST_PIECES = 1_000  # more than there are: bytes, control pieces, characters and all words


def train(path: Path) -> None:
    """Writes the model whole or not at all."""
    pairs = list(captions.pairs(CAPTIONS, "train", SEED))
    texts = [lexicon.words_of(caption.text) for caption in pairs] + [
        english_words(caption.en) for caption in pairs
    ]
    # By default the trainer seeds itself with substrings that several distinct words share, and a
    # small world has too few of those.
    counts = Counter(word for words in texts for word in words)
    train_unigram(
        path,
        map(DELIMITER.join, texts),
        ("trainer_spec", "seed_sentencepieces_file"),
        (f"{word}\t{count}\n" for word, count in counts.items()),
        vocab_size=MOST_PIECES,
        character_coverage=1.0,
        pretokenization_delimiter=DELIMITER,
        hard_vocab_limit=False,
    )


def english_words(text: str) -> list[str]:
    """Words as SentencePiece writes them, with the space before them; commas and semicolons
    separate.
    """
    return [part for word in text.split() for part in re.split("([,;])", SPACE + word) if part]


def train_unigram(
    path: Path,
    texts: Iterator[str],
    read_from_file: tuple[str, str],
    lines: Iterable[str],
    **settings: Any,
) -> None:
    """Writes a model of either world, whole or not at all, as line-corporation's: byte fallback,
    NFKC, ids 0 unk, 1 bos, 2 eos, 3 pad.

    `read_from_file`: the part of the model and the setting of SentencePiece's trainer that names a
    file, which holds `lines`. `settings`: others that differ.
    """
    part, setting = read_from_file
    model = io.BytesIO()
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".tsv") as file:
        file.writelines(lines)
        file.flush()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=texts,
            model_writer=model,
            model_type="unigram",
            byte_fallback=True,
            normalization_rule_name="nfkc",
            required_chars=KANA + ASCII,
            **(settings | {setting: file.name}),
            unk_id=0,
            bos_id=1,
            eos_id=2,
            pad_id=3,
            num_threads=1,
            minloglevel=1,
        )
    proto = ModelProto.FromString(model.getvalue())
    getattr(proto, part).ClearField(setting)  # a temporary name: the file would never be the same
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as temporary:
        temporary.write_bytes(proto.SerializeToString(deterministic=True))
    print(f"{path}: {len(proto.pieces)} pieces, {path.stat().st_size:,} bytes")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m corpora.miniature.make_tokenizer",
        description="Trains toyworld's tokenizer.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=TOYWORLD_MODELS / "spiece.model",
        help="the file to write (default %(default)s)",
    )
    train(parser.parse_args(argv).out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
