"""Distils the English text encoders into Japanese ones."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from configs.schema.distill import Distill
from configs.schema.recipe import Recipe
from distill.encoders.teacher import TextEncoders
from distill.parallel import engine, processes
from distill.parallel.engine import Engine
from distill.run import run_folder
from distill.sdxl.base import settled
from distill.train import finite, held_out, loop, preparation
from distill.train.speed import Speed
from distill.train.work import Work


def train(recipe: Recipe) -> None:
    """Runs or resumes the distillation; every process of the launcher calls it.

    Raises DataError, SetupError, RecipeError, Preempted, KeyboardInterrupt, and SystemExit in
    processes whose end rank 0 reports.
    """
    limit = recipe.distill.hung_after_seconds
    with (
        loop.process_group(),
        loop.session(recipe.run_dir / "distill", limit, "distill.train") as session,
    ):
        teachers: list[TextEncoders] = []
        processes.first(lambda: teachers.extend(_prepare(recipe, session)))
        settings = settled(recipe)[0].distill
        loop.train(
            session,
            settings,
            "the distillation",
            lambda: _load(recipe, teachers),
            lambda task: Speed(task.work, settings),
        )


def _prepare(recipe: Recipe, session: loop.Session) -> list[TextEncoders]:
    """Rank 0 alone: claims the folder and makes what all processes load. The teacher, where that
    needed it: so it is loaded once.
    """
    recipe, family = settled(recipe)
    recipe.distill.check_processes(engine.world_size())
    session.hold(
        "tokens, statistics and query bank",
        lambda: run_folder.claim_run(recipe, session.folder),
    )
    teacher = preparation.prepare(recipe, family)
    return [teacher] if teacher is not None else []


def _load(recipe: Recipe, teachers: list[TextEncoders]) -> tuple["Distillation", str]:
    recipe, family = settled(recipe)
    settings = recipe.distill
    # Popped, so that nothing holds it during the training.
    work = preparation.load(recipe, family, teachers.pop() if teachers else None)
    if work.held_out is None:
        loop.say(f"{recipe.run_dir / 'pairs'}: no held-out pairs, so no held-out loss (val/...)")
    pairs = f"{len(work.batches.tokens):,} pairs, {settings.batch_size} a step"
    return Distillation(work, settings), f"{settings.objective}: {pairs}"


@dataclass(frozen=True)
class Distillation:
    """What the training loop drives (`loop.Training`)."""

    work: Work
    settings: Distill

    @property
    def engine(self) -> Engine:
        return self.work.engine

    def one_step(self, step: int) -> tuple[dict[str, torch.Tensor], bool]:
        return one_step(self.work, self.settings, step)

    def held_out(self, step: int) -> dict[str, float]:
        return held_out.losses(self.work, step)

    def show(self, step: int, alive: Callable[[], None]) -> None:
        """Nothing: text alone is trained, no pictures."""

    def explain(self, step: int) -> str:
        return finite.explain(self.work, self.settings, step)

    def finish(self) -> None:
        check_dead_parameters(self.work)


def one_step(work: Work, settings: Distill, step: int) -> tuple[dict[str, torch.Tensor], bool]:
    """One optimizer step on the global batch of `step`; this process's share of every term, and
    whether the step was taken (`Engine.step`).
    """
    counts, micro_batches = work.ahead(step)
    sums: dict[str, torch.Tensor] = {}
    for number, (_, batch) in enumerate(micro_batches, 1):
        work.engine.micro_batch(last=number == len(micro_batches))
        sides = work.sides(work.engine, batch)
        terms = work.loss.terms(sides, counts, step)
        work.engine.backward(terms["loss/total"])
        sums = {name: sums.get(name, 0) + term.detach() for name, term in terms.items()}
    return sums, work.engine.step(loop.learning_rate(step, settings))


def check_dead_parameters(work: Work) -> None:
    """Asserts that the parameters no UNet reads are unchanged: DeepSpeed would decay those that
    receive no gradient.
    """
    for name, before in work.dead_weights.items():
        now = work.student.get_parameter(name).detach().cpu()
        assert now.equal(before.to(now.dtype)), f"{name} moved though it is frozen"
