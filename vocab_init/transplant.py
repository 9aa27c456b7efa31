"""Which English embedding each row of the student's vocabulary starts from, and the two tables that
follow.

In:  the teacher's folder (or hub name), of which only the tokenizers and the encoders' token
     embeddings are read (one of them from OpenCLIP if `distill.teacher` says so); the student's
     vocabulary.
Out: `VocabularyRow`s and tensors; nothing on disk.

Normal pieces take what `vocab_init.method` found for their text: a row, or a mixture of rows; byte
pieces take the row of the same byte, BOS and EOS the teacher's BOS and EOS. Rows without a meaning
(unknown, unused, filler, a lone space) take the mean of the teacher's rows.

Shape letters: V vocabulary, D width, N neighbours.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
from safetensors import SafetensorError, safe_open

from configs import stored_weights
from configs.errors import DataError, first_line
from configs.references import looks_like_hub_name, not_given
from distill.encoders.family import Family
from distill.encoders.teacher import load_tokenizer, replacement
from distill.tokenizer.portable import Kind, Vocabulary
from vocab_init import piece_text
from vocab_init.methods import MEAN, Start

# with and without the prefix: transformers 4 and 5 save CLIPTextModel differently
EMBEDDING_KEYS = (
    "text_model.embeddings.token_embedding.weight",
    "embeddings.token_embedding.weight",
)
# Of a hub's repository; a folder may hold another variant (configs/stored_weights.py).
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


@dataclass(frozen=True)
class Teacher:
    """The English side: one BPE vocabulary (id by token), each encoder's token embeddings (V, D) in
    float32, and the tokenizer.
    """

    vocabulary: dict[str, int]
    bos_id: int
    eos_id: int
    tables: dict[str, torch.Tensor]
    tokenizer: Any = None

    def words(self) -> list[tuple[int, str]]:
        """(id, text) of the tokens that are candidates for nearest neighbour, in order of id.

        `red` (the start of `reduce`) and `red</w>` have the same text: the whole word is the
        candidate. BOS, EOS, parts of characters and unprintable characters are left out.
        """
        best: dict[str, tuple[bool, int]] = {}
        for token, token_id in sorted(self.vocabulary.items(), key=lambda item: item[1]):
            raw = piece_text.clip_bytes(token)
            if raw is None or token_id in (self.bos_id, self.eos_id) or not piece_text.is_text(raw):
                continue
            text, word = raw.decode("utf-8"), (token.endswith(piece_text.WORD_END), token_id)
            if (
                text.strip()
                and text.isprintable()
                and (text not in best or word[0] > best[text][0])
            ):
                best[text] = word
        return sorted((token_id, text) for text, (_, token_id) in best.items())

    def texts(self) -> dict[int, str]:
        """What every token reads as, by id; a mixture may hold any, not candidates alone."""
        return {
            token_id: _readable(token).removesuffix(piece_text.WORD_END)
            for token, token_id in self.vocabulary.items()
        }

    def sha256(self) -> str:
        """Digest of the vocabulary and all tables."""
        digest = hashlib.sha256(
            json.dumps([sorted(self.vocabulary.items()), self.bos_id, self.eos_id]).encode()
        )
        for table_VD in self.tables.values():
            digest.update(table_VD.contiguous().numpy().data)
        return digest.hexdigest()


@dataclass(frozen=True)
class VocabularyRow:
    """One row of `neighbors.jsonl`. The row starts from the embeddings of its neighbours, mixed by
    `weights`; without neighbours, from the mean. `rule`: how they were found.
    """

    id: int
    piece: str
    kind: Kind
    text: str
    neighbor_ids: list[int]
    neighbors: list[str]
    similarity: list[float]
    weights: list[float]
    rule: str


def read_teacher(base: str, family: Family, teacher: str | None = None) -> Teacher:
    """Reads the teacher, fetched first if it is on the hub; `teacher` is `distill.teacher`.

    Raises DataError.
    """
    folder = _local_folder(base, family)
    replaced = replacement(folder, family, teacher)
    vocabularies, tables = [], {}
    for encoder, part in family.parts.items():
        tokenizer = load_tokenizer(folder, part)
        vocabularies.append((tokenizer.get_vocab(), tokenizer.bos_token_id, tokenizer.eos_token_id))
        tables[encoder] = (
            replaced[encoder].token_embedding_VD()
            if encoder in replaced
            else _token_embedding(folder / part.subfolder)
        )
    if any(found != vocabularies[0] for found in vocabularies):
        raise DataError(
            f"{base}: its two tokenizers differ in their vocabularies; {family.name}'s two share "
            f"one, give an {family.name} base folder"
        )
    vocabulary, bos_id, eos_id = vocabularies[0]
    numbers = Counter(vocabulary.values())
    wrong = next((i for i in range(max(numbers) + 1) if numbers[i] != 1), None)
    if wrong is not None:
        raise DataError(
            f"{base}: id {wrong} of its tokenizer names {numbers[wrong]} tokens, not one; fetch "
            "the folder again"
        )
    for encoder, table_VD in tables.items():
        if len(table_VD) <= max(vocabulary.values()):
            highest = max(vocabulary.values())
            raise DataError(
                f"{base}: {encoder} has {len(table_VD)} token embeddings but the tokenizer's ids "
                f"reach {highest}; fetch the folder again"
            )
    return Teacher(vocabulary, bos_id, eos_id, tables, tokenizer)


def rows(
    vocabulary: Vocabulary, teacher: Teacher, found: Mapping[str, Start]
) -> list[VocabularyRow]:
    """What every row of the vocabulary starts from; `found`: by the text of each normal piece."""
    names = {token_id: _readable(token) for token, token_id in teacher.vocabulary.items()}

    def row(row_id: int, piece: str, kind: Kind) -> VocabularyRow:
        text, start = "", MEAN
        if kind == "normal":
            text = piece_text.sentencepiece_text(piece)
            start = found[text] if text else MEAN
        elif kind == "byte":
            byte = bytes([piece_text.byte_of(piece)])
            text = piece_text.readable(byte)
            same = _same_byte(byte, teacher.vocabulary)
            start = Start(same, [1.0], [], "copied") if same else MEAN
        elif kind in ("bos", "eos"):
            special = teacher.bos_id if kind == "bos" else teacher.eos_id
            start = Start([special], [1.0], [], "copied")
        ids, weights, scores, rule = start
        neighbors = [names[i] for i in ids]
        return VocabularyRow(row_id, piece, kind, text, ids, neighbors, scores, weights, rule)

    return [
        row(i, piece, kind)
        for i, (piece, kind) in enumerate(zip(vocabulary.pieces, vocabulary.kinds, strict=True))
    ]


def transplant(
    rows: list[VocabularyRow], teacher: Teacher, scale: bool = False
) -> dict[str, torch.Tensor]:
    """The student's token embeddings by encoder, (len(rows), D) float32.

    A mixture has the mean norm of what it mixes: an average is shorter than any row the teacher
    knows. `scale`: so has the mean of all rows.
    """
    special = [teacher.bos_id, teacher.eos_id]
    ordinary = torch.tensor([i for i in sorted(teacher.vocabulary.values()) if i not in special])
    is_hard = torch.tensor([row.weights[:1] == [1.0] for row in rows])
    source = torch.tensor([row.neighbor_ids[0] for row in rows if row.weights[:1] == [1.0]])
    mixtures = [(i, row) for i, row in enumerate(rows) if row.weights and not is_hard[i]]
    tables = {}
    for encoder, table_VD in teacher.tables.items():
        equal_N = torch.full((len(ordinary),), 1 / len(ordinary))
        mean_D = _mixture(table_VD[ordinary], equal_N) if scale else table_VD[ordinary].mean(dim=0)
        result_VD = mean_D.repeat(len(rows), 1)
        result_VD[is_hard] = table_VD[source]
        for i, row in mixtures:
            result_VD[i] = _mixture(table_VD[row.neighbor_ids], torch.tensor(row.weights))
        tables[encoder] = result_VD
    return tables


def _mixture(rows_ND: torch.Tensor, weights_N: torch.Tensor) -> torch.Tensor:
    """(D,): the weighted sum, at the weighted mean norm of the rows."""
    sum_D = weights_N @ rows_ND
    return sum_D * (weights_N @ rows_ND.norm(dim=1) / sum_D.norm().clamp_min(1e-12))


def _local_folder(base: str, family: Family) -> Path:
    if Path(base).is_dir():
        return Path(base)
    if not looks_like_hub_name(base):
        raise DataError(
            f"{base}: there is no such folder; give an {family.name} folder in diffusers layout, "
            "or its hub name, as distill.base"
        )
    parts = family.parts.values()
    wanted = [f"{part.tokenizer}/*" for part in parts]
    wanted += [
        f"{part.subfolder}/{name}"
        for part in parts
        for name in ("config.json", WEIGHTS, INDEX, "model-*-of-*.safetensors")
    ]
    try:
        return Path(huggingface_hub.snapshot_download(base, allow_patterns=wanted))
    except Exception as error:  # many classes: offline, no such repository, no access
        raise DataError(f"{not_given(base, error)}; give a folder that holds it") from None


def _token_embedding(folder: Path) -> torch.Tensor:
    """(V, D) float32: this one tensor of `model.safetensors` or of its shards."""
    path = stored_weights.find(folder).holder(*EMBEDDING_KEYS)
    try:
        with safe_open(path, framework="pt") as file:
            stored = set(file.keys())
            table_VD: torch.Tensor = file.get_tensor(
                next(key for key in EMBEDDING_KEYS if key in stored)
            ).float()
    except StopIteration:
        raise DataError(
            f"{path}: it holds no {EMBEDDING_KEYS[0]}; give the folder of a CLIP text encoder"
        ) from None
    except (OSError, SafetensorError) as error:
        raise DataError(
            f"{path}: the token embeddings cannot be read ({first_line(error)}); fetch the folder "
            "again"
        ) from None
    if not table_VD.isfinite().all():
        raise DataError(
            f"{path}: its token embeddings hold NaN or infinity; fetch the folder again"
        )
    return table_VD


def _same_byte(byte: bytes, vocabulary: dict[str, int]) -> list[int]:
    """The id of the token for this byte inside a word, as a list; empty if the vocabulary has none.

    Letters are lower-cased first: CLIP lower-cases every text, so its capitals were never trained.
    """
    character = {value: key for key, value in piece_text.byte_level_alphabet().items()}[
        byte.lower()[0]
    ]
    return [vocabulary[character]] if character in vocabulary else []


def _readable(token: str) -> str:
    raw = piece_text.clip_bytes(token)
    if raw is None:
        return token
    return piece_text.readable(raw) + (
        piece_text.WORD_END if token.endswith(piece_text.WORD_END) else ""
    )
