"""Reads any unigram tokenizer: a SentencePiece model, a tokenizer.json, or a folder or hub
repository that holds one of them.

In:  a file, a folder, or a hub name (`organisation/name`, of which only the tokenizer's own data
     files are fetched).
Out: a `Unigram`: the vocabulary in its own order without BOS and EOS, and the normalizers and
     pre-tokenizers that run before the model.

In a folder with both, the SentencePiece model is read, since the tokenizer.json was converted from
it. `do_lower_case` in the tokenizer_config.json beside a SentencePiece model is applied, though
transformers' T5Tokenizer ignores it. A folder whose tokenizer is Python code (MeCab, `auto_map`)
raises DataError.

From a tokenizer.json, the normalizer and pre-tokenizer are kept as they are; the post-processor and
the decoder are replaced by ours, which handle BOS, EOS and spaces. BOS and EOS are those named by
tokenizer_config.json or special_tokens_map.json. Other special tokens become rows that no text can
produce. Ordinary added tokens, in the vocabulary or beyond it, become pieces with the score that
sentencepiece gives user-defined symbols.
"""

import base64
import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import huggingface_hub
from google.protobuf.message import DecodeError
from sentencepiece import SentencePieceProcessor
from sentencepiece.sentencepiece_model_pb2 import ModelProto, TrainerSpec
from tokenizers import Tokenizer

from configs.errors import DataError, explained, first_line
from configs.files import read_json
from configs.references import looks_like_hub_name, not_given

SPACE = "\u2581"  # how unigram models write a space
SPIECE_NAMES = (
    "spiece.model",
    "tokenizer.model",
    "sentencepiece.model",
    "spm.model",
    "sentencepiece.bpe.model",
)
FETCHED = (
    "*.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
)  # from a hub repository: never code, never weights
PYTHON_TOKENIZERS = (
    "AlbertTokenizer",
    "BertJapaneseTokenizer",
    "CpmTokenizer",
    "XLNetTokenizer",
)  # their Python code changes the text before the model
BYTE = re.compile(r"<0x[0-9A-F]{2}>")
# A reserved code point that no text contains and no normalizer maps. Like a control character it
# ends a grapheme cluster.
CLUSTER_BREAK = "\ufff0"
# \A and \z: for the tokenizers library ^ and $ are the ends of every line
SPACES_AT_ENDS = f"\\A +|[ {SPACE}]+\\z"
SPACES_IN_A_ROW = " {2,}"
BYTE_CUT = f"<(?={BYTE.pattern[1:]})"

PieceKind = Literal["normal", "byte", "unknown", "unused"]
Row = tuple[str, PieceKind, float]


@dataclass(frozen=True)
class Unigram:
    """Vocabulary rows (name, kind, log probability), and the normalizers and pre-tokenizers as in a
    tokenizer.json.
    """

    rows: tuple[Row, ...]
    normalizers: tuple[dict[str, Any], ...]
    pre_tokenizers: tuple[dict[str, Any], ...]
    dummy_prefix: bool  # a space is prepended to every text, and decoding removes it


def find(source: str | Path) -> Path:
    """The file to read: `source` itself, or the tokenizer's file in that folder or hub repository.

    Raises DataError.
    """
    path = Path(source)
    if path.is_dir():
        return _file_of(path, str(source))
    if path.exists():
        return path
    if looks_like_hub_name(source):
        return _file_of(_fetch(str(source)), str(source))
    raise DataError(
        f"{source}: there is no such file; give a spiece.model, a tokenizer.json, a folder with "
        "one of them, or a hub name"
    )


def read(path: Path) -> Unigram:
    """Reads what `find` found. Raises DataError."""
    return _read_tokenizer_json(path) if path.suffix == ".json" else _read_spiece(path)


def decoder(dummy_prefix: bool) -> dict[str, Any]:
    """The decoder of a tokenizer.json; `dummy_prefix`: remove the space that was prepended."""
    steps: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if dummy_prefix:
        steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {"type": "Sequence", "decoders": steps}


def _fetch(name: str) -> Path:
    try:
        return Path(
            huggingface_hub.snapshot_download(
                name, allow_patterns=list(FETCHED), ignore_patterns=["*/*"]
            )
        )
    except Exception as error:  # of the network, of the name, of access: many kinds
        raise DataError(
            f"{not_given(name, error)}; check the name and the network, or give a path"
        ) from None


def _file_of(folder: Path, name: str) -> Path:
    """The tokenizer's file in a folder; `name` is what the user called it."""
    models = [folder / usual for usual in SPIECE_NAMES if (folder / usual).is_file()][:1] or sorted(
        folder.glob("*.model")
    )
    config = _settings(folder / "tokenizer_config.json")
    class_name = str(config.get("tokenizer_class")).removesuffix("Fast")
    if len(models) > 1:
        raise DataError(
            f"{name}: holds {', '.join(path.name for path in models)}; give the path of one of them"
        )
    if config.get("auto_map") or class_name in PYTHON_TOKENIZERS:
        needs = (
            "code of its own (auto_map)"
            if config.get("auto_map")
            else f"the Python code of {class_name}"
        )
        raise DataError(
            f"{name}: its tokenizer needs {needs}, which no portable tokenizer runs; give one of "
            "SentencePiece alone"
        )
    if not models and not (folder / "tokenizer.json").is_file():
        raise DataError(
            f"{name}: neither a SentencePiece model ({', '.join(SPIECE_NAMES)}) nor a "
            "tokenizer.json is there; give another tokenizer"
        )
    return models[0] if models else folder / "tokenizer.json"


