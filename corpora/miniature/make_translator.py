"""Trains toyworld's translator, a miniature of Helsinki-NLP/opus-mt-ja-en: Marian, Japanese
captions to English ones.

    python -m corpora.miniature.make_translator

In:  toyworld's training captions, the English ones in their plainest words, and toyworld's
     tokenizer, whose pieces it shares.
Out: `translator` among toyworld's models: a MarianMT in transformers' layout, weights in fp16.
     Takes ten minutes on one core; an interrupted run continues from `--work`; the same seed gives
     the same weights on the same machine.

Shape letters: B batch, L source positions, T target positions.
"""

import json
import random
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from sentencepiece.sentencepiece_model_pb2 import ModelProto
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, MarianConfig, MarianMTModel
from transformers.utils import logging

from configs.files import whole_folder, write_json
from configs.references import TOYWORLD_MODELS
from corpora.miniature.fit import TrainingStage, fit, maker_parser
from corpora.toyworld import caption_reader, captions

STAGE = TrainingStage("translator", 2_400, 2e-3, ema=0.99, save_every=500)
SEED = 4_000
BATCH = 64
WIDTH, LAYERS, HEADS, POSITIONS = 96, 2, 4, 128
HELD_OUT = 300  # captions to measure the accuracy on

One = TypeVar("One")


class First(random.Random):
    """Always chooses the first option: which of its eight English captions a scene gets is random,
    so a translator could not learn it.
    """

    def choice(self, seq: Sequence[One]) -> One:  # type: ignore[override]
        return seq[0]


def train(folder: Path, work: Path) -> None:
    """Writes the model whole or not at all."""
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    logging.disable_progress_bar()
    work.mkdir(parents=True, exist_ok=True)
    with whole_folder(folder, replace=True) as partial:
        vocabulary = write_tokenizer(TOYWORLD_MODELS / "spiece.model", partial)
        tokenizer = load_tokenizer(partial)
        model = MarianMTModel(config(vocabulary))
        # Marian's start token is a zero embedding, which transformers keeps in the padding's row.
        # Tied to the output, the row would learn to be unlikely.
        model.get_input_embeddings().weight.register_hook(
            lambda gradient_VD: gradient_VD.index_fill(0, torch.tensor(vocabulary["<pad>"]), 0.0)
        )
        model.generation_config.bad_words_ids = [[vocabulary["<pad>"]]]

        def loss(step: int) -> torch.Tensor:
            return model(**batch_of(step, tokenizer)).loss

        fit(STAGE, model, loss, work)
        model.half().save_pretrained(partial)
        print(
            f"{folder}: {accuracy(partial):.3f} of {HELD_OUT} held-out captions become an English "
            "caption of their scene"
        )


def write_tokenizer(pieces: Path, folder: Path) -> dict[str, int]:
    """Marian's tokenizer: a SentencePiece model for each language (here the same one), and the ids
    of both; padding comes last, as in Marian.
    """
    proto = ModelProto.FromString(pieces.read_bytes())
    # nine tenths of the file, for characters that no caption has
    proto.normalizer_spec.precompiled_charsmap = b""
    proto.normalizer_spec.name = "identity"
    for side in ("source", "target"):
        (folder / f"{side}.spm").write_bytes(proto.SerializeToString(deterministic=True))
    texts = [
        one.piece for one in proto.pieces if one.piece not in ("<unk>", "</s>", "<s>", "<pad>")
    ]
    vocabulary = {piece: i for i, piece in enumerate(["</s>", "<unk>", *texts, "<pad>"])}
    (folder / "vocab.json").write_text(
        json.dumps(vocabulary, ensure_ascii=False, indent=0) + "\n", encoding="utf-8"
    )
    settings = {
        "tokenizer_class": "MarianTokenizer",
        "source_lang": "ja",
        "target_lang": "en",
        "model_max_length": POSITIONS,
    }
    write_json(folder / "tokenizer_config.json", settings)
    return vocabulary


def load_tokenizer(folder: Path) -> Any:
    with warnings.catch_warnings():
        # it would normalise punctuation
        warnings.filterwarnings("ignore", message="Recommended: pip install sacremoses")
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


def config(vocabulary: dict[str, int]) -> MarianConfig:
    pad, eos = vocabulary["<pad>"], vocabulary["</s>"]
    tower = {
        f"{side}_{name}": value
        for side in ("encoder", "decoder")
        for name, value in (("layers", LAYERS), ("attention_heads", HEADS))
    }
    widths: dict[str, Any] = {
        "d_model": WIDTH,
        "encoder_ffn_dim": 2 * WIDTH,
        "decoder_ffn_dim": 2 * WIDTH,
        "max_position_embeddings": POSITIONS,
    }
    ids = {
        "vocab_size": len(vocabulary),
        "pad_token_id": pad,
        "eos_token_id": eos,
        "forced_eos_token_id": eos,
        "decoder_start_token_id": pad,
    }
    # the usual 0.02 is for wide models: here words would start much smaller than positions
    widths["init_std"] = 0.1
    return MarianConfig(
        **tower,
        **widths,
        **ids,
        activation_function="swish",
        scale_embedding=True,
        static_position_embeddings=True,
    )


def batch_of(step: int, tokenizer: Any) -> dict[str, torch.Tensor]:
    """Ids and mask (B, L) of Japanese captions, labels (B, T) of the English ones: a pure function
    of the step.
    """
    pairs = list(captions.pairs(BATCH, "train", zlib.crc32(f"translator {step}".encode())))
    source = tokenizer([one.text for one in pairs], padding=True, return_tensors="pt")
    labels_BT = tokenizer(
        text_target=[str(captions.english(one.scene, First())) for one in pairs],
        padding=True,
        return_tensors="pt",
    ).input_ids
    return {**source, "labels": labels_BT.masked_fill(labels_BT == tokenizer.pad_token_id, -100)}


def accuracy(folder: Path) -> float:
    """The share of held-out captions whose translation describes their scene."""
    tokenizer = load_tokenizer(folder)
    model = AutoModelForSeq2SeqLM.from_pretrained(
        folder, dtype=torch.float32, trust_remote_code=False, use_safetensors=True
    ).eval()
    pairs = list(captions.pairs(HELD_OUT, "held_out", SEED))
    inputs = tokenizer([one.text for one in pairs], padding=True, return_tensors="pt")
    ids = model.generate(**inputs, num_beams=1, do_sample=False, max_new_tokens=64)
    scenes = map(caption_reader.read, tokenizer.batch_decode(ids, skip_special_tokens=True))
    return sum(
        scene is not None and scene.key == one.key for scene, one in zip(scenes, pairs, strict=True)
    ) / len(pairs)


def main(argv: list[str] | None = None) -> int:
    arguments = maker_parser("translator").parse_args(argv)
    train(arguments.out, arguments.work)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
