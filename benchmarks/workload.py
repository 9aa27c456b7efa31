"""What every contestant of a benchmark trains on: the same pairs in the same order, and encoders of a profile's size with random weights.

In:  a recipe whose pairs and initial student are prepared (`corpora.prepare`, `vocab_init`): its texts, lengths and tokenizers.
Out: `Workload`, in memory. Nothing on disk.
"""

import copy
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from configs import schema
from configs.distill import Distill, Objective
from distill import setup, tokens
from distill.batches import Batches
from distill.teacher import ENCODERS, TextEncoders, load_tokenizer
from distill.tokenizers import load as load_student_tokenizer


@dataclass(frozen=True)
class Size:
    """A CLIP text encoder; `projection` is 0 where it has none."""

    width: int
    layers: int
    heads: int
    activation: str
    projection: int = 0


@dataclass(frozen=True)
class Profile:
    """The sizes of both encoders, and how long to measure."""

    clip_l: Size
    clip_bigg: Size
    batch_size: int
    steps: int  # a round and contestant
    rounds: int
    precision: str


PROFILES = {
    # seconds: says whether everything runs, not how fast
    "smoke": Profile(Size(16, 3, 2, "quick_gelu"), Size(24, 3, 2, "gelu", 24), batch_size=8, steps=1, rounds=2, precision="fp32"),
    # small enough for two cores, large enough that matrix products and not Python are what takes the time
    "cpu": Profile(Size(256, 4, 4, "quick_gelu"), Size(384, 6, 6, "gelu", 384), batch_size=32, steps=1, rounds=7, precision="fp32"),
    # SDXL's own
    "gpu": Profile(Size(768, 12, 12, "quick_gelu"), Size(1280, 32, 20, "gelu", 1280), batch_size=512, steps=4, rounds=5, precision="bf16"),
}


@dataclass(frozen=True)
class Workload:
    """`teacher` holds stock transformers encoders; `student_vocab_size` rows is what a student's embeddings have."""

    profile: Profile
    settings: Distill
    pairs: list[tuple[str, str]]  # Japanese, English, in the order our batches draw them
    batches: Batches  # over these pairs alone, without empty prompts or English ones
    teacher: TextEncoders
    student_tokenizer: Any

    def student(self) -> dict[str, Any]:
        """The stock encoders with a new vocabulary: the teacher's layers, random token embeddings."""
        students = {}
        for name, model in self.teacher.models.items():
            config = copy.deepcopy(model.config)
            config.vocab_size, config.eos_token_id = len(self.student_tokenizer), self.student_tokenizer.eos_token_id  # pooled is read at EOS
            torch.manual_seed(1)
            students[name] = type(model)(config)
            state = {key: value for key, value in model.state_dict().items() if not key.endswith("token_embedding.weight")}
            students[name].load_state_dict(state, strict=False)
        return students


def load(recipe: schema.Recipe, profile: Profile, pairs: int) -> Workload:
    """Raises DataError where the recipe's pairs or initial student are missing."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    from corpora.pair import read_pairs

    found = tokens.prepare(recipe)
    base = schema.resolve_model(recipe.distill.base)
    models, tokenizers = {}, {}
    for seed, (name, kind) in enumerate(zip(ENCODERS, (CLIPTextModel, CLIPTextModelWithProjection), strict=True)):
        size: Size = getattr(profile, name)
        tokenizers[name] = load_tokenizer(base, name)
        config = CLIPTextConfig(
            vocab_size=len(tokenizers[name]),
            hidden_size=size.width,
            intermediate_size=4 * size.width,
            num_hidden_layers=size.layers,
            num_attention_heads=size.heads,
            hidden_act=size.activation,
            projection_dim=size.projection or size.width,
            max_position_embeddings=77,
            bos_token_id=tokenizers[name].bos_token_id,
            eos_token_id=tokenizers[name].eos_token_id,
        )
        torch.manual_seed(seed)
        models[name] = kind(config).eval().requires_grad_(False)
    changes = {"objective": Objective(position=1.0), "batch_size": profile.batch_size, "precision": profile.precision, "steps": 10**6}
    settings = recipe.distill.model_copy(update=changes)
    texts = [(row.ja, row.en) for row in itertools.islice(read_pairs(Path(recipe.run_dir) / "pairs", "train"), pairs)]
    teacher, student_tokenizer = TextEncoders(tokenizers, models), load_student_tokenizer(recipe.run_dir / "initial_student" / "tokenizer")
    offsets = {side: found.offsets[side][: len(texts) + 1] for side in tokens.SIDES}
    ids = setup.special_ids(teacher, recipe.run_dir / "initial_student")
    batches = Batches(tokens.TokenPairs(found.ids, offsets), ids, profile.batch_size, 0.0, 0.0, settings.seed)
    order = [row for step in range(len(texts) // profile.batch_size) for row in batches.rows(step)["row"]]
    return Workload(profile, settings, [texts[row] for row in order], batches, teacher, student_tokenizer)
