"""Everything training needs, gathered from disk: what one process prepares for all, and what each process loads.

Out: `<run>/tokens/`, `<run>/distill/teacher_statistics.safetensors`, `<run>/distill/query_bank.safetensors` (each made once).
"""

import itertools
from dataclasses import dataclass
from pathlib import Path

import torch

from configs import schema
from corpora.pair import read_pairs
from distill import query_bank, statistics, tokens
from distill.batches import Batches, SpecialIds
from distill.engine import Engine
from distill.loss import Loss
from distill.student import TowerPair, initial_student, teacher_towers
from distill.teacher import TextEncoders, load_text_encoders
from distill.tokenizers import load as load_tokenizer

STATISTICS_PROMPTS = 1024


@dataclass(frozen=True)
class Work:
    """What a training step touches."""

    engine: Engine
    student: TowerPair
    teacher: TowerPair
    batches: Batches
    loss: Loss
    dead_weights: dict[str, torch.Tensor]

    def stack(self, values: list[torch.Tensor]) -> torch.Tensor:
        return torch.stack([value.to(self.engine.device, torch.float32) for value in values])


def prepare(recipe: schema.Recipe) -> None:
    """Tokens, teacher statistics and the query bank, unless they are there. One process does this while the others wait."""
    settings, run = recipe.distill, recipe.run_dir / "distill"
    tokens.prepare(recipe)
    base, refiner = _folders(settings)
    needed = {"teacher_statistics.safetensors", *(["query_bank.safetensors"] if settings.objective == "cross_attention" else [])}
    if all((run / name).is_file() for name in needed):
        return
    teacher = load_text_encoders(base, settings.teacher)
    prompts = [
        pair.en for pair in itertools.islice(read_pairs(recipe.run_dir / "pairs", "train"), max(STATISTICS_PROMPTS, settings.query_bank.prompts))
    ]
    statistics.record(run / "teacher_statistics.safetensors", teacher, prompts[:STATISTICS_PROMPTS])
    if settings.objective == "cross_attention":
        query_bank.record(
            run / "query_bank.safetensors", base, refiner, teacher, prompts[: settings.query_bank.prompts], settings.query_bank, settings.seed
        )


def load(recipe: schema.Recipe) -> Work:
    """Builds student, engine, teacher, batches and loss in this process."""
    settings, run = recipe.distill, recipe.run_dir / "distill"
    torch.manual_seed(settings.seed)
    encoders = load_text_encoders(_folders(settings)[0], settings.teacher)
    initial = recipe.run_dir / "initial_student"
    student = initial_student(encoders, initial)
    dead = {name: parameter.detach().clone() for name, parameter in student.named_parameters() if not parameter.requires_grad}
    engine = Engine(student, settings)
    dtype = torch.bfloat16 if settings.precision == "bf16" else torch.float32
    layers = query_bank.load(run / "query_bank.safetensors", engine.device) if settings.objective == "cross_attention" else []
    return Work(
        engine=engine,
        student=student,
        teacher=teacher_towers(encoders).to(engine.device, dtype),
        batches=Batches(
            tokens.load(recipe.run_dir / "tokens"), special_ids(encoders, initial), settings.batch_size, settings.empty_prompt_share, settings.seed
        ),
        loss=Loss(settings, statistics.load(run / "teacher_statistics.safetensors", engine.device), layers),
        dead_weights=dead,
    )


def special_ids(teacher: TextEncoders, initial: Path) -> dict[str, SpecialIds]:
    tokenizers = {f"en_{name}": tokenizer for name, tokenizer in teacher.tokenizers.items()} | {"ja": load_tokenizer(initial / "tokenizer")}
    return {side: SpecialIds(tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) for side, tokenizer in tokenizers.items()}


def _folders(settings: schema.Distill) -> tuple[str, str | None]:
    return schema.resolve_model(settings.base), schema.resolve_model(settings.refiner) if settings.refiner else None
