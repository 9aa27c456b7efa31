"""Distils the English text encoders into Japanese ones."""

import math
import os
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import torch

from configs import signals
from configs.lock import locked
from configs.schema.distill import Distill
from configs.schema.recipe import Recipe
from distill import run_folder
from distill.checkpoints.checkpoint import Checkpoints
from distill.encoders.family import Family
from distill.encoders.teacher import TextEncoders
from distill.parallel import engine, processes, watch
from distill.parallel.watch import Watch
from distill.sdxl.base import settled
from distill.status import Writer, recorded
from distill.train import finite, held_out, preparation
from distill.train.log import Log
from distill.train.work import Work, global_counts


def train(recipe: Recipe) -> None:
    """Runs or resumes the distillation; every process of the launcher calls it.

    Raises DataError, SetupError, RecipeError, Preempted, KeyboardInterrupt, and SystemExit in
    processes whose end rank 0 reports.
    """
    # a lost connection is reported in one line, not with torch's stack
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    watch.follow_launcher()
    run = recipe.run_dir / "distill"
    writer = Writer(run)
    engine.start()
    try:
        with processes.lost_ones_explained(), ExitStack() as held:
            watched = watch.Watch(recipe.distill.hung_after_seconds, writer.end)
            held.callback(watched.stop)
            teachers: list[TextEncoders] = []
            processes.first(lambda: _prepare(*settled(recipe), run, writer, held, teachers))
            _train(*settled(recipe), run, watched, writer, teachers)
    finally:
        engine.stop()


def _prepare(
    recipe: Recipe,
    family: Family,
    run: Path,
    writer: Writer,
    held: ExitStack,
    teachers: list[TextEncoders],
) -> None:
    """Rank 0 alone: holds the run's folder and its status until `held` closes, and makes what all
    processes load. The teacher, where that needs it, goes into `teachers`: it is loaded once.
    """
    recipe.distill.check_processes(engine.world_size())
    held.enter_context(locked(run))
    run_folder.claim_run(recipe, run)
    held.enter_context(recorded(writer))
    writer.write("preparing", "tokens, statistics and query bank")
    if (teacher := preparation.prepare(recipe, family)) is not None:
        teachers.append(teacher)


def _train(
    recipe: Recipe,
    family: Family,
    run: Path,
    watched: Watch,
    writer: Writer,
    teachers: list[TextEncoders],
) -> None:
    settings = recipe.distill
    checkpoints = Checkpoints(run, settings.keep_checkpoints)
    newest = checkpoints.latest()
    if newest is not None and newest.name == f"step_{settings.steps:06d}":
        say(f"{newest}: the distillation is finished")
        return _finish(settings, writer)
    watched.at(0, "loading for")
    # popped, so that nothing holds it during the training
    work = preparation.load(recipe, family, teachers.pop() if teachers else None)
    start = checkpoints.resume(work.engine, newest)
    pairs = len(work.batches.tokens)
    say(
        f"step {start} to {settings.steps}, {settings.objective}: {pairs:,} pairs, "
        f"{settings.batch_size} a step, {engine.world_size()} processes"
    )
    if work.held_out is None:
        say(f"{recipe.run_dir / 'pairs'}: no held-out pairs, so no held-out loss (val/...)")
    writer.step = start
    signals.defer()
    if engine.rank() == 0:
        writer.write("training", f"step {start} to {settings.steps}")
    _loop(work, settings, run, start, checkpoints, watched, writer)
    check_dead_parameters(work)
    _finish(settings, writer)


def _finish(settings: Distill, writer: Writer) -> None:
    """Reports success, also if a signal arrived after the last save: all steps are done."""
    writer.step = settings.steps
    if engine.rank() == 0:
        writer.end(0, "the distillation is finished")


