"""Trains emojiworld's tokenizers: SentencePiece unigram models, the Japanese one as large as it is
in life, so that frequent words are pieces and rare names fall into several.

    python -m corpora.miniature.make_emoji_tokenizer TEXT...
    python -m corpora.miniature.make_emoji_tokenizer --language ko

In:  real text: files of sentences, a line each, or tables (`.tsv`) with the columns `ja` and `en`;
     and of emojiworld every name once and some captions. The model in the repository was made from
     Tanaka's corpus (50,000 pairs, CC BY 2.0 FR), YouCook2-JP (9,270 captions, MIT) and
     吾輩は猫である (copyright expired); the English of the tables is part of the text. The Korean
     one was made from emojiworld alone.
Out: `spiece.model` or `spiece_ko.model` among emojiworld's models: `PIECES` pieces, byte fallback,
     ids 0 unk, 1 bos, 2 eos, 3 pad. Minutes on one core; the same text gives the same file.
"""

import argparse
import csv
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from configs.references import EMOJIWORLD_MODELS
from corpora.emojiworld import captions
from corpora.emojiworld.concepts import everything, vocabulary
from corpora.miniature.make_tokenizer import train_unigram

PIECES = {"ja": 8_000, "ko": 2_000}
FILES = {"ja": "spiece.model", "ko": "spiece_ko.model"}
CAPTIONS, CONCEPTS, SEED = 2_000, 900, 1_000
LONGEST = 400  # characters of a line: prose comes as paragraphs


def train(texts: list[Path], path: Path, language: str = "ja") -> None:
    """Writes the model whole or not at all."""
    train_unigram(
        path,
        _lines(texts, language),
        ("normalizer_spec", "normalization_rule_tsv"),
        _width_rules(),
        vocab_size=PIECES[language],
        character_coverage=0.9995,  # SentencePiece's advice for Japanese; the rest: bytes
        max_sentence_length=4 * LONGEST,
    )


def _width_rules() -> Iterator[str]:
    """What NFKC does to full-width and half-width characters, in SentencePiece's format: its own
    table of all of NFKC would be two thirds of the file.
    """
    single = [chr(code) for code in (0x3000, *range(0xFF01, 0xFFEF))]
    voiced = [chr(kana) + mark for kana in range(0xFF66, 0xFF9E) for mark in "\uff9e\uff9f"]
    for text in single + voiced:
        plain = unicodedata.normalize("NFKC", text)
        if plain != text and (len(text) == 1 or len(plain) == 1):
            before, after = (" ".join(f"{ord(one):X}" for one in part) for part in (text, plain))
            yield f"{before}\t{after}\n"


def _lines(texts: list[Path], language: str) -> Iterator[str]:
    for path in texts:
        with path.open(encoding="utf-8", newline="") as file:
            if path.suffix == ".tsv":
                for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
                    yield from (row["ja"], row["en"])
            else:
                for line in file:
                    yield from (part for part in line.strip().split("。") if part)
    for concept in everything():
        yield from (*concept.names(language), *concept.en)
    size = len(vocabulary(CONCEPTS))
    for caption in captions.pairs(CAPTIONS, "train", SEED, size, language=language):
        yield from (caption.text, caption.en)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m corpora.miniature.make_emoji_tokenizer",
        description="Trains one of emojiworld's tokenizers.",
        allow_abbrev=False,
    )
    parser.add_argument("texts", type=Path, nargs="*", metavar="TEXT", help="files of real text")
    parser.add_argument(
        "--out",
        type=Path,
        help="the file to write (default: among emojiworld's models)",
    )
    parser.add_argument(
        "--language", choices=captions.LANGUAGES, default="ja", help="(default %(default)s)"
    )
    arguments = parser.parse_args(argv)
    out = arguments.out or EMOJIWORLD_MODELS / FILES[arguments.language]
    train(arguments.texts, out, arguments.language)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
