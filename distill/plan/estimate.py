"""The cost of a distillation before it is spent: parameters, FLOP, memory, hours and disk.

Reads a few JSON files, runs no model.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from configs.errors import DataError
from configs.schema.distill import Distill
from configs.schema.recipe import Recipe
from distill.encoders.family import Family
from distill.plan import cost
from distill.plan.cost import H200_TFLOPS, AttentionCost, Tower, flop_per_pair
from distill.plan.shapes import read_config, read_unets, student_vocabulary
from distill.sdxl.base import settled
from distill.tokens.prompts import POSITIONS, Prompts, is_truncated
from distill.tokens.token_pairs import TokenPairs, sides_of

# 41.4 million pairs of the reference's data make 3.4 GB of uint16 ids, English once and Japanese
# once: 41 tokens a pair.
TOKENS_A_TEXT = 20.5
SAMPLED_STEPS = 64  # spread evenly over the run


@dataclass(frozen=True)
class Load:
    """The work of training. `towers`, `objective`: mean FLOP per pair.

    `largest`: the micro-batch for which autograd saves most, as pairs and positions of each.
    `slowest`: the busiest process's FLOP over the mean. `words`, `pads`: shares of the towers' FLOP
    for tokens, and for padding that is trained on. `sampled`: number of steps counted; `lengths` of
    their prompts.
    """

    towers: float
    objective: float
    largest: tuple[int, int]
    slowest: float = 1.0
    words: float = 1.0
    pads: float = 0.0
    sampled: int = 0
    lengths: np.ndarray | None = None


def _stored(recipe: Recipe, family: Family) -> TokenPairs | None:
    """The tokens, if they are there and made from the recipe's inputs. Raises DataError."""
    if not (recipe.run_dir / "tokens").is_dir():
        return None
    from distill.tokens.store import stored  # comparing the inputs loads torch

    return stored(recipe, family)


