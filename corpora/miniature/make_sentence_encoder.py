"""Trains toyworld's sentence encoder, a miniature of multilingual-e5: texts of the same meaning get
near vectors in either language.

    python -m corpora.miniature.make_sentence_encoder

In:  toyworld's training captions and the lexicon of its grammar.
Out: `sentence_encoder` among toyworld's models: a sentence-transformers model, the mean of one
     vector per word. Takes half a minute on one core; the same captions give the same weights.

Shape letters: B batch, V vocabulary, D width, C English candidates, W Japanese words.
"""

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from torch import nn
from tqdm import tqdm

from configs.files import whole_folder
from configs.references import TOYWORLD_MODELS
from corpora.miniature.make_tokenizer import ASCII, KANA
from corpora.toyworld import captions, lexicon

WIDTH = 64
CAPTIONS = 8_000
SEED = 2_000
STEPS, BATCH = 600, 128
LEARNING_RATE = 0.02
# of the InfoNCE loss, as in sentence-transformers' MultipleNegativesRankingLoss (scale 20)
TEMPERATURE = 0.05
# fragments of English words: a CLIP vocabulary is full of them, and none may be nearer than a word
FRAGMENTS = 400
UNKNOWN = "<unk>"


def train(folder: Path) -> None:
    """Writes the model whole or not at all."""
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    pairs = list(captions.pairs(CAPTIONS, "train", SEED))
    tokenizer = make_tokenizer(
        [caption.text for caption in pairs], [caption.en for caption in pairs]
    )
    table = nn.EmbeddingBag(tokenizer.get_vocab_size(), WIDTH)
    nn.init.normal_(table.weight, std=0.5)
    optimizer = torch.optim.Adam(table.parameters(), lr=LEARNING_RATE)
    words, candidates, target_WC = word_lists([caption.en for caption in pairs])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for step in tqdm(range(STEPS), desc="sentence encoder"):
        some = random.Random(step).sample(pairs, BATCH)
        japanese_BD, english_BD = (
            encode(table, tokenizer, [getattr(caption, side) for caption in some])
            for side in ("text", "en")
        )
        similarity_BB = japanese_BD @ english_BD.T / TEMPERATURE
        target_B = torch.arange(BATCH)
        sentences = F.cross_entropy(similarity_BB, target_B) + F.cross_entropy(
            similarity_BB.T, target_B
        )
        similarity_WC = (
            encode(table, tokenizer, words) @ encode(table, tokenizer, candidates).T / TEMPERATURE
        )
        loss = sentences + F.cross_entropy(similarity_WC, target_WC)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    save(tokenizer, table.weight.detach(), folder)
    print(f"{folder}: {table.num_embeddings} words of width {WIDTH}, loss {loss.item():.3f}")


def make_tokenizer(japanese: list[str], english: list[str]) -> Tokenizer:
    """A unigram model of equal scores, so it spells a text in the fewest pieces, out of the
    grammar's words and single characters.
    """
    words = {word for text in japanese for word in lexicon.words_of(text)} | {
        word for text in english for word in _english_words(text)
    }
    pieces = [UNKNOWN, *sorted(words | set("".join(words)) | set(ASCII.lower()) | set(KANA))]
    tokenizer = Tokenizer(
        models.Unigram([(piece, -1.0) for piece in pieces], unk_id=0, byte_fallback=False)
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex("[,;.!?、。]"), "isolated")]
    )
    return tokenizer


def word_lists(english: list[str]) -> tuple[list[str], list[str], torch.Tensor]:
    """Japanese words (W), English candidates (C), and target probabilities (W, C) whose rows sum to
    1.
    """
    meanings = lexicon.meanings()
    words = sorted({word for text in english for word in _english_words(text)})
    cuts = {word[:end] for word in words for end in range(1, len(word))} | {
        word[start:] for word in words for start in range(1, len(word))
    }
    candidates = words + sorted(cuts - set(words))[:FRAGMENTS]
    target_WC = torch.tensor(
        [
            [float(candidate in right) / len(right) for candidate in candidates]
            for right in meanings.values()
        ]
    )
    assert bool((target_WC.sum(dim=1) - 1).abs().max() < 1e-6), "a meaning no caption says"
    return list(meanings), candidates, target_WC


def encode(table: nn.EmbeddingBag, tokenizer: Tokenizer, texts: Sequence[str]) -> torch.Tensor:
    """(B, D) unit vectors, as the saved model gives them."""
    ids = [
        encoding.ids for encoding in tokenizer.encode_batch(list(texts), add_special_tokens=False)
    ]
    starts = torch.tensor([0, *map(len, ids)][:-1]).cumsum(0)
    return F.normalize(table(torch.tensor([i for row in ids for i in row]), starts), dim=1)


def save(tokenizer: Tokenizer, weights_VD: torch.Tensor, folder: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    weights_VD = weights_VD.clone()
    weights_VD[0] = 0.0  # the unknown token would otherwise be random
    model = SentenceTransformer(
        modules=[StaticEmbedding(tokenizer, embedding_weights=weights_VD)], device="cpu"
    )
    # every release from 5.0 on knows this class name; the one that release 6 writes is new
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.StaticEmbedding"}
    ]
    with whole_folder(folder, replace=True) as partial:
        model.save(str(partial), create_model_card=False)
        (partial / "modules.json").write_text(
            json.dumps(modules, indent=2) + "\n", encoding="utf-8"
        )


def _english_words(text: str) -> list[str]:
    return "".join(character if character.isalpha() else " " for character in text).split()


def main(argv: list[str] | None = None) -> int:
    prog = "python -m corpora.miniature.make_sentence_encoder"
    parser = argparse.ArgumentParser(
        prog=prog, description="Trains toyworld's sentence encoder.", allow_abbrev=False
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=TOYWORLD_MODELS / "sentence_encoder",
        help="the folder to write (default %(default)s)",
    )
    train(parser.parse_args(argv).out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
