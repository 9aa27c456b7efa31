"""Any SentencePiece unigram model becomes one portable tokenizer that the unmodified SDXL pipelines load; training uses this very one.

In:  a `spiece.model`.
Out: a folder with `tokenizer.json`, `tokenizer_config.json` and `special_tokens_map.json`, written by hand: `save_pretrained` of
     transformers 5 writes class names that transformers 4 cannot load.

Rows of the vocabulary: the source's pieces in the source's order, without its own BOS and EOS; filler rows up to the wanted multiple;
BOS = V-2 and EOS = V-1. So V is the source's own size when nothing is padded, and every pooling rule of CLIP (highest id, first EOS)
finds the EOS. Other control pieces and pieces marked unused keep their rows under names no text holds. BOS, EOS and the pad token carry
CLIP's own names, so that a prompt holding "</s>" or "<pad>" is plain text; padding is with EOS, as CLIP-L pads: one tokenizer serves both encoders.

Ids are sentencepiece's, shifted. Known differences: a text that spells out a byte piece ("<0x41>") becomes that byte; equal or nearly equal
segmentations may fall the other way (float32 there, float64 here); an accent after a full-width or squared character (`２́`) may be lost.
"""

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from configs.command import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

BOS_TOKEN, EOS_TOKEN, UNK_TOKEN = "<|startoftext|>", "<|endoftext|>", "<|unknown|>"
MODEL_MAX_LENGTH = 77  # positions of SDXL's text encoders
SPACE = "\u2581"  # what sentencepiece writes for a space
FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")

Kind = Literal["normal", "byte", "unknown", "unused", "filler", "bos", "eos"]


@dataclass(frozen=True)
class Vocabulary:
    """The rows of the student's embedding tables in id order: names as in `tokenizer.json`, kinds, unigram scores (log probabilities)."""

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


def build(spiece_path: str | Path, folder: str | Path, pad_vocab_to_multiple_of: int = 1) -> Vocabulary:
    """Reads a SentencePiece unigram model and writes the three files into `folder`. Raises DataError."""
    processor, proto = _read_model(Path(spiece_path))
    vocabulary = _vocabulary(processor, proto, pad_vocab_to_multiple_of)
    normalizer = _normalizer(processor, proto.normalizer_spec)
    special = {"bos_token": BOS_TOKEN, "eos_token": EOS_TOKEN, "unk_token": UNK_TOKEN, "pad_token": EOS_TOKEN}
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": MODEL_MAX_LENGTH,
        "model_input_names": ["input_ids", "attention_mask"],
        "padding_side": "right",
        "truncation_side": "right",
        "clean_up_tokenization_spaces": False,
        **special,
    }
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in zip(FILES, (_tokenizer_json(vocabulary, normalizer), config, special), strict=True):
        (folder / name).write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return vocabulary


def load(folder: str | Path) -> "PreTrainedTokenizerFast":
    """The tokenizer of a folder `build` wrote, as the pipelines load it. Raises DataError."""
    from transformers import AutoTokenizer

    missing = [name for name in FILES if not (Path(folder) / name).is_file()]
    if missing:
        raise DataError(f"{folder}: no tokenizer there, {missing[0]} is missing; run python -m vocab_init first")
    try:
        return AutoTokenizer.from_pretrained(str(folder))
    except Exception as error:  # the tokenizers library raises bare Exception for a damaged file
        raise DataError(f"{folder}: the tokenizer cannot be loaded ({_first_line(error)}); delete it and run python -m vocab_init again") from None


def _read_model(path: Path) -> tuple[Any, Any]:
    """The model as sentencepiece's processor and as its protocol buffer."""
    from google.protobuf.message import DecodeError
    from sentencepiece import SentencePieceProcessor
    from sentencepiece.sentencepiece_model_pb2 import ModelProto, TrainerSpec

    try:
        content = path.read_bytes()
        processor, proto = SentencePieceProcessor(model_proto=content), ModelProto.FromString(content)
    except OSError as error:
        raise DataError(f"{path}: the SentencePiece model cannot be read ({error.strerror}); give the path of a spiece.model") from None
    except (RuntimeError, DecodeError) as error:
        raise DataError(f"{path}: no SentencePiece model, or a damaged one ({_first_line(error)}); fetch it again") from None
    if not proto.pieces or not proto.HasField("trainer_spec") or not proto.HasField("normalizer_spec"):  # cut off, it still loads
        raise DataError(f"{path}: no SentencePiece model, or one cut off; fetch it again")
    kind = TrainerSpec.ModelType.Name(proto.trainer_spec.model_type)
    if kind != "UNIGRAM":
        raise DataError(f"{path}: a SentencePiece model of type {kind}; only UNIGRAM models become a portable tokenizer, give one")
    if proto.trainer_spec.treat_whitespace_as_suffix or not proto.normalizer_spec.escape_whitespaces:
        raise DataError(f"{path}: it writes spaces as suffixes or unescaped, which no portable tokenizer does; give a model trained without that")
    return processor, proto


