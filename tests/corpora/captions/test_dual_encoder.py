"""One interface over CLOOB, CLIP and SigLIP 2."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from configs.errors import DataError
from configs.schema.captions import Ranker
from corpora.captions import dual_encoder

TEXTS = ["a red circle", "", "two blue squares " * 40]
IMAGES = [
    Image.new(mode, size, 100)
    for mode, size in (("RGB", (40, 30)), ("L", (9, 50)), ("RGBA", (32, 32)))
]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP of random weights, its tokenizer one token a byte."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

    folder = tmp_path_factory.mktemp("clip")
    alphabet = sorted(ByteLevel.alphabet())
    tokens = [*alphabet, *(f"{one}</w>" for one in alphabet), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(
        vocab={token: i for i, token in enumerate(tokens)}, merges=[], model_max_length=20
    )
    size = {"height": 16, "width": 16}
    CLIPProcessor(
        CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=size), tokenizer
    ).save_pretrained(folder)
    tower = {
        "hidden_size": 8,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    text = {
        **tower,
        "vocab_size": 514,
        "max_position_embeddings": 20,
        "bos_token_id": 512,
        "eos_token_id": 513,
    }
    torch.manual_seed(0)
    CLIPModel(
        CLIPConfig(
            text_config=text,
            vision_config={**tower, "image_size": 16, "patch_size": 8},
            projection_dim=6,
        )
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def siglip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SigLIP 2 (which is a SigLIP with Gemma's tokenizer) of random weights."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        PreTrainedTokenizerFast,
        SiglipConfig,
        SiglipImageProcessor,
        SiglipModel,
        SiglipProcessor,
    )

    folder = tmp_path_factory.mktemp("siglip")
    words = ["<pad>", "<eos>", "<unk>", "a", "red", "circle", "two", "blue", "squares"]
    backend = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>")
    )
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        model_max_length=12,
    )
    SiglipProcessor(
        SiglipImageProcessor(size={"height": 16, "width": 16}), tokenizer
    ).save_pretrained(folder)
    tower = {
        "hidden_size": 8,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    text = {
        **tower,
        "vocab_size": len(words),
        "max_position_embeddings": 12,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 1,
    }
    torch.manual_seed(0)
    SiglipModel(
        SiglipConfig(text_config=text, vision_config={**tower, "image_size": 16, "patch_size": 8})
    ).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_pairs_are_scored_one_by_one_as_in_batches(
    name: str, request: pytest.FixtureRequest
) -> None:
    encoder = dual_encoder.load(Ranker(model=str(request.getfixturevalue(name))))
    text_BP, image_BP = encoder.text_features(TEXTS), encoder.image_features(IMAGES)
    assert (
        text_BP.shape == image_BP.shape
        and len(text_BP) == len(TEXTS)
        and text_BP.dtype == torch.float32
    )
    wanted = torch.nn.functional.cosine_similarity(text_BP, image_BP).numpy()
    for size in (1, 2, 64):
        found = dual_encoder.similarities(encoder, TEXTS, IMAGES, size)
        assert found.dtype == np.float32 and np.allclose(found, wanted, atol=1e-6)
    assert dual_encoder.similarities(encoder, [], [], 4).shape == (0,)


def test_siglip_reads_its_pads(siglip: Path) -> None:
    encoder = dual_encoder.load(Ranker(model=str(siglip)))
    ids = torch.tensor([[3, 4, 5] + [0] * 9])
    with torch.inference_mode():
        wanted = encoder.model.get_text_features(input_ids=ids).pooler_output
    assert torch.allclose(encoder.text_features(["a red circle"]), wanted, atol=1e-6)


def test_what_cannot_rank_is_one_line(tmp_path: Path, clip: Path) -> None:
    from transformers import BertConfig, BertModel

    with pytest.raises(DataError, match="cannot be loaded"):
        dual_encoder.load(Ranker(model=str(tmp_path / "nothing")))
    BertModel(
        BertConfig(
            vocab_size=514,
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
            intermediate_size=8,
        )
    ).save_pretrained(tmp_path)
    for file in clip.iterdir():
        if file.name not in ("config.json", "model.safetensors"):
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(DataError, match="compares no texts with pictures"):
        dual_encoder.load(Ranker(model=str(tmp_path)))