def _settings(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _read_spiece(path: Path) -> Unigram:
    processor, proto = _open_spiece(path)
    spec, rows = proto.normalizer_spec, _spiece_rows(processor, proto)
    lower_case = _settings(path.with_name("tokenizer_config.json")).get("do_lower_case") is True
    steps: list[dict[str, Any]] = [{"type": "Lowercase"}] if lower_case else []
    if spec.precompiled_charsmap:
        # `Precompiled` looks up a grapheme cluster by its first character or character by
        # character, never by several. So every character is made a cluster of its own first.
        steps.append({"type": "Replace", "pattern": {"Regex": r"\Y"}, "content": CLUSTER_BREAK})
        steps.append(
            {
                "type": "Precompiled",
                "precompiled_charsmap": base64.b64encode(spec.precompiled_charsmap).decode(),
            }
        )
        steps.append({"type": "Replace", "pattern": {"String": CLUSTER_BREAK}, "content": ""})
        if processor.normalize("か\u3099").endswith(
            "が"
        ):  # the map's rules for several characters are NFC composition
            steps.append({"type": "NFC"})
    if spec.remove_extra_whitespaces:
        steps.append({"type": "Replace", "pattern": {"Regex": SPACES_AT_ENDS}, "content": ""})
        steps.append({"type": "Replace", "pattern": {"Regex": SPACES_IN_A_ROW}, "content": " "})
    if spec.add_dummy_prefix:
        # Metaspace prepends the space, but not to a text that begins with one: that gets a second
        # here. The normalizer `Prepend` would also change the words that textual inversion adds,
        # which would then never match.
        steps.append(
            {"type": "Replace", "pattern": {"Regex": f"\\A[ {SPACE}]"}, "content": 2 * SPACE}
        )
    # Not split at spaces: a piece may contain one, and sentencepiece segments the whole text.
    scheme = "always" if spec.add_dummy_prefix else "never"
    cuts: list[dict[str, Any]] = [
        {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme, "split": False}
    ]
    if any(kind == "byte" for _, kind, _ in rows) and not any(
        "<0" in piece for piece, kind, _ in rows if kind == "normal"
    ):
        # A text that spells out "<0x41>" must not become the byte piece of that name. No piece
        # spans this split, so it changes nothing else.
        cuts.append(
            {
                "type": "Split",
                "pattern": {"Regex": BYTE_CUT},
                "behavior": "MergedWithPrevious",
                "invert": False,
            }
        )
    return Unigram(
        tuple(rows),
        tuple(steps),
        tuple(cuts),
        spec.add_dummy_prefix or spec.remove_extra_whitespaces,
    )


def _open_spiece(path: Path) -> tuple[Any, Any]:
    """The model as a SentencePieceProcessor and as a ModelProto. Raises DataError."""
    try:
        content = path.read_bytes()
        processor, proto = (
            SentencePieceProcessor(model_proto=content),
            ModelProto.FromString(content),
        )
    except OSError as error:
        raise DataError(
            f"{path}: the SentencePiece model cannot be read ({error.strerror}); give the path of "
            "a spiece.model"
        ) from None
    except (RuntimeError, DecodeError) as error:
        raise DataError(
            f"{path}: no SentencePiece model, or a damaged one ({first_line(error)}); fetch it "
            "again"
        ) from None
    if (
        not proto.pieces
        or not proto.HasField("trainer_spec")
        or not proto.HasField("normalizer_spec")
    ):  # a truncated file still loads
        raise DataError(f"{path}: no SentencePiece model, or a truncated one; fetch it again")
    if not any(piece.type == piece.UNKNOWN for piece in proto.pieces):
        raise DataError(
            f"{path}: its vocabulary has no unknown piece; give a SentencePiece model with one"
        )
    kind = TrainerSpec.ModelType.Name(proto.trainer_spec.model_type)
    if kind != "UNIGRAM":
        raise DataError(
            f"{path}: a SentencePiece model of type {kind}; only UNIGRAM models become a portable "
            "tokenizer, give one"
        )
    if (
        proto.trainer_spec.treat_whitespace_as_suffix
        or not proto.normalizer_spec.escape_whitespaces
    ):
        raise DataError(
            f"{path}: it writes spaces as suffixes or unescaped, which no portable tokenizer does; "
            "give a model trained without that"
        )
    return processor, proto


def _spiece_rows(processor: Any, proto: Any) -> list[Row]:
    types = type(proto.pieces[0])
    scores = [piece.score for piece in proto.pieces if piece.type == types.NORMAL] or [0.0]
    rows: list[Row] = []
    for source_id, piece in enumerate(proto.pieces):
        if source_id in (processor.bos_id(), processor.eos_id()):
            continue
        if piece.type == types.UNKNOWN:
            rows.append((piece.piece, "unknown", min(scores)))
        elif piece.type == types.BYTE:
            rows.append((piece.piece, "byte", 0.0))
        elif piece.type in (types.CONTROL, types.UNUSED):
            rows.append((piece.piece, "unused", 0.0))
        elif piece.type == types.USER_DEFINED:
            rows.append((piece.piece, "normal", _user_defined_score(piece.piece, max(scores))))
        else:
            rows.append((piece.piece, "normal", piece.score))
    return rows


def _user_defined_score(piece: str, best: float) -> float:
    """The score sentencepiece gives a user-defined symbol, so that it is always kept whole."""
    return len(piece.encode()) * best - 0.1


def _read_tokenizer_json(path: Path) -> Unigram:
    with explained(f"{path}: no tokenizer.json, or a damaged one", "fetch it again"):
        tokenizer = Tokenizer.from_file(str(path))
    tree = json.loads(
        tokenizer.to_str()
    )  # in the library's current format, whatever version wrote the file
    model = tree["model"]
    if model["type"] != "Unigram":
        raise DataError(
            f"{path}: a tokenizer of type {model['type']}; only Unigram ones become the student's, "
            "give one or a spiece.model"
        )
    if model["unk_id"] is None:
        raise DataError(
            f"{path}: its vocabulary has no unknown token (unk_id is null); give a tokenizer with "
            "one"
        )
    counts = Counter(piece for piece, _ in model["vocab"])
    wrong = next((piece for piece in counts if not piece or counts[piece] > 1), None)
    if wrong is not None:
        problem = f"holds {wrong!r} {counts[wrong]} times" if wrong else "holds an empty piece"
        raise DataError(
            f"{path}: its vocabulary {problem}; no text would ever reach that row: fetch it again"
        )
    seen = model_input(tokenizer, "a b")
    if seen.removeprefix(SPACE) != f"a{SPACE}b":
        raise DataError(
            f'{path}: it looks "a b" up as {seen!r}, not as text with {SPACE} for spaces; give a '
            "tokenizer that does, or a spiece.model"
        )
    steps, cuts = (
        _flat(tree["normalizer"], "normalizers"),
        _flat(tree["pre_tokenizer"], "pretokenizers"),
    )
    return Unigram(tuple(_json_rows(path, tree)), steps, cuts, seen.startswith(SPACE))


def model_input(tokenizer: Any, text: str) -> str:
    """The text the model segments: after the tokenizer's normalizer and pre-tokenizer."""
    if tokenizer.normalizer is not None:
        text = tokenizer.normalizer.normalize_str(text)
    if tokenizer.pre_tokenizer is not None:
        text = "".join(part for part, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text))
    return text


