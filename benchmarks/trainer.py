"""Compares our trainer with plain implementations: pairs per second on the same pairs, in
interleaved rounds of one run.

    python -m benchmarks.trainer configs/toyworld.yaml --profile cpu --out runs/benchmarks

In:  a recipe whose pairs and initial student are prepared: its texts, their lengths, its
     tokenizers. Encoders have random weights.
Out: `<out>/trainer_<profile>.json` and `.md`: for each contestant the medians over the rounds of
     its rate and of its ratio to the plain recipe in the same round; its FLOP (counted by torch) as
     a share of the rate of plain matrix products, measured in the same rounds. Useful FLOP are
     those of prompts truncated after their last word.
"""

import gc
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import torch
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from benchmarks import entry, workload
from benchmarks.ceiling import matrix_rate
from benchmarks.entry import machine
from benchmarks.ours import Ours
from benchmarks.plain import Plain
from benchmarks.pooled_only import PooledOnly
from benchmarks.workload import Profile, Workload
from configs.schema.recipe import Recipe
from distill.parallel import engine
from distill.sdxl.pipelines import device

PLAIN, STRICT, WORDS = "plain recipe, padded to 77", "ours, every position", "ours, words alone"
COMPILED = {
    "ours, every position, blocks compiled": STRICT,
    "ours, words alone, blocks compiled": WORDS,
}  # the same work as these


class Contestant(Protocol):
    def step(self) -> None:
        """One optimizer step on the next batch."""


def measure(recipe: Recipe, profile_name: str) -> dict[str, Any]:
    """All contestants take turns in each round; the first round warms up and is left out.

    Raises DataError.
    """
    engine.start()
    profile = workload.PROFILES[profile_name]
    work = workload.load(recipe, profile, profile.batch_size * (profile.rounds + 3) * profile.steps)
    makers = contestants(work, device())
    kept: dict[str, Contestant] = {}
    flop = {
        name: counted_flop(ready(name, makers, kept, profile))
        for name in makers
        if name not in COMPILED
    }
    seconds: dict[str, list[float]] = {name: [] for name in makers}
    ceiling = []
    turns = [(number, name) for number in range(profile.rounds + 1) for name in makers]
    for _, name in tqdm(turns, desc="turns", unit="turn"):
        contestant = ready(name, makers, kept, profile)
        ceiling.append(matrix_rate(profile, device()))
        start = time.perf_counter()
        for _ in range(profile.steps):
            contestant.step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds[name].append(time.perf_counter() - start)
    engine.stop()
    pairs, rate = profile.steps * profile.batch_size, statistics.median(ceiling)
    rows = {}
    for name, took in seconds.items():
        per_second = statistics.median(pairs / one for one in took[1:])
        executed, useful = (
            flop[of] / profile.batch_size for of in (COMPILED.get(name, name), WORDS)
        )
        rows[name] = {
            "pairs_per_second": per_second,
            "ratio": statistics.median(
                plain / one for plain, one in zip(seconds[PLAIN][1:], took[1:], strict=True)
            ),
            "gflop_a_pair": executed / 1e9,
            "executed_of_the_matrix_rate": per_second * executed / rate,
            "useful_of_the_matrix_rate": per_second * useful / rate,
        }
    sizes = {
        "pairs_a_step": profile.batch_size,
        "rounds": profile.rounds,
        "precision": profile.precision,
    }
    return {
        "profile": profile_name,
        **sizes,
        "machine": machine(),
        "matrix_tflops": rate / 1e12,
        "rows": rows,
    }


def contestants(work: Workload, device: torch.device) -> dict[str, Callable[[], Contestant]]:
    """Constructors by name; our variants differ in one setting each."""
    # enough positions to fill the machine, few enough for several micro-batches by length
    words = {"full_length_share": 0.0, "tokens_per_micro_batch": 77 * work.profile.batch_size // 4}
    makers: dict[str, Callable[[], Contestant]] = {
        PLAIN: partial(Plain, work, "max_length"),
        "plain recipe, padded to the longest": partial(Plain, work, "longest"),
        "sentence-transformers, pooled state only": partial(PooledOnly, work, device),
        STRICT: partial(Ours, work),
        "ours, a quarter of the pairs to 77": partial(
            Ours, work, **(words | {"full_length_share": 0.25})
        ),
        "ours, words alone, lengths unsorted": partial(Ours, work, full_length_share=0.0),
        WORDS: partial(Ours, work, **words),
    }
    if work.profile.compiled:
        strict_compiled, words_compiled = COMPILED
        makers |= {
            strict_compiled: partial(Ours, work, compile=True),
            words_compiled: partial(Ours, work, **words, compile=True),
        }
    return makers


def ready(
    name: str,
    makers: dict[str, Callable[[], Contestant]],
    kept: dict[str, Contestant],
    profile: Profile,
) -> Contestant:
    """The contestant after one step. If not all fit into memory, the previous one is freed."""
    if name not in kept:
        if not profile.together:
            kept.clear()
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        kept[name] = makers[name]()
        kept[name].step()
    return kept[name]


def counted_flop(contestant: Contestant) -> int:
    """FLOP of one step, by torch's FlopCounterMode."""
    with FlopCounterMode(display=False) as counter:
        contestant.step()
    return int(counter.get_total_flops())


def table(result: dict[str, Any]) -> str:
    """Markdown."""
    title = (
        f"{result['machine']}; {result['pairs_a_step']} pairs a step, {result['precision']}, "
        f"medians of {result['rounds']} interleaved rounds; "
    )
    lines = [f"{title}plain matrix products reach {result['matrix_tflops']:.3g} TFLOP/s.", ""]
    lines += [
        "| trainer | pairs/s | ratio to the plain recipe | GFLOP a pair | of the matrix rate | "
        "useful of it |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in result["rows"].items():
        shares = (
            f"{row['executed_of_the_matrix_rate']:.0%} | {row['useful_of_the_matrix_rate']:.0%}"
        )
        lines.append(
            f"| {name} | {row['pairs_per_second']:.1f} | {row['ratio']:.2f} | "
            f"{row['gflop_a_pair']:.2f} | {shares} |"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    return entry.run(
        "benchmarks.trainer",
        "Times our trainer beside the plain recipe, on the same pairs in one run.",
        lambda recipe, given: (f"trainer_{given.profile}", measure(recipe, given.profile)),
        table,
        argv,
        {
            "--profile": {
                "choices": list(workload.PROFILES),
                "default": "cpu",
                "help": "sizes of the encoders (default %(default)s)",
            }
        },
    )


if __name__ == "__main__":
    raise SystemExit(main())