def full_length_load(
    settings: Distill, towers: list[Tower], attention: list[AttentionCost], gpus: int
) -> Load:
    """As if every prompt ran at full length."""
    length = towers[0].positions
    pairs = settings.batch_size // gpus
    if settings.tokens_per_micro_batch is not None:
        pairs = min(pairs, max(1, settings.tokens_per_micro_batch // length))
    return Load(
        flop_per_pair(towers, length), sum(one.flop(length) for one in attention), (pairs, length)
    )


def real_load(
    settings: Distill,
    found: TokenPairs,
    towers: list[Tower],
    attention: list[AttentionCost],
    gpus: int,
) -> Load:
    """Counted over `SAMPLED_STEPS` steps spread over the run, with the batches and micro-batches
    that training uses.

    Every micro-batch is counted with a whole backward, even if no term of the loss depends on
    clip_l (without `cut_attention`).
    """
    prompts = Prompts(settings, found)
    flop = np.array([flop_per_pair(towers, length) for length in range(POSITIONS + 1)], float)
    attention_flop = np.array(
        [sum(one.flop(length) for one in attention) for length in range(POSITIONS + 1)]
    )
    steps = np.unique(np.linspace(0, settings.steps - 1, SAMPLED_STEPS).astype(int))
    run = read = useful = words = slowest = 0.0
    lengths, sizes = [], set()
    for step in steps.tolist():
        rows = prompts.rows(step)
        lengths.append(prompts.lengths(rows))
        words += flop[lengths[-1]].sum()
        useful += flop[np.where(rows["pad_weight"] > 0, POSITIONS, lengths[-1])].sum()
        of_processes = np.zeros((gpus, 2))
        for process in range(gpus):
            for part, length in prompts.micro_batches(
                rows, process, gpus, settings.tokens_per_micro_batch
            ):
                reads = settings.attention_applies(is_truncated(part))
                of_processes[process] += (
                    len(part) * flop[length],
                    len(part) * attention_flop[length] * reads,
                )
                sizes.add((len(part), length))
        run, read = run + of_processes[:, 0].sum(), read + of_processes[:, 1].sum()
        slowest += of_processes.sum(axis=1).max() * gpus
    pairs = len(steps) * settings.batch_size
    largest = max(sizes, key=lambda size: kept_bytes(size, towers, attention, settings.precision))
    shares = words / run, (useful - words) / run
    return Load(
        run / pairs,
        read / pairs,
        largest,
        slowest / (run + read),
        *shares,
        len(steps),
        np.concatenate(lengths),
    )


def kept_bytes(
    micro_batch: tuple[int, int],
    towers: list[Tower],
    attention: list[AttentionCost],
    precision: str,
) -> float:
    """What autograd saves for a micro-batch (pairs, positions of each), in towers and objective."""
    (pairs, length), word = micro_batch, cost.word_bytes(precision)
    return pairs * (
        length * sum(tower.kept_bytes(word) for tower in towers)
        + sum(one.kept_bytes(length) for one in attention)
    )


@dataclass(frozen=True)
class Counted:
    """A recipe's shapes and work. `unets`: configs by name; `source`: where `vocabulary` was read;
    `found`: the tokens, where they are there.
    """

    recipe: Recipe
    family: Family
    towers: list[Tower]
    unets: dict[str, Any]
    attention: list[AttentionCost]
    vocabulary: int
    source: str
    found: TokenPairs | None
    load: Load
    gpus: int

    @property
    def pairs(self) -> int:
        return self.recipe.distill.steps * self.recipe.distill.batch_size

    @property
    def trained(self) -> int:
        """Numbers of the student that get a gradient."""
        return sum(tower.trained_parameters(self.vocabulary) for tower in self.towers)

    @property
    def flop(self) -> float:
        """Of the busiest process, over all steps."""
        of_a_pair = self.load.towers + self.load.objective
        return self.pairs * of_a_pair * self.load.slowest / self.gpus


@dataclass(frozen=True)
class Memory:
    """Bytes a GPU. `state`: weights, gradients and optimizer under ZeRO-1; `layers`: the
    objective's; `states`: what the loss compares; `activations`: what autograd saves; `copies`: two
    fp32 ones of the largest parameter, when its gradient joins the sum and when it is saved.
    """

    state: float
    layers: float
    states: float
    activations: float
    copies: float

    @property
    def total(self) -> float:
        return self.state + self.layers + self.states + self.activations + self.copies


@dataclass(frozen=True)
class Disk:
    """Bytes below the run's folder. `checkpoints`: those kept, and one more while it is written."""

    tokens: float
    queries: float
    checkpoints: float
    exported: float

    @property
    def total(self) -> float:
        return self.tokens + self.queries + self.checkpoints + self.exported


def count(recipe: Recipe, gpus: int) -> Counted:
    """Raises DataError if a config lacks a number, RecipeError if `gpus` do not divide the batch
    size.
    """
    recipe, family = settled(recipe, unpack=False)
    settings = recipe.distill
    settings.check_processes(gpus)
    word = cost.word_bytes(settings.precision)
    try:
        towers = [
            Tower.of(read_config(settings.base, part.subfolder), part)
            for part in family.parts.values()
        ]
        unets = read_unets(settings) if settings.objective.uses("cross_attention") else {}
        attention = [AttentionCost.of_unets(unets, settings.query_bank, word)] if unets else []
    except KeyError as error:
        raise DataError(
            f"{settings.base}: a config.json lacks {error}; fetch the folder again"
        ) from None
    if settings.objective.uses("random_attention"):
        attention.append(AttentionCost.of_random(towers, family, settings.random_attention, word))
    vocabulary, source = student_vocabulary(recipe)
    found = _stored(recipe, family)
    load = (
        full_length_load(settings, towers, attention, gpus)
        if found is None
        else real_load(settings, found, towers, attention, gpus)
    )
    return Counted(recipe, family, towers, unets, attention, vocabulary, source, found, load, gpus)


def memory(counted: Counted) -> Memory:
    settings, towers = counted.recipe.distill, counted.towers
    pairs, length = counted.load.largest
    trained = counted.trained
    whole = sum(tower.parameters() + tower.parameters(counted.vocabulary) for tower in towers)
    return Memory(
        state=cost.state_bytes(trained, whole - trained, settings, counted.gpus),
        layers=sum(one.held_bytes for one in counted.attention),
        states=pairs * length * cost.states_bytes(towers, settings),
        activations=kept_bytes(counted.load.largest, towers, counted.attention, settings.precision),
        copies=2 * 4 * counted.vocabulary * max(tower.width for tower in towers),
    )


def bytes_on_a_cpu(counted: Counted) -> float:
    """As `memory`, without the UNets' layers: there they stay in their files."""
    bank, word = (
        counted.recipe.distill.query_bank,
        cost.word_bytes(counted.recipe.distill.precision),
    )
    return memory(counted).total - cost.unet_layers_bytes(counted.unets, bank, word)


def disk(counted: Counted) -> Disk:
    settings, towers = counted.recipe.distill, counted.towers
    if counted.found is not None:
        folder = counted.recipe.run_dir / "tokens"
        tokens: float = sum(path.stat().st_size for path in folder.iterdir())
    else:
        sizes = [tower.vocabulary for tower in towers] + [counted.vocabulary] * 2
        vocabularies = dict(zip(sides_of(counted.family), sizes, strict=True))
        prompts = round(counted.pairs * (1 + settings.composed_share))
        tokens = cost.token_bytes(prompts, dict.fromkeys(vocabularies, TOKENS_A_TEXT), vocabularies)
    student, trained = (
        sum(of(tower, counted.vocabulary) for tower in towers)
        for of in (Tower.parameters, Tower.trained_parameters)
    )
    one = cost.checkpoint_bytes(student, trained, settings)
    return Disk(
        tokens=tokens,
        queries=cost.bank_bytes(counted.unets, settings.query_bank),
        checkpoints=(settings.keep_checkpoints + 1) * one,
        exported=4 * student,
    )


def report(recipe: Recipe, gpus: int, tflops: float, utilisation: float) -> list[str]:
    """The lines printed. Raises what `count` raises."""
    counted = count(recipe, gpus)
    settings, found, pairs = counted.recipe.distill, counted.found, counted.pairs
    seen = ""
    if found is not None:
        seen = f", {pairs / len(found):.3g} times the {len(found):,} of {recipe.run_dir / 'tokens'}"
    teacher, student = (
        " + ".join(
            f"{name} {tower.parameters(size):,}"
            for name, tower in zip(counted.family.parts, counted.towers, strict=True)
        )
        for size in (None, counted.vocabulary)
    )
    return [
        f"{recipe.name}: {settings.steps:,} steps of {settings.batch_size:,} pairs = {pairs:,} "
        f"pairs on {gpus} GPU{'s' if gpus > 1 else ''}{seen}",
        f"  teacher   {teacher} parameters, frozen",
        f"  student   {student} parameters; vocabulary {counted.vocabulary:,} ({counted.source})",
        *_flop_lines(counted.recipe, counted.family, counted.towers, counted.load),
        *_memory_lines(counted),
        *_time_lines(counted.flop / (tflops * 1e12), gpus, tflops, utilisation),
        *_disk_lines(counted),
    ]


def _flop_lines(recipe: Recipe, family: Family, towers: list[Tower], load: Load) -> list[str]:
    settings, length = recipe.distill, towers[0].positions
    whole = flop_per_pair(towers, length)
    last, of_last = list(family.parts)[-1], 100 * flop_per_pair(towers[-1:], length) / whole
    total = settings.steps * settings.batch_size * (load.towers + load.objective)
    lines = [
        f"  FLOP      {load.towers / 1e9:,.4g} GFLOP a pair, {of_last:.0f} % of it {last}: teacher "
        f"1/4, student forward 1/4, backward 1/2; {total:.3g} in all",
        f"            objective {settings.objective}: {load.objective / 1e9:,.3g} GFLOP a pair "
        f"more ({100 * load.objective / load.towers:.1f} %)",
    ]
    if load.lengths is None:
        return [
            *lines,
            f"            at most: as if every pair ran all {length} positions, for "
            f"{recipe.run_dir / 'tokens'} is missing or another recipe's;",
            "            python -m distill.tokens with this recipe, then this again, counts at the "
            "texts' real lengths",
        ]
    middle, most = np.quantile(load.lengths, [0.5, 0.9])
    words, pads = 100 * load.words, 100 * load.pads
    return [
        *lines,
        f"            counted over {load.sampled} of {settings.steps:,} steps, drawn, cut and "
        f"dealt out as in training: {words + pads:.0f} % useful"
        f" ({words:.0f} % words, {pads:.0f} % pads that are taught), the rest padding",
        f"            texts of {middle:.0f} positions (median; nine in ten within {most:.0f}); all "
        f"{length} of every pair: {whole / 1e9:,.4g} GFLOP",
    ]


def _memory_lines(counted: Counted) -> list[str]:
    settings, of = counted.recipe.distill, memory(counted)
    pairs, length = counted.load.largest
    held = cost.bucket_bytes(counted.trained, settings, counted.gpus)
    bucket = f" ({in_bytes(held)} of it DeepSpeed's bucket)" if held else ""
    of_layers = f", {in_bytes(of.layers)} of the objective's layers" if of.layers else ""
    return [
        f"  memory    {in_bytes(of.total)} a GPU and temporaries "
        "(not counted: CUDA's own, buffers, gaps)",
        f"            {in_bytes(of.state)} of state under ZeRO-1 in "
        f"{settings.precision}{bucket}{of_layers},"
        f" {in_bytes(of.states)} of states to compare, {in_bytes(of.copies)} of copies",
        f"            {in_bytes(of.activations)} of activations, "
        f"{in_bytes(of.activations / pairs / length)} a "
        f"position: micro-batches of {pairs:,} pairs, {length} positions"
        f" (tokens_per_micro_batch: {settings.tokens_per_micro_batch or 'no limit'})",
    ]


def _time_lines(seconds: float, gpus: int, tflops: float, utilisation: float) -> list[str]:
    """`seconds` at the full rate."""
    source = "matrix products measured on an H200" if tflops == H200_TFLOPS else "as given"
    floor, expected = (
        f"{in_time(time)}, {gpus * time / 3600:,.3g} GPU-hours"
        for time in (seconds, seconds / utilisation)
    )
    return [
        f"  time      {floor} at {tflops:g} TFLOP/s a GPU, {source}: the floor",
        f"            {expected} at {100 * utilisation:g} % of that, an assumption (--utilisation)",
    ]


def _disk_lines(counted: Counted) -> list[str]:
    settings, of = counted.recipe.distill, disk(counted)
    tokens = (
        f"{in_bytes(of.tokens)} of tokens, which are there"
        if counted.found is not None
        else f"{in_bytes(of.tokens)} of tokens if no pair comes twice, at {TOKENS_A_TEXT:g} a "
        "text, an assumption"
    )
    queries = f" {in_bytes(of.queries)} of queries;" if counted.unets else ""
    one = of.checkpoints / (settings.keep_checkpoints + 1)
    return [
        f"  disk      {tokens}",
        f"           {queries} {in_bytes(of.checkpoints)} of checkpoints: "
        f"{in_bytes(one)} each, {settings.keep_checkpoints} kept"
        f" while one more is written; {in_bytes(of.exported)} exported in fp32 beside linked UNets",
    ]


def in_bytes(count: float) -> str:
    units = [(1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B")]
    unit, name = next((unit, name) for unit, name in units if count >= unit or unit == 1.0)
    return f"{count / unit:.1f} {name}"


def in_time(seconds: float) -> str:
    unit, name = next(
        (unit, name)
        for unit, name in [(3600.0, "h"), (60.0, "min"), (1.0, "s")]
        if seconds >= unit or unit == 1.0
    )
    return f"{seconds / unit:.1f} {name}"
