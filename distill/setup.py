"""Everything training needs, gathered from disk: what one process prepares for all, and what each process loads.

Out: `<run>/tokens/`, and below `<run>/distill/` `teacher_statistics.safetensors` and, for the objectives that need them,
     `query_bank.safetensors` and `random_attention.safetensors` (each made once).
"""

import itertools
from dataclasses import dataclass
from pathlib import Path

import torch

from configs import schema
from configs.distill import Distill
from configs.lock import locked
from corpora.pair import read_pairs
from distill import query_bank, random_attention, statistics, tokens
from distill.batches import Batches, special_ids
from distill.engine import Engine, weights_dtype
from distill.loss import Loss
from distill.student import TowerPair, initial_student, teacher_towers
from distill.teacher import load_text_encoders
from distill.tokenizers import load as load_tokenizer

STATISTICS_PROMPTS, VARIANCE_PROMPTS = 1024, 64
STATISTICS, QUERY_BANK, RANDOM_LAYERS = "teacher_statistics.safetensors", "query_bank.safetensors", "random_attention.safetensors"


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
    """Tokens, teacher statistics, query bank and random layers, unless they are there. One process does this while the others wait."""
    settings, run = recipe.distill, recipe.run_dir / "distill"
    with locked(recipe.run_dir / "tokens"):
        tokens.prepare(recipe)
    if all((run / name).is_file() for name in _measured(settings)):
        return
    teacher = load_text_encoders(schema.resolve_model(settings.base), settings.teacher)
    count = max(STATISTICS_PROMPTS, settings.query_bank.prompts)
    prompts = [pair.en for pair in itertools.islice(read_pairs(recipe.run_dir / "pairs", "train"), count)]
    statistics.record(run / STATISTICS, teacher, prompts[:STATISTICS_PROMPTS])
    if settings.objective.uses("random_attention"):
        measured = statistics.load(run / STATISTICS)
        random_attention.record(run / RANDOM_LAYERS, settings.random_attention, measured, teacher, prompts[:VARIANCE_PROMPTS], settings.seed)
    if settings.objective.uses("cross_attention"):
        bank = settings.query_bank
        query_bank.record(run / QUERY_BANK, unet_folders(settings), teacher, prompts[: bank.prompts], bank, settings.seed)


def load(recipe: schema.Recipe) -> Work:
    """Builds student, engine, teacher, batches and loss in this process."""
    settings = recipe.distill
    torch.manual_seed(settings.seed)
    encoders = load_text_encoders(schema.resolve_model(settings.base), settings.teacher)
    initial = recipe.run_dir / "initial_student"
    every_layer = settings.position_layers == "all" and settings.objective.uses("position")
    student = initial_student(encoders, initial, every_layer)
    dead = {name: parameter.detach().clone() for name, parameter in student.named_parameters() if not parameter.requires_grad}
    engine = Engine(student, settings)
    teacher = teacher_towers(encoders, every_layer).to(engine.device, weights_dtype(settings.precision))
    tokenizers = tokens.by_side(encoders.tokenizers, load_tokenizer(initial / "tokenizer"))
    if settings.compile:
        for towers in (student, teacher):
            towers.compile_layers()
    return Work(
        engine=engine,
        student=student,
        teacher=teacher,
        batches=Batches.of(settings, tokens.load(recipe.run_dir / "tokens"), special_ids(tokenizers)),
        loss=_loss(settings, recipe.run_dir / "distill", engine.device),
        dead_weights=dead,
    )


def _loss(settings: Distill, run: Path, device: torch.device) -> Loss:
    measured = statistics.load(run / STATISTICS, device)
    layers, random_layers = [], []
    if settings.objective.uses("cross_attention"):
        layers = query_bank.load(run / QUERY_BANK, unet_folders(settings), settings.query_bank, device)
    if settings.objective.uses("random_attention"):
        random_layers = random_attention.load(run / RANDOM_LAYERS, settings.random_attention, measured, settings.seed, device)
    return Loss(settings, measured, layers, random_layers)


def _measured(settings: Distill) -> list[str]:
    """The files that must lie below `<run>/distill` before training."""
    used = {RANDOM_LAYERS: "random_attention", QUERY_BANK: "cross_attention"}
    return [STATISTICS, *(name for name, term in used.items() if settings.objective.uses(term))]


def unet_folders(settings: Distill) -> dict[str, str]:
    """`Distill.unets` as folders (or hub names)."""
    return {name: schema.resolve_model(folder) for name, folder in settings.unets.items()}
