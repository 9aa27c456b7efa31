"""The slow T5Tokenizer of transformers 4, which later versions no longer have: its ids, and a
portable tokenizer that gives them.

In:  a tokenizer folder as T5Tokenizer was saved: `spiece.model`, `tokenizer_config.json`, and from
     older versions `special_tokens_map.json` and `added_tokens.json`.
Out: a `T5Tokenizer`; `write_portable`: a folder with `tokenizer.json`, `tokenizer_config.json` and
     `special_tokens_map.json`, one row in the vocabulary for each row of the encoder's table.

The slow T5Tokenizer splits the text at special tokens and encodes each segment between them with
sentencepiece. Each segment gets a leading space; with `legacy: false` only the first does. It
appends </s> unless the text ends with it, and adds no BOS.

`T5Tokenizer.encode` does this with sentencepiece, the portable tokenizer with the tokenizers
library alone. They differ as `distill/tokenizer/portable.py` lists, and for prompts that spell out
special tokens: a prompt that ends with </s> gets a second one; after a special token, whitespace
other than " " is kept with `legacy: false`; control characters beside <extra_id_0> are kept; with
`lower_case`, a special token in capitals (</S>) stays text.
"""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sentencepiece import SentencePieceProcessor
from sentencepiece.sentencepiece_model_pb2 import ModelProto

from configs.errors import DataError
from configs.files import read_json
from distill.tokenizer import portable, unigram
from distill.tokenizer.unigram import SPACE, Row

SPIECE = "spiece.model"
# the order in which transformers gives ids to those that the model does not hold
SPECIAL_TOKENS = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)
DEFAULTS = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}


@dataclass(frozen=True)
class Added:
    """A token at which the text is split before sentencepiece; `lstrip` and `rstrip` remove the
    spaces before and after it.
    """

    id: int
    lstrip: bool = False
    rstrip: bool = False


@dataclass(frozen=True)
class T5Tokenizer:
    """`special`: the text of each special token by its role (`eos_token`, ...); `added`: the added
    tokens by their text; `model_max_length`: None if none was saved; `lower_case`: as after
    `tokenizer.do_lower_case = True`.
    """

    path: Path
    config: dict[str, Any]
    special: dict[str, str]
    added: dict[str, Added]
    legacy: bool
    model_max_length: int | None
    lower_case: bool = False

    @cached_property
    def processor(self) -> Any:
        """sentencepiece, as T5Tokenizer loads it."""
        proto = ModelProto.FromString(self.path.read_bytes())
        if not self.legacy:
            proto.normalizer_spec.add_dummy_prefix = False
        return SentencePieceProcessor(model_proto=proto.SerializeToString())

    @property
    def eos_id(self) -> int:
        return self.added[self.special["eos_token"]].id

    @property
    def pad_id(self) -> int:
        return self.added[self.special["pad_token"]].id

    def is_unknown(self, token_id: int) -> bool:
        """Whether the id is <unk> or a byte: a text has it only for a character missing from the
        vocabulary.
        """
        return token_id < len(self.processor) and (
            self.processor.is_unknown(token_id) or self.processor.is_byte(token_id)
        )

    def encode(self, text: str, length: int) -> list[int]:
        """`length` ids as the pipelines need them: truncated before </s>, padded after it."""
        ids = self.text_ids(text)[: length - 1]
        ids += [] if ids[-1:] == [self.eos_id] else [self.eos_id]
        return ids + [self.pad_id] * (length - len(ids))

    def text_ids(self, text: str) -> list[int]:
        """Ids without the </s> at the end."""
        if not self.legacy and text:
            text = SPACE + text.replace(SPACE, " ")
        names = "|".join(re.escape(name) for name in sorted(self.added, key=len, reverse=True))
        if self.lower_case:  # character by character; what spells a token afterwards is one
            text = re.sub(f"({names})|(.+?)", lambda found: found[1] or found[2].lower(), text)
        parts = [part for part in re.split(f"({names})", text) if part]
        pieces: list[str] = []
        for i, part in enumerate(parts):
            if part in self.added:
                pieces.append(part)
                continue
            if i + 1 < len(parts) and self.added[parts[i + 1]].lstrip:
                part = part.rstrip()
            if i and self.added[parts[i - 1]].rstrip:
                part = part.lstrip()
            pieces += self._pieces(part)
        if not self.legacy and pieces[:1] == [SPACE] and pieces[1:2] and pieces[1] in self.added:
            pieces = pieces[1:]
        return [
            self.added[piece].id if piece in self.added else self.processor.piece_to_id(piece)
            for piece in pieces
        ]

    def _pieces(self, text: str) -> list[str]:
        if self.legacy or not text.startswith((SPACE, " ")):
            return self.processor.encode(text, out_type=str)
        unk = self.special["unk_token"]  # prepended so that sentencepiece keeps the space
        return self.processor.encode(unk + text, out_type=str)[len(self.processor.encode(unk)) :]


