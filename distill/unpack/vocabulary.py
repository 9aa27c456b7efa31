"""CLIP's byte-pair vocabulary as a tokenizer folder of transformers.

In:  the list of merges that open_clip ships (`bpe_simple_vocab_16e6.txt.gz`, OpenAI's own file).
Out: `vocab.json`, `merges.txt`, `special_tokens_map.json`, `tokenizer_config.json`.
"""

import gzip
import json
from pathlib import Path
from typing import Any

from configs.errors import DataError
from configs.files import write_json
from distill.encoders import open_clip_weights

VERSION = "#version: 0.2"  # the first line of every merges.txt, which readers skip
SPECIAL = ("<|startoftext|>", "<|endoftext|>")
WORD_END = "</w>"
# CLIP's vocabulary of 49,408: 256 bytes, the same at the end of a word, the merges, two specials.
MERGES = 49408 - 2 * 256 - 2


def write(folder: Path, settings: dict[str, Any]) -> None:
    """`settings`: the `tokenizer_config.json`. Raises DataError."""
    merges = _merges()
    bytes_ = _alphabet()
    tokens = [
        *bytes_,
        *(one + WORD_END for one in bytes_),
        *("".join(one.split()) for one in merges),
        *SPECIAL,
    ]
    folder.mkdir(parents=True)
    vocabulary = {token: number for number, token in enumerate(tokens)}
    text = json.dumps(vocabulary, ensure_ascii=False)
    (folder / "vocab.json").write_text(text, encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join([VERSION, *merges, ""]), encoding="utf-8")
    names = ("bos_token", "eos_token", "pad_token", "unk_token")
    write_json(folder / "special_tokens_map.json", {name: settings[name] for name in names})
    write_json(folder / "tokenizer_config.json", settings)


def _merges() -> list[str]:
    path = open_clip_weights.merges_file()
    try:
        lines = gzip.decompress(path.read_bytes()).decode().split("\n")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: cannot be read ({error}); install open_clip_torch again"
        ) from None
    return lines[1 : 1 + MERGES]


def _alphabet() -> list[str]:
    """The characters that stand for the 256 bytes, in the order of their ids: printable ones for
    themselves, then the others as those from U+0100 on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = 256 - len(printable)
    return [chr(code) for code in [*printable, *range(0x100, 0x100 + others)]]