def _flat(step: dict[str, Any] | None, key: str) -> tuple[dict[str, Any], ...]:
    if step is None:
        return ()
    return (
        tuple(inner for outer in step[key] for inner in _flat(outer, key))
        if step["type"] == "Sequence"
        else (step,)
    )


def _json_rows(path: Path, tree: dict[str, Any]) -> list[Row]:
    model, vocab = tree["model"], tree["model"]["vocab"]
    added = {token["id"]: token for token in tree["added_tokens"]}
    beyond = sorted(token_id for token_id in added if token_id >= len(vocab))
    own = _special_names(path)
    special = {token["content"] for token in added.values() if token["special"]}
    ordinary = {token["content"] for token in added.values()} - special
    best = max(
        (score for piece, score in vocab if piece not in special and not BYTE.fullmatch(piece)),
        default=0.0,
    )
    rows: list[Row] = []
    for i, (piece, score) in enumerate(
        [*vocab, *([added[token_id]["content"], 0.0] for token_id in beyond)]
    ):
        if i == model["unk_id"]:
            # The library scores an unknown character 10 below the lowest score in the file. BOS and
            # EOS count for that minimum and are left out here, so this row keeps it.
            rows.append((piece, "unknown", min(score for _, score in vocab)))
        elif piece in own:
            continue
        elif piece in special:
            rows.append((piece, "unused", score))
        elif piece in ordinary:
            rows.append((piece, "normal", _user_defined_score(piece, best)))
        elif model["byte_fallback"] and BYTE.fullmatch(piece):
            rows.append((piece, "byte", score))
        else:
            rows.append((piece, "normal", score))
    return rows


def _special_names(path: Path) -> set[str]:
    """The BOS and EOS that the files beside a tokenizer.json name."""
    config, names = {}, {}
    if path.name.endswith("tokenizer.json"):
        config = _settings(
            path.with_name(path.name.replace("tokenizer.json", "tokenizer_config.json"))
        )
        names = _settings(
            path.with_name(path.name.replace("tokenizer.json", "special_tokens_map.json"))
        )
    tokens = [config.get(key) or names.get(key) for key in ("bos_token", "eos_token")]
    return {
        str(token["content"] if isinstance(token, dict) else token) for token in tokens if token
    }