def read(folder: Path, lower_case: bool = False) -> T5Tokenizer:
    """Reads the folder of a saved T5Tokenizer, which never heeded a `do_lower_case` in its
    tokenizer_config.json, but does once it is set on the object. Raises DataError.
    """
    path = folder / SPIECE
    unigram.read(path)  # raises DataError if missing, damaged or not a unigram model
    config = read_json(folder / "tokenizer_config.json")
    if "added_tokens_decoder" not in config:  # before transformers 4.34
        config |= {
            name: value
            for name, value in _optional(folder / "special_tokens_map.json").items()
            if value
        }
    processor = SentencePieceProcessor(model_file=str(path))
    special = {
        role: _content(config.get(role) or DEFAULTS[role])
        for role in SPECIAL_TOKENS
        if config.get(role) or role in DEFAULTS
    }
    length = config.get("model_max_length")
    known = (
        isinstance(length, int) and length < 10**9
    )  # "none" is saved as a number with thirty digits
    added = _added(config, _optional(folder / "added_tokens.json"), processor)
    return T5Tokenizer(
        path,
        config,
        special,
        added,
        bool(config.get("legacy") in (None, True)),
        length if known else None,
        lower_case,
    )


def write_portable(
    source: T5Tokenizer, folder: Path, rows: int, model_max_length: int, highest_eos: bool = False
) -> None:
    """Writes the three files of a portable tokenizer with `rows` ids into `folder`.

    `highest_eos` swaps the ids of </s> and of the last row. Raises DataError if the encoder has too
    few rows for this tokenizer.
    """
    if len(source.processor) > rows:
        raise DataError(
            f"{source.path}: has {len(source.processor)} pieces, the encoder's table {rows} rows; "
            "they are not of one model"
        )
    for role in ("eos_token", "pad_token"):
        if source.added[source.special[role]].id >= rows:
            raise DataError(
                f"{source.path}: {role} ({source.special[role]!r}) is missing; give the tokenizer "
                "the encoder was trained with"
            )
    table = _rows(source, rows)
    if highest_eos:
        table[source.eos_id], table[-1] = table[-1], table[source.eos_id]
    portable.write(folder, _tokenizer_json(source, table), model_max_length, source.special)


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _content(token: Any) -> str:
    return str(token["content"] if isinstance(token, dict) else token)


def _added(config: dict[str, Any], saved: dict[str, Any], processor: Any) -> dict[str, Added]:
    """The tokens at which T5Tokenizer splits a text, by their text: sentinels (<extra_id_0>, ...),
    saved added tokens, special tokens.
    """
    pieces, extra_ids = len(processor), config.get("extra_ids", 100)
    listed = config.get("additional_special_tokens")
    sentinels = [f"<extra_id_{i}>" for i in range(extra_ids)]
    held = (
        sentinels
        if listed is None
        else [_content(token) for token in listed if "<extra_id_" in _content(token)]
    )
    by_id = {
        pieces - 1 + extra_ids - i: (
            f"<extra_id_{i}>",
            Added(pieces - 1 + extra_ids - i, True, True),
        )
        for i in range(len(held))
    }
    for token_id, token in config.get("added_tokens_decoder", {}).items():
        by_id[int(token_id)] = (
            token["content"],
            Added(int(token_id), token.get("lstrip", False), token.get("rstrip", False)),
        )
    if "added_tokens_decoder" not in config:
        by_id |= {token_id: (content, Added(token_id)) for content, token_id in saved.items()}
    added = dict(by_id.values())
    wanted = [config.get(role) or DEFAULTS.get(role) for role in SPECIAL_TOKENS] + (
        sentinels if listed is None else list(listed)
    )
    wanted += sentinels if listed is not None and not held else []
    vocabulary = {processor.id_to_piece(i): i for i in range(pieces)}
    following = len(vocabulary.keys() | added.keys())
    for token in wanted:
        if token is None or (content := _content(token)) in added:
            continue
        token_id = vocabulary.get(content, following)
        following += token_id == following
        flags = token if isinstance(token, dict) else {}
        added[content] = Added(token_id, flags.get("lstrip", False), flags.get("rstrip", False))
    return added


def _rows(source: T5Tokenizer, rows: int) -> list[Row]:
    """One row with a unique name for each row of the encoder's table. No text matches a name that
    contains a space.
    """
    model = iter(unigram.read(source.path).rows)
    processor = source.processor
    names = {added.id: content for content, added in source.added.items()}
    table: list[Row] = []
    for i in range(rows):
        unused: Row = (f"<|unused {i}|>", "unused", 0.0)
        # `unigram` leaves BOS and EOS out
        piece, kind, score = (
            next(model)
            if i < len(processor) and i not in (processor.bos_id(), processor.eos_id())
            else unused
        )
        if kind == "unused" or piece in source.added:
            piece, _, score = unused
        table.append(
            (names.get(i, piece), kind if kind == "unknown" or i not in names else "unused", score)
        )
    return table


