"""How long the host takes to make and issue a training step, beside what the GPU takes to compute
it: a GPU waits for its host where the first is longer.

    python -m benchmarks.host configs/sdxl_jp.yaml run=runs/toyworld --gpus 8 --tflops 400

In:  a recipe, whose objective, batch and micro-batches are measured, and a run folder with pairs
     and an initial student. No GPU: encoders and attention layers are as many as SDXL's and a few
     numbers wide, prompts one a micro-batch, so that a CPU has next to nothing to compute.
Out: `<out>/host.json` and `.md`. One process's share of a step: milliseconds of CPU time to make
     its batches (in a thread, while the step before runs) and to issue forward and backward, and
     the time that the encoders' FLOP at full size (`distill.plan`) take at `--tflops`. Optimizer
     and messages are left out.
"""

import statistics
import time
from typing import Any

import torch
from tqdm import tqdm

from benchmarks import encoders, entry, workload
from benchmarks.encoders import Size
from configs.errors import RecipeError
from configs.schema.distill import Distill
from configs.schema.recipe import Recipe
from distill.encoders.family import SDXL
from distill.encoders.student import Towers
from distill.encoders.tower import TextTower
from distill.objective.query_bank import CrossAttentionLayer
from distill.objective.teacher_statistics import Statistics
from distill.objective.terms import Loss
from distill.plan.cost import Tower, flop_per_pair
from distill.tokenizer import portable
from distill.tokens import store
from distill.tokens.batches import Batches, special_ids
from distill.tokens.prompts import POSITIONS, Prompts
from distill.train.work import StepBatches

FULL = workload.PROFILES["gpu"].sizes
LAYERS = {"base": 70, "refiner": 44}  # cross-attention layers of SDXL's UNets
WIDTH, LENGTH = 8, 4  # numbers and positions of what is run instead


def measure(recipe: Recipe, processes: int, tflops: float, rounds: int = 5) -> dict[str, Any]:
    """Raises DataError, and RecipeError for a batch that the processes cannot share."""
    recipe.distill.check_processes(processes)
    settings = recipe.distill.model_copy(update=workload.PAIRS_ALONE)
    student_tokenizer = portable.load(recipe.run_dir / "initial_student" / "tokenizer")
    readers = store.by_side(encoders.tokenizers(), student_tokenizer)
    texts = workload.read_texts(recipe, settings.batch_size)
    batches = Batches(settings, workload.token_pairs(texts, readers), special_ids(readers))
    step = _Step(settings)
    made, issued, flop = [], [], []
    torch.set_num_threads(1)  # else their CPU time counts too
    for number in tqdm(range(rounds + 1), desc="steps", unit="step"):
        started = time.process_time()
        made_step = StepBatches.of(batches, number, 0, processes)
        between = time.process_time()
        step.issue(made_step, number)
        issued.append(time.process_time() - between)
        made.append(between - started)
        flop.append(computed_flop(batches, number, processes, len(student_tokenizer)))
    device = statistics.median(flop[1:]) / (tflops * 1e12)
    return {
        "machine": entry.machine(),
        "pairs": settings.batch_size // processes,
        "micro_batches": len(made_step.micro_batches),
        "tflop": statistics.median(flop[1:]) / 1e12,
        "tflops": tflops,
        "made_ms": 1000 * statistics.median(made[1:]),
        "issued_ms": 1000 * statistics.median(issued[1:]),
        "computed_ms": 1000 * device,
        "issued_share": statistics.median(issued[1:]) / device,
    }


def computed_flop(prompts: Prompts, step: int, processes: int, vocabulary: int) -> float:
    """Of both encoders at full size, in one process."""
    towers = [
        Tower(
            width=size.width,
            layers=size.layers,
            mlp=4 * size.width,
            vocabulary=vocabulary,
            positions=POSITIONS,
            projection=size.projection,
            states=SDXL.parts[name].states,
        )
        for name, size in FULL.items()
    ]
    lengths = prompts.computed_lengths(prompts.rows(step))
    return sum(flop_per_pair(towers, int(length)) for length in lengths) / processes


class _Step:
    """Forward, loss and backward of towers that compute next to nothing."""

    def __init__(self, settings: Distill) -> None:
        self._teacher, self._student = _towers().requires_grad_(False), _towers()
        states = {name: torch.ones(WIDTH) for name in FULL}
        layers = [
            layer
            for reader, count in LAYERS.items()
            for layer in _layers(SDXL.readers[reader], count)
        ]
        uses = settings.objective.uses
        self._loss = Loss(
            settings,
            Statistics(states, torch.ones(WIDTH)),
            layers if uses("cross_attention") else [],
            layers if uses("random_attention") else [],
        )

    def issue(self, made: StepBatches, step: int) -> None:
        for _, whole in made.micro_batches:
            batch = whole.map(_little)
            with torch.no_grad():
                teacher = self._teacher(batch.teacher)
            sides = batch.sides(self._student(batch.student), teacher)
            self._loss.terms(sides, made.counts, step)["loss/total"].backward()


def _little(tensor: torch.Tensor) -> torch.Tensor:
    """One prompt's first positions, its numbers small: ids of any vocabulary, positions among those
    that are left.
    """
    return (tensor[:1, :LENGTH] if tensor.ndim == 2 else tensor[:1]).clamp(max=LENGTH - 1)


def _towers() -> Towers:
    """SDXL's layers and vocabulary."""
    readers, towers = encoders.tokenizers(), {}
    for name, size in FULL.items():
        narrow = Size(WIDTH, size.layers, 1, size.activation, WIDTH if size.projection else 0)
        config = encoders.config(narrow, readers[name])
        towers[name] = TextTower(config, SDXL.parts[name].states, bool(size.projection))
    return Towers(towers)


def _layers(parts: tuple[str, ...], count: int) -> list[CrossAttentionLayer]:
    to_k_ED, to_v_ED = (torch.ones(WIDTH, WIDTH * len(parts)) for _ in range(2))
    share = 1 / sum(LAYERS.values())
    queries_NHK = torch.ones(1024, 1, WIDTH)
    one = CrossAttentionLayer("", parts, queries_NHK, to_k_ED, to_v_ED, torch.ones(()), share)
    return [one] * count


def table(result: dict[str, Any]) -> str:
    """Markdown."""
    return "\n".join(
        [
            f"{result['machine']}; {result['pairs']} pairs of one process, "
            f"{result['tflop']:.1f} TFLOP in {result['micro_batches']} micro-batches.",
            "",
            "| made, ms | issued, ms | computed at "
            f"{result['tflops']:g} TFLOP/s, ms | issued of computed |",
            "|---|---|---|---|",
            f"| {result['made_ms']:.1f} | {result['issued_ms']:.1f} | "
            f"{result['computed_ms']:.1f} | {result['issued_share']:.0%} |",
        ]
    )


def main(argv: list[str] | None = None) -> int:
    def measured(recipe: Recipe, given: Any) -> tuple[str, dict[str, Any]]:
        if given.tflops <= 0 or given.gpus < 1:
            raise RecipeError("--tflops and --gpus must be above 0")
        return "host", measure(recipe, given.gpus, given.tflops)

    return entry.run(
        "benchmarks.host",
        "Times what the host does in a training step beside the GPU's arithmetic.",
        measured,
        table,
        argv,
        {
            "--gpus": {"type": int, "default": 1, "help": "that share a batch (default: 1)"},
            "--tflops": {
                "type": float,
                "default": 400.0,
                "help": "of one GPU, 1e12 a second (default: 400, of an H100)",
            },
        },
    )


if __name__ == "__main__":
    raise SystemExit(main())