def _vocabulary(processor: Any, proto: Any, multiple: int) -> Vocabulary:
    types = type(proto.pieces[0])
    best = max((piece.score for piece in proto.pieces if piece.type == types.NORMAL), default=0.0)
    rows: list[tuple[str, Kind, float]] = []
    for source_id, piece in enumerate(proto.pieces):
        if source_id in (processor.bos_id(), processor.eos_id()):
            continue
        if piece.type == types.UNKNOWN:
            rows.append((UNK_TOKEN, "unknown", 0.0))
        elif piece.type == types.BYTE:
            rows.append((piece.piece, "byte", 0.0))
        elif piece.type in (types.CONTROL, types.UNUSED) or piece.piece in (BOS_TOKEN, EOS_TOKEN, UNK_TOKEN):
            rows.append((f"<|unused_{source_id}|>", "unused", 0.0))
        elif piece.type == types.USER_DEFINED:  # sentencepiece takes these whole wherever they occur, by this very score
            rows.append((piece.piece, "normal", len(piece.piece.encode()) * best - 0.1))
        else:
            rows.append((piece.piece, "normal", piece.score))
    rows += [(f"<|filler_{i}|>", "filler", 0.0) for i in range(-(len(rows) + 2) % multiple)]
    rows += [(BOS_TOKEN, "bos", 0.0), (EOS_TOKEN, "eos", 0.0)]
    pieces, kinds, scores = zip(*rows, strict=True)
    return Vocabulary(pieces, kinds, scores)


def _normalizer(processor: Any, spec: Any) -> dict[str, Any]:
    """What sentencepiece does to a text before it looks for pieces, but for the escape of spaces."""
    steps: list[dict[str, Any]] = []
    if spec.precompiled_charsmap:
        steps.append({"type": "Precompiled", "precompiled_charsmap": base64.b64encode(spec.precompiled_charsmap).decode()})
        # `Precompiled` maps clusters of six bytes and more character by character, which leaves the kana of decomposed or half-width text
        # apart from their voicing marks; where the model itself composes them, composing afterwards gives what it gives.
        if processor.normalize("か\u3099").endswith("が"):
            steps.append({"type": "NFC"})
    if spec.remove_extra_whitespaces:
        # \A and \z: for the tokenizers library ^ and $ are the ends of every line
        steps.append({"type": "Replace", "pattern": {"Regex": f"\\A +|[ {SPACE}]+\\z"}, "content": ""})
        steps.append({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "})
    if spec.add_dummy_prefix:
        steps.append({"type": "Prepend", "prepend": SPACE})
    return {"type": "Sequence", "normalizers": steps}


def _tokenizer_json(vocabulary: Vocabulary, normalizer: dict[str, Any]) -> dict[str, Any]:
    special = {UNK_TOKEN: vocabulary.unk_id, BOS_TOKEN: vocabulary.bos_id, EOS_TOKEN: vocabulary.eos_id}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    bos, text, eos = _special(BOS_TOKEN), {"Sequence": {"id": "A", "type_id": 0}}, _special(EOS_TOKEN)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": name, **flags} for name, i in special.items()],
        "normalizer": normalizer,
        # Not split at spaces: a piece may hold one, and sentencepiece weighs the whole text at once.
        "pre_tokenizer": {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "never", "split": False},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [bos, text, eos],
            "pair": [bos, text, eos, {"Sequence": {"id": "B", "type_id": 0}}, eos],
            "special_tokens": {name: {"id": name, "ids": [special[name]], "tokens": [name]} for name in (BOS_TOKEN, EOS_TOKEN)},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {
            "type": "Unigram",
            "unk_id": vocabulary.unk_id,
            "vocab": [list(row) for row in zip(vocabulary.pieces, vocabulary.scores, strict=True)],
            "byte_fallback": vocabulary.byte_fallback,
        },
    }


def _special(name: str) -> dict[str, Any]:
    return {"SpecialToken": {"id": name, "type_id": 0}}


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
