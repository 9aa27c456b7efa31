"""What every contestant of the trainer's benchmark trains on: the same pairs in the same order, and
encoders of a profile's size with random weights.

In:  a recipe whose pairs and initial student are prepared (`corpora.prepare`, `vocab_init`): its
     texts and its Japanese tokenizer.
Out: `Workload`, in memory. Nothing on disk.
"""

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks import encoders
from benchmarks.encoders import Size
from configs.errors import DataError
from configs.schema.distill import Distill, Objective
from configs.schema.recipe import Recipe
from corpora.pair import read_pairs
from distill.encoders.teacher import TextEncoders
from distill.tokenizer import portable
from distill.tokens import store
from distill.tokens.batches import Batches, special_ids
from distill.tokens.token_pairs import TokenPairs


@dataclass(frozen=True)
class Profile:
    """The sizes of both encoders, and how much to measure."""

    clip_l: Size
    clip_bigg: Size
    batch_size: int
    steps: int  # of each contestant in each round
    rounds: int
    precision: str
    workers: int = 0  # `num_workers` of the plain recipe's DataLoader, which tokenises
    compiled: bool = True  # whether to measure ours with compiled blocks too (a minute more)
    # whether all contestants fit into memory at once; otherwise each is rebuilt for every turn
    together: bool = True

    @property
    def sizes(self) -> dict[str, Size]:
        return {"clip_l": self.clip_l, "clip_bigg": self.clip_bigg}


# `token_pairs` knows no sources, no composed prompts and no rare words: settings that ask for none.
PAIRS_ALONE = {"source_weights": {}, "composed_share": 0.0, "repeat_words_below": 0}
PROFILES = {
    # takes seconds; shows that everything runs, not how fast
    "smoke": Profile(
        Size(16, 3, 2, "quick_gelu"),
        Size(24, 3, 2, "gelu", 24),
        batch_size=8,
        steps=1,
        rounds=2,
        precision="fp32",
        compiled=False,
    ),
    # small enough for two cores, large enough that matrix products take most of the time
    "cpu": Profile(
        Size(256, 4, 4, "quick_gelu"),
        Size(384, 6, 6, "gelu", 384),
        batch_size=48,
        steps=1,
        rounds=5,
        precision="fp32",
    ),
    # SDXL's own
    "gpu": Profile(
        Size(768, 12, 12, "quick_gelu"),
        Size(1280, 32, 20, "gelu", 1280),
        512,
        steps=4,
        rounds=5,
        precision="bf16",
        workers=4,
        together=False,
    ),
}


@dataclass(frozen=True)
class Workload:
    """`teacher` holds stock transformers encoders."""

    profile: Profile
    settings: Distill
    pairs: list[tuple[str, str]]  # Japanese, English, in the order our batches draw them
    batches: Batches  # over these pairs alone, without empty prompts or English ones
    teacher: TextEncoders
    student_tokenizer: Any

    def student(self) -> dict[str, Any]:
        return encoders.student_of(self.teacher, self.student_tokenizer)


def load(recipe: Recipe, profile: Profile, count: int) -> Workload:
    """The workload of `count` pairs. Raises DataError if the recipe's pairs or initial student are
    missing, or if there are fewer pairs.
    """
    student_tokenizer = portable.load(recipe.run_dir / "initial_student" / "tokenizer")
    texts = read_texts(recipe, count)
    teacher = encoders.random_teacher(profile.sizes)
    readers = store.by_side(teacher.tokenizers, student_tokenizer)
    changes = {
        "objective": Objective(position=1.0),
        "batch_size": profile.batch_size,
        "precision": profile.precision,
        "steps": 10**6,
        "empty_prompt_share": 0.0,
        "english_share": 0.0,
        **PAIRS_ALONE,
    }
    settings = recipe.distill.model_copy(update=changes)
    batches = Batches(settings, token_pairs(texts, readers), special_ids(readers))
    order = [
        row for step in range(count // profile.batch_size) for row in batches.rows(step)["pair"]
    ]
    return Workload(
        profile, settings, [texts[row] for row in order], batches, teacher, student_tokenizer
    )


def read_texts(recipe: Recipe, count: int) -> list[tuple[str, str]]:
    """The first training pairs of the recipe's run. Raises DataError where there are fewer."""
    texts = [
        (row.text, row.en)
        for row in itertools.islice(read_pairs(recipe.run_dir / "pairs", "train"), count)
    ]
    if len(texts) < count:
        raise DataError(
            f"{recipe.run_dir / 'pairs'}: holds {len(texts)} training pairs, this profile takes "
            f"{count}; prepare more"
        )
    return texts


def token_pairs(texts: list[tuple[str, str]], readers: dict[str, Any]) -> TokenPairs:
    """The same ids as `distill.tokens` stores, in memory."""
    found = {
        side: [
            np.array(ids)
            for ids in reader(
                [text[side != "text"] for text in texts], truncation=True, max_length=77
            ).input_ids
        ]
        for side, reader in readers.items()
    }
    offsets = {side: np.cumsum([0, *map(len, rows)]) for side, rows in found.items()}
    return TokenPairs({side: np.concatenate(rows) for side, rows in found.items()}, offsets)
