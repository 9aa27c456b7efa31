"""How fast the trainer's loader makes batches: ours from memory-mapped ids beside rows of a
`datasets.Dataset`.

    python -m benchmarks.loader configs/toyworld.yaml --out runs/benchmarks

In:  a recipe whose pairs and initial student are prepared.
Out: `<out>/loader.json` and `.md`: rows a second, and ratios of the same round, medians over the
     rounds. Every round reads other batches, and asserts that all contestants made the same
     tensors.
"""

import statistics
import time
from collections.abc import Callable
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset, load_from_disk

from benchmarks import entry
from benchmarks.entry import machine
from configs.schema.recipe import Recipe
from distill.encoders.teacher import TokenIds
from distill.sdxl.base import settled
from distill.tokens import store
from distill.tokens.batches import Batch, Batches, special_ids
from distill.tokens.prompts import is_truncated

ROUNDS, ROWS_A_ROUND = 8, 4096
BATCH_SIZES = (512,)  # beside the recipe's own


def measure(recipe: Recipe) -> dict[str, Any]:
    """Raises DataError where the recipe's pairs or initial student are missing."""
    rates = {
        size: loading(recipe, size) for size in sorted({recipe.distill.batch_size, *BATCH_SIZES})
    }
    return {"machine": machine(), "rounds": ROUNDS, "loading": rates}


def loading(recipe: Recipe, batch_size: int) -> dict[str, dict[str, float]]:
    """By contestant: rows a second of the same batches of the trainer.

    The others are told which rows; ours finds that out.
    """
    batches = batches_of(recipe, batch_size)
    steps = max(1, ROWS_A_ROUND // batches.settings.batch_size)
    budget = recipe.distill.tokens_per_micro_batch
    with TemporaryDirectory() as folder:
        save_dataset(batches.tokens, folder)
        dataset = load_from_disk(folder)
        contestants: dict[str, Callable[[list[Any]], list[Any]]] = {
            "datasets, row by row": lambda plan: [
                collate(batches, [dataset[int(i)] for i in rows["pair"]], rows, length)
                for rows, length in plan
            ],
            "datasets, batch by batch": lambda plan: [
                collate(batches, by_row(dataset[rows["pair"].tolist()]), rows, length)
                for rows, length in plan
            ],
        }
        seconds: dict[str, list[float]] = {"ours": [], **{name: [] for name in contestants}}
        for number in range(ROUNDS + 1):  # the first warms up
            which = range(number * steps, (number + 1) * steps)
            start = time.perf_counter()
            ours = [
                batches.gather(*part)
                for step in which
                for part in batches.micro_batches(batches.rows(step), 0, 1, budget)
            ]
            seconds["ours"].append(time.perf_counter() - start)
            plan = [
                part
                for step in which
                for part in batches.micro_batches(batches.rows(step), 0, 1, budget)
            ]
            for name, contestant in contestants.items():
                start = time.perf_counter()
                theirs = contestant(plan)
                seconds[name].append(time.perf_counter() - start)
                assert all(map(torch.equal, tensors_of(theirs), tensors_of(ours))) and len(
                    theirs
                ) == len(ours)
    base = seconds["datasets, row by row"][1:]
    return {
        name: {
            "rows_per_second": statistics.median(
                steps * batches.settings.batch_size / one for one in took[1:]
            ),
            "ratio": statistics.median(
                plain / one for plain, one in zip(base, took[1:], strict=True)
            ),
        }
        for name, took in seconds.items()
    }


def batches_of(recipe: Recipe, batch_size: int) -> Any:
    """The `Batches` of the recipe's trainer, without empty and mixed prompts: a dataset has no row
    for them.
    """
    settings = recipe.distill.model_copy(
        update={"batch_size": batch_size, "empty_prompt_share": 0.0, "composed_share": 0.0}
    )
    recipe, family = settled(recipe)
    tokenizers = store.load_tokenizers(recipe, family)
    return Batches(settings, store.prepare(recipe, family), special_ids(tokenizers))


def save_dataset(tokens: Any, folder: str) -> None:
    """The same columns as a `datasets.Dataset` on disk: a list of ids a row and side."""
    columns = {
        side: pa.LargeListArray.from_arrays(np.asarray(tokens.offsets[side]), np.asarray(ids))
        for side, ids in tokens.ids.items()
    }
    Dataset(pa.table(columns)).save_to_disk(folder)


def by_row(columns: dict[str, list[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def collate(batches: Any, examples: list[dict[str, Any]], rows: np.ndarray, length: int) -> Any:
    """The `Batch` that `Batches.gather` makes of the same rows, as a DataLoader's collate function
    makes it: lists, padded one by one.
    """
    student = ["en" if english else "text" for english in rows["student_reads_english"]]
    tensors: list[torch.Tensor] = []
    for sides in (["en_clip_l"] * len(rows), ["en_clip_bigg"] * len(rows), student):
        ids = [example[side] for example, side in zip(examples, sides, strict=True)]
        pads = [batches.special[side].pad for side in sides]
        tensors.append(
            torch.tensor(
                [row + [pad] * (length - len(row)) for row, pad in zip(ids, pads, strict=True)]
            )
        )
        tensors.append(torch.tensor([len(row) - 1 for row in ids]))
    (clip_l_BL, clip_l_eos_B, clip_bigg_BL, clip_bigg_eos_B, student_BL, student_eos_B) = tensors
    teacher = TokenIds(
        {"clip_l": clip_l_BL, "clip_bigg": clip_bigg_BL},
        {"clip_l": clip_l_eos_B, "clip_bigg": clip_bigg_eos_B},
    )
    weights_B = torch.tensor(rows["pad_weight"].tolist())
    return Batch(teacher, student_BL, student_eos_B, weights_B, is_truncated(rows))


def tensors_of(batches: list[Batch]) -> list[Any]:
    """Of all batches, one after the other."""
    return [
        tensor
        for batch in batches
        for tensor in (
            *batch.teacher.ids.values(),
            *batch.teacher.eos.values(),
            batch.student_BL,
            batch.student_eos_B,
            batch.pad_weight_B,
        )
    ]


def table(result: dict[str, Any]) -> str:
    """Markdown."""
    lines = [
        f"{result['machine']}; medians of {result['rounds']} interleaved rounds; the same tensors "
        "in each.",
        "",
        "| loading | pairs a batch | rows/s | ratio |",
        "|---|---|---|---|",
    ]
    for size, contestants in result["loading"].items():
        lines += [
            f"| {name} | {size} | {row['rows_per_second']:,.0f} | {row['ratio']:.1f} |"
            for name, row in contestants.items()
        ]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    return entry.run(
        "benchmarks.loader",
        "Times our loading of pairs beside the `datasets` library's, in one run.",
        lambda recipe, _: ("loader", measure(recipe)),
        table,
        argv,
    )


if __name__ == "__main__":
    raise SystemExit(main())
