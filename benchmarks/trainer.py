"""Our trainer beside the plain ways to the same end: pairs a second on the same pairs, interleaved in one run, as ratios.

    python -m benchmarks.trainer configs/toyworld.yaml --profile cpu --out runs/benchmarks

In:  a recipe whose pairs and initial student are prepared: its texts, their lengths, its tokenizers. Encoders have random weights.
Out: `<out>/trainer_<profile>.json` and `.md`: medians over the rounds of every contestant's rate and of its ratio to the plain recipe in the
     same round, and the matrix products it ran against the rate of plain ones, measured in the same rounds.
"""

import json
import platform
import statistics
import time
from pathlib import Path
from typing import Any

from configs import command, schema
from configs.files import whole

PLAIN = "plain recipe, padded to 77"
PROFILE_NAMES = ("cpu", "gpu", "smoke")


def measure(recipe: schema.Recipe, profile_name: str) -> dict[str, Any]:
    """All contestants take turns, round by round; the first round warms up and is left out. Raises DataError."""
    import torch
    from tqdm import tqdm

    from benchmarks import workload
    from benchmarks.ceiling import matrix_rate
    from distill import engine
    from distill.pipelines import device

    engine.start()
    profile = workload.PROFILES[profile_name]
    work = workload.load(recipe, profile, pairs=profile.batch_size * (profile.rounds + 1) * profile.steps)
    contestants = enter(work, device())
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    ceiling = []
    for _ in tqdm(range(profile.rounds + 1), desc="rounds", unit="round"):
        ceiling.append(matrix_rate(profile, device()))
        for name, contestant in contestants.items():
            start = time.perf_counter()
            for _ in range(profile.steps):
                contestant.step()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - start)
    engine.stop()
    pairs = profile.steps * profile.batch_size
    flop = flop_a_position(work)
    rate = statistics.median(ceiling[1:])
    rows = {}
    for name, contestant in contestants.items():
        took = seconds[name][1:]
        positions = contestant.positions / (profile.rounds + 1) / pairs
        per_second = statistics.median(pairs / one for one in took)
        ratio = statistics.median(plain / one for plain, one in zip(seconds[PLAIN][1:], took, strict=True))
        share = per_second * positions * flop / rate
        rows[name] = {"pairs_per_second": per_second, "ratio": ratio, "positions_a_pair": positions, "of_the_ceiling": share}
    sizes = {"pairs_a_step": profile.batch_size, "rounds": profile.rounds, "precision": profile.precision}
    return {"profile": profile_name, **sizes, "machine": machine(), "matrix_tflops": rate / 1e12, "rows": rows}


def enter(work: Any, device: Any) -> dict[str, Any]:
    """The contestants by name. Each has `step()`, and `positions`, how many it has computed."""
    from benchmarks.ours import Ours
    from benchmarks.plain import Plain
    from benchmarks.pooled_only import PooledOnly

    budget = 77 * work.profile.batch_size if work.profile.precision == "fp32" else 77 * 64
    return {
        PLAIN: Plain(work, "max_length"),
        "plain recipe, padded to the longest": Plain(work, "longest"),
        "sentence-transformers, pooled state only": PooledOnly(work, device),
        "ours, every position of every pair": Ours(work, full_length_share=1.0),
        "ours, a quarter of the pairs to 77": Ours(work, full_length_share=0.25, tokens_per_micro_batch=budget // 4),
        "ours, words alone": Ours(work, full_length_share=0.0, tokens_per_micro_batch=budget // 4),
    }


def flop_a_position(work: Any) -> float:
    """Of one pair's position: teacher forward, student forward and backward of both encoders, as distill.plan counts them."""
    from distill import plan
    from distill.teacher import ENCODERS

    towers = [plan.Tower.of(work.teacher.models[name].config.to_dict(), name == "clip_bigg") for name in ENCODERS]
    return plan.flop_per_pair(towers) / 77


def machine() -> str:
    """What ran it, in words."""
    import torch

    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    return f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def table(result: dict[str, Any]) -> str:
    """Markdown."""
    title = f"{result['machine']}; {result['pairs_a_step']} pairs a step, {result['precision']}, medians of {result['rounds']} interleaved rounds; "
    lines = [f"{title}plain matrix products reach {result['matrix_tflops']:.3g} TFLOP/s.", ""]
    lines += ["| trainer | pairs/s | ratio to the plain recipe | positions a pair | of the matrix rate |", "|---|---|---|---|---|"]
    for name, row in result["rows"].items():
        share = f"{row['of_the_ceiling']:.0%}"
        lines.append(f"| {name} | {row['pairs_per_second']:.1f} | {row['ratio']:.2f} | {row['positions_a_pair']:.1f} | {share} |")
    return "\n".join(lines)


def write(folder: Path, name: str, result: str, page: str) -> None:
    """Both files of a benchmark, JSON and Markdown; the latter is printed too."""
    folder.mkdir(parents=True, exist_ok=True)
    for ending, text in (("json", result), ("md", page)):
        with whole(folder / f"{name}.{ending}") as path:
            path.write_text(text + "\n", encoding="utf-8")
    print(page)


def main(argv: list[str] | None = None) -> int:
    def body() -> None:
        parser = command.parser("benchmarks.trainer", "Times our trainer beside the plain recipe, on the same pairs in one run.")
        parser.add_argument("--profile", choices=PROFILE_NAMES, default="cpu", help="sizes of the encoders (default %(default)s)")
        parser.add_argument("--out", type=Path, default=Path("runs/benchmarks"), help="folder of the tables (default %(default)s)")
        arguments = parser.parse_intermixed_args(argv)
        result = measure(schema.load(arguments.recipe, arguments.overrides), arguments.profile)
        write(arguments.out, f"trainer_{arguments.profile}", json.dumps(result, indent=2), table(result))

    return command.guard("benchmarks.trainer", body)


if __name__ == "__main__":
    raise SystemExit(main())
