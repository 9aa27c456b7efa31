"""How fast pairs come to the trainer: our tokenising beside the tokenizers themselves, our loader
beside rows of a `datasets.Dataset`.

    python -m benchmarks.loader configs/toyworld.yaml --out runs/benchmarks

In:  a recipe whose pairs and initial student are prepared.
Out: `<out>/loader.json` and `.md`: rates, and ratios of the same round, medians over the rounds.
     Every round reads other texts and other batches, and asserts that all contestants gave the same
     ids and tensors. Our tokenising starts with nothing learnt: the ratio over all rounds counts
     that too.
"""

import itertools
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.trainer import machine, write
from configs import command
from configs.schema.load import load_recipe
from configs.schema.recipe import Recipe
from corpora.pair import read_pairs
from distill.encoders.teacher import TokenIds
from distill.tokenizer.fast.encode_ids import Encoder
from distill.tokens import store
from distill.tokens.batches import Batch, Batches, is_truncated, special_ids

PAIRS, ROUNDS, ROWS_A_ROUND = 100_000, 8, 4096
BATCH_SIZES = (512,)  # beside the recipe's own


def measure(recipe: Recipe) -> dict[str, Any]:
    """Raises DataError where the recipe's pairs or initial student are missing."""
    rates = {
        size: loading(recipe, size) for size in sorted({recipe.distill.batch_size, *BATCH_SIZES})
    }
    return {
        "machine": machine(),
        "rounds": ROUNDS,
        "tokenising": tokenising(recipe),
        "loading": rates,
    }


def tokenising(recipe: Recipe) -> dict[str, dict[str, float]]:
    """By side of `distill.tokens`: texts and tokens a second, both ways."""

    store.prepare(recipe)  # for its checks
    pairs = list(itertools.islice(read_pairs(recipe.run_dir / "pairs", "train"), PAIRS))
    rounds = [
        pairs[i * len(pairs) // ROUNDS : (i + 1) * len(pairs) // ROUNDS] for i in range(ROUNDS)
    ]
    result = {}
    for side, tokenizer in store.load_tokenizers(recipe).items():
        encoder, seconds, count = Encoder(tokenizer), [], 0
        tokenizer("")  # what it builds on its first call
        for part in filter(None, rounds):
            texts = [getattr(pair, side[:2]) for pair in part]
            took = [0.0, 0.0]
            for i in range(0, len(texts), store.ROWS_AT_ONCE):
                some = texts[i : i + store.ROWS_AT_ONCE]
                start = time.perf_counter()
                theirs = tokenizer(
                    some, truncation=True, max_length=tokenizer.model_max_length
                ).input_ids
                middle = time.perf_counter()
                ids, lengths = encoder(some)
                took[0], took[1] = took[0] + middle - start, took[1] + time.perf_counter() - middle
                assert lengths.tolist() == list(map(len, theirs)) and ids.tolist() == list(
                    itertools.chain.from_iterable(theirs)
                )
                count += len(ids)
            seconds.append(took)
        (hf, ours), ratios = (
            map(sum, zip(*seconds, strict=True)),
            [hf / ours for hf, ours in seconds],
        )
        result[side] = {
            "texts": len(pairs),
            "hf_texts_per_second": len(pairs) / hf,
            "texts_per_second": len(pairs) / ours,
        }
        result[side] |= {"hf_tokens_per_second": count / hf, "tokens_per_second": count / ours}
        result[side] |= {
            "ratio": statistics.median(ratios),
            "first_ratio": ratios[0],
            "ratio_over_all": hf / ours,
        }
    return result


def loading(recipe: Recipe, batch_size: int) -> dict[str, dict[str, float]]:
    """By contestant: rows a second of the same batches of the trainer.

    The others are told which rows; ours finds that out.
    """
    import torch
    from datasets import load_from_disk

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
        update={"batch_size": batch_size, "empty_prompt_share": 0.0, "code_mixed_share": 0.0}
    )
    return Batches(settings, store.prepare(recipe), special_ids(store.load_tokenizers(recipe)))


def save_dataset(tokens: Any, folder: str) -> None:
    """The same columns as a `datasets.Dataset` on disk: a list of ids a row and side."""
    import pyarrow as pa
    from datasets import Dataset

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
    import torch

    student = ["en" if english else "ja" for english in rows["student_reads_english"]]
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
        f"{result['machine']}; medians of {result['rounds']} interleaved rounds; the same ids and "
        "tensors in each.",
        "",
    ]
    lines += [
        "| tokenising | texts/s, the tokenizer | texts/s, ours | tokens/s, ours | ratio | first "
        "round | over all |"
    ]
    lines += ["|---|---|---|---|---|---|---|"]
    for side, row in result["tokenising"].items():
        rates = (
            f"{row['hf_texts_per_second']:,.0f} | {row['texts_per_second']:,.0f} | "
            f"{row['tokens_per_second']:,.0f}"
        )
        lines.append(
            f"| {side} | {rates} | {row['ratio']:.1f} | {row['first_ratio']:.1f} | "
            f"{row['ratio_over_all']:.1f} |"
        )
    lines += ["", "| loading | pairs a batch | rows/s | ratio |", "|---|---|---|---|"]
    for size, contestants in result["loading"].items():
        lines += [
            f"| {name} | {size} | {row['rows_per_second']:,.0f} | {row['ratio']:.1f} |"
            for name, row in contestants.items()
        ]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    def body() -> None:
        parser = command.parser(
            "benchmarks.loader",
            "Times our tokenising and loading of pairs beside the libraries' own, in one run.",
        )
        parser.add_argument(
            "--out",
            type=command.output_folder,
            default=Path("runs/benchmarks"),
            help="folder of the tables (default %(default)s)",
        )
        arguments = parser.parse_intermixed_args(argv)
        result = measure(load_recipe(arguments.recipe, arguments.overrides))
        write(arguments.out, "loader", json.dumps(result, indent=2), table(result))

    return command.guard("benchmarks.loader", body)


if __name__ == "__main__":
    raise SystemExit(main())