def _loop(
    work: Work,
    settings: Distill,
    run: Path,
    start: int,
    checkpoints: Checkpoints,
    watched: Watch,
    writer: Writer,
) -> None:
    skipped, due = 0, False
    log = Log(run, start, work, settings) if engine.rank() == 0 else None
    try:
        for step in range(start, settings.steps):
            watched.at(step + 1, "training")
            started = time.monotonic()
            values, taken = one_step(work, settings, step)
            if log is not None:
                log.speed.count(step, time.monotonic() - started)
            skipped = 0 if taken else skipped + 1
            finite.check_taken(work, settings, skipped, step)
            last = step + 1 == settings.steps
            evaluate = last or (step + 1) % settings.eval_every_steps == 0
            if taken and (evaluate or (step + 1) % settings.log_every_steps == 0):
                row = _measured(work, settings, step, values)
                if evaluate:
                    watched.at(step + 1, "evaluating")
                    row |= held_out.losses(work, settings, step)
                if log is not None:
                    log.write(step + 1, row)
            stopping = processes.stop_requested(work.engine.device)
            due = due or last or bool(stopping) or (step + 1) % settings.save_every_steps == 0
            # A state whose gradient is not finite may be a diverged one: it replaces no good one.
            if due and (taken or last):
                watched.at(step + 1, "saving")
                checkpoints.save(work.engine, step + 1)
                due, writer.step = False, step + 1
                if engine.rank() == 0 and not (last or stopping):
                    writer.write("training", f"step {step + 1} of {settings.steps} is saved")
            if stopping and not last:
                saved = "which is not saved, as it was skipped" if due else "which is saved"
                raise processes.stop(stopping, f" after step {step + 1}, {saved}")
    finally:
        if log is not None:
            log.close()


def one_step(work: Work, settings: Distill, step: int) -> tuple[dict[str, torch.Tensor], bool]:
    """One optimizer step on the global batch of `step`; this process's share of every term, and
    whether the step was taken (`Engine.step`).
    """
    rows = work.batches.rows(step)
    counts = global_counts(work.batches, rows)
    micro_batches = work.batches.micro_batches(
        rows, engine.rank(), engine.world_size(), settings.tokens_per_micro_batch
    )
    sums: dict[str, torch.Tensor] = {}
    for number, (micro_rows, length) in enumerate(micro_batches, 1):
        work.engine.micro_batch(last=number == len(micro_batches))
        sides = work.sides(work.engine, work.batches, micro_rows, length)
        terms = work.loss.terms(sides, counts, step)
        work.engine.backward(terms["loss/total"])
        sums = {name: sums.get(name, 0) + term.detach() for name, term in terms.items()}
    return sums, work.engine.step(learning_rate(step, settings))


def _measured(
    work: Work, settings: Distill, step: int, values: dict[str, torch.Tensor]
) -> dict[str, float]:
    """A row of the log: the terms of the step's loss, and what its update was. Every rank must call
    this.
    """
    sums = engine.all_reduce_sum(work.stack([*values.values()]))
    row = dict(zip(values, sums.tolist(), strict=True))
    finite.check_losses(work, settings, row, step)
    ratios = work.engine.update_ratios()
    return {
        **row,
        "learning_rate": learning_rate(step, settings),
        "skipped_steps": work.engine.skipped_steps,
        "optimizer/gradient_norm": work.engine.gradient_norm,
        **{f"optimizer/update_ratio_{name}": ratio for name, ratio in ratios.items()},
    }


def learning_rate(step: int, settings: Distill) -> float:
    """Linear warm-up, then a cosine to zero."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    done = (step - settings.warmup_steps) / (settings.steps - settings.warmup_steps)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def check_dead_parameters(work: Work) -> None:
    """Asserts that the parameters no UNet reads are unchanged: DeepSpeed would decay those that
    receive no gradient.
    """
    for name, before in work.dead_weights.items():
        now = work.student.get_parameter(name).detach().cpu()
        assert now.equal(before.to(now.dtype)), f"{name} moved though it is frozen"


def say(text: str) -> None:
    if engine.rank() == 0:
        print(text, file=sys.stderr)