def _tokenizer_json(source: T5Tokenizer, table: list[Row]) -> dict[str, Any]:
    ids = {piece: i for i, (piece, _, _) in enumerate(table)}
    eos = source.special["eos_token"]
    flags = {"single_word": False, "normalized": False, "special": True}
    added = [
        {
            "id": ids[content],
            "content": content,
            "lstrip": token.lstrip,
            "rstrip": token.rstrip,
            **flags,
        }
        for content, token in source.added.items()
        if content in ids
    ]
    end, prefix = (
        {"SpecialToken": {"id": eos, "type_id": 0}},
        source.legacy and unigram.read(source.path).dummy_prefix,
    )
    normalizers, pre_tokenizers = _steps(source, table)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": sorted(added, key=lambda token: token["id"]),
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": pre_tokenizers},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"Sequence": {"id": "A", "type_id": 0}}, end],
            "pair": [
                {"Sequence": {"id": "A", "type_id": 0}},
                end,
                {"Sequence": {"id": "B", "type_id": 0}},
                end,
            ],
            "special_tokens": {eos: {"id": eos, "ids": [ids[eos]], "tokens": [eos]}},
        },
        "decoder": unigram.decoder(prefix or not source.legacy),
        "model": {
            "type": "Unigram",
            "unk_id": next(i for i, (_, kind, _) in enumerate(table) if kind == "unknown"),
            "vocab": [(piece, score) for piece, _, score in table],
            "byte_fallback": any(kind == "byte" for _, kind, _ in table),
        },
    }


def _steps(
    source: T5Tokenizer, table: list[Row]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Normalizers and pre-tokenizers of one segment between special tokens."""
    model = unigram.read(source.path)
    # T5Tokenizer ignored `do_lower_case` of its tokenizer_config.json; `unigram` does not.
    steps: list[dict[str, Any]] = [{"type": "Lowercase"}] if source.lower_case else []
    steps += [step for step in model.normalizers if step["type"] != "Lowercase"]
    cuts = [*model.pre_tokenizers, *_apart(source, table)]
    if source.legacy:
        return steps, cuts
    # Only the first segment gets a leading space; any other keeps at most the one it has. Leading
    # spaces must therefore stay until the Metaspace steps below have seen them. Of several spaces
    # the first is kept, since the scheme `first` looks at offset 0.
    instead = {
        r"\A +|": [_replace(f"[ {SPACE}]+\\z", "")],
        " {2,}": [_replace("(?<= ) +", "")],
        f"\\A[ {SPACE}]": [],
    }
    for old, new in instead.items():
        steps = [
            kept
            for step in steps
            for kept in (
                new if str(step.get("pattern", {}).get("Regex")).startswith(old) else [step]
            )
        ]
    steps = [_replace(SPACE, " "), *steps]
    if (
        source.processor.normalize(f"x{SPACE} x").count(SPACE) == 2
    ):  # the model does not merge the added space with those of the text
        steps.append(_replace(" ", SPACE))
    space = {"type": "Metaspace", "split": False}
    spaces = [
        space | {"replacement": " ", "prepend_scheme": "first"},
        space | {"replacement": SPACE, "prepend_scheme": "never"},
    ]
    return steps, [*spaces, *(cut for cut in cuts if cut["type"] != "Metaspace")]


def _replace(pattern: str, content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"Regex": pattern}, "content": content}


def _apart(source: T5Tokenizer, table: list[Row]) -> list[dict[str, Any]]:
    """Splits inside the names of special tokens, so that a name which only appears after
    normalization (＜ｐａｄ＞) is encoded as text.

    A split changes no other ids if no piece spans it, and if the characters beside it are not both
    unknown: neighbouring unknown characters share one id.
    """
    pieces = [piece for piece, kind, _ in table if kind == "normal"]
    text, known = "\n".join(pieces), {piece for piece in pieces if len(piece) == 1}
    byte_fallback = any(kind == "byte" for _, kind, _ in table)
    cuts = []
    for name in source.added:
        fit = (
            k
            for k in range(1, len(name))
            if name[k - 1 : k + 1] not in text
            and (byte_fallback or known & set(name[k - 1 : k + 1]))
        )
        cuts += [f"{re.escape(name[:k])}(?={re.escape(name[k:])})" for k in list(fit)[:1]]
    return (
        [
            {
                "type": "Split",
                "pattern": {"Regex": "|".join(cuts)},
                "behavior": "MergedWithPrevious",
                "invert": False,
            }
        ]
        if cuts
        else []
    )
