"""Everything training needs, gathered from disk: what one process prepares for all, and what each
process loads.

Out: `<run>/tokens/` and `<run>/distill/measured/` (`measuring.py`). Each is made once; what is
     damaged, or made from other inputs before the first checkpoint, is made again.
     `<run>/distill/run.json`, the inputs' digests.
"""

from pathlib import Path

import torch

from configs import memory
from configs.lock import locked
from configs.schema.distill import Distill
from configs.schema.recipe import Recipe
from distill.encoders.family import Family
from distill.encoders.student import Towers, initial_student, teacher_towers
from distill.encoders.teacher import TextEncoders, load_text_encoders
from distill.objective import query_bank, random_attention, teacher_statistics
from distill.objective.terms import Loss
from distill.parallel.engine import Engine, weights_dtype
from distill.run import inputs, run_folder
from distill.run.inputs import unet_folders
from distill.tokenizer.portable import load as load_tokenizer
from distill.tokens import store, token_pairs
from distill.tokens.batches import Batches, special_ids
from distill.train import held_out, measuring
from distill.train.measuring import MEASURED, QUERY_BANK, RANDOM_LAYERS, STATISTICS
from distill.train.work import Work


def prepare(recipe: Recipe, family: Family) -> TextEncoders | None:
    """Tokens, teacher statistics, query bank and random layers, unless they are there, whole and of
    these inputs.

    One process does this while the others wait. Returns the teacher where it had to be loaded.
    Raises DataError for an input that has changed since the run began.
    """
    run = recipe.run_dir / "distill"
    found = inputs.of_training(recipe, family)
    run_folder.check_inputs(run, found)
    with locked(recipe.run_dir / "tokens"):
        store.prepare(recipe, family, inputs.of_tokens_among(found))
    teacher, made_from = None, inputs.of_measurements(found)
    if run_folder.must_be_made(run / MEASURED, made_from, run):
        teacher = measuring.measure(recipe, family, run / MEASURED, made_from)
    known = run_folder.recorded_inputs(run) if run_folder.has_checkpoints(run) else {}
    for_export = {name: digest for name, digest in known.items() if name not in found}
    run_folder.record_inputs(
        recipe, run, found | (for_export or inputs.of_pipelines(recipe.distill))
    )
    return teacher


def load(recipe: Recipe, family: Family, teacher: TextEncoders | None = None) -> Work:
    """Builds student, engine, teacher, batches and loss in this process, all weights in the
    training's precision from the start.

    `teacher`: what `prepare` returned here; read from disk where that is None. Its `models` are
    taken out, so that nothing holds them during the training.
    """
    settings = recipe.distill
    torch.manual_seed(settings.seed)
    dtype = weights_dtype(settings.precision)
    encoders = teacher or load_text_encoders(settings.base.path, family, settings.teacher, dtype)
    student = initial_student(encoders, recipe.run_dir / "initial_student", dtype)
    frozen = teacher_towers(encoders, dtype)
    encoders.models.clear()
    memory.give_back()
    dead = {
        name: parameter.detach().clone()
        for name, parameter in student.named_parameters()
        if not parameter.requires_grad
    }
    engine = Engine(student, settings)
    memory.give_back()  # what the engine has copied
    work = work_of(recipe, encoders, frozen, student, engine, dead)
    if settings.compile:
        for towers in (student, work.teacher):
            towers.compile_layers()
    return work


def work_of(
    recipe: Recipe,
    encoders: TextEncoders,
    teacher: Towers,
    student: Towers,
    engine: Engine,
    dead_weights: dict[str, torch.Tensor],
) -> Work:
    """What a step touches, of a student that is in an engine already. `encoders`: the teacher's, of
    which the tokenizers alone are read.
    """
    settings, family = recipe.distill, encoders.family
    initial = recipe.run_dir / "initial_student"
    tokenizers = store.by_side(encoders.tokenizers, load_tokenizer(initial / "tokenizer"))
    pairs = token_pairs.load(recipe.run_dir / "tokens", family)
    return Work(
        engine=engine,
        student=student,
        teacher=teacher.to(engine.device),
        batches=Batches(settings, pairs, special_ids(tokenizers)),
        loss=_loss(settings, family, recipe.run_dir / "distill" / MEASURED, engine.device),
        dead_weights=dead_weights,
        held_out=held_out.load(settings, recipe.run_dir / "pairs", tokenizers),
    )


def _loss(settings: Distill, family: Family, folder: Path, device: torch.device) -> Loss:
    """The attention layers are held and computed in the training's precision: GPUs multiply bf16
    several times faster than fp32.
    """
    measured = teacher_statistics.load(folder / STATISTICS, family, device)
    dtype = weights_dtype(settings.precision)
    layers, random_layers = [], []
    if settings.objective.uses("cross_attention"):
        layers = query_bank.load(
            folder / QUERY_BANK, unet_folders(settings), settings.query_bank, family, device, dtype
        )
    if settings.objective.uses("random_attention"):
        random_layers = random_attention.load(
            folder / RANDOM_LAYERS,
            settings.random_attention,
            family,
            measured,
            settings.seed,
            device,
            dtype,
        )
    return Loss(settings, measured, layers, random_layers)
