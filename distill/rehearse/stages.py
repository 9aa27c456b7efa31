"""What a rehearsal runs: the recipe made small, and the commands of its stages."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from configs.schema.executors import Local
from configs.schema.load import dump_recipe
from configs.schema.recipe import Recipe
from configs.schema.sources import ParquetSource
from distill.encoders.family import Family
from distill.plan.shapes import read_config

SAMPLE_ROWS = 4000  # of each source
STATISTICS_PROMPTS = 16
SMALL_SIDE = 256  # pixels painted on a CPU, where a picture of 1024 takes an hour


@dataclass(frozen=True)
class Stage:
    """`words`: what follows `python -m`. `together`: all processes of the launcher run it.
    `until`: once true, it is killed. `shows`: what it proves, for the report.
    """

    name: str
    shows: str
    words: list[str]
    together: bool = False
    until: Callable[[], bool] | None = None


def small(recipe: Recipe, steps: int, work: Path) -> Recipe:
    """The recipe with a sample of its pairs, `steps` + 1 optimizer steps and few prompts to measure
    the teacher with; batches, objective, precision and models stay.
    """
    sample = ParquetSource(
        kind="parquet",
        name="sample",
        licence="of the sources",
        path=str(work / "sample.parquet"),
        text="text",
    )
    corpora = recipe.corpora.model_copy(
        update={
            "sources": [sample],
            "held_out_pairs": 64,
            "executor": Local(),
            "workers": min(recipe.corpora.workers, 4),
        }
    )
    bank = recipe.distill.query_bank
    distill = recipe.distill.model_copy(
        update={
            "steps": steps + 1,
            "warmup_steps": 1,
            "log_every_steps": 1,
            "save_every_steps": steps,
            "eval_every_steps": 10 * steps,
            "keep_checkpoints": 1,  # and so less disk than the real run needs
            "statistics_prompts": STATISTICS_PROMPTS,
            "query_bank": bank.model_copy(
                update={"prompts": 2, "inference_steps": 4, "influence_calls": 1}
            ),
        }
    )
    export = recipe.export.model_copy(update={"encoders_only": False})
    changes = {"run": str(work / "run"), "corpora": corpora, "distill": distill, "export": export}
    return recipe.model_copy(update=changes)


def stages(given: list[str], recipe: Recipe, family: Family, steps: int, work: Path) -> list[Stage]:
    """`given`: the words of the recipe that was asked for; `recipe`: the small one."""
    run, path = work / "run", work / "recipe.yaml"
    saved = run / "distill" / "latest"
    name = f"step_{steps:06d}"
    export = run / "export" / "base"
    size = [] if torch.cuda.is_available() else _small_size(recipe)
    prompt = recipe.text_language.verification_prompts[0] or "猫"
    return [
        Stage(
            "sample",
            "every source is there and can be read",
            [
                "corpora.sample",
                *given,
                "--rows",
                str(SAMPLE_ROWS),
                "--out",
                f"{work}/sample.parquet",
            ],
        ),
        Stage("prepare", "languages are told, pairs are kept", ["corpora.prepare", str(path)]),
        Stage("vocab_init", "the tokenizer and its first embeddings", ["vocab_init", str(path)]),
        Stage("tokens", "pairs to token ids", ["distill.tokens", str(path)]),
        Stage(
            "train",
            f"measures the teacher, {steps} steps, a checkpoint; then it is killed",
            ["distill.train", str(path)],
            together=True,
            until=lambda: saved.is_file() and saved.read_text(encoding="utf-8").strip() == name,
        ),
        Stage(
            "resume", "goes on from that checkpoint", ["distill.train", str(path)], together=True
        ),
        Stage("export", "whole pipelines, loaded again", ["distill.export", str(path)]),
        Stage("verify", "what users do after a download", ["distill.verify", str(export)]),
        Stage(
            "paint",
            "the exported pipeline paints",
            [
                *("eval.paint", str(export), "--prompt", prompt, "--steps", "2"),
                *("--out", f"{work}/painted", *size),
            ],
        ),
    ]


def write(recipe: Recipe, path: Path) -> None:
    path.write_text(dump_recipe(recipe), encoding="utf-8")


def _small_size(recipe: Recipe) -> list[str]:
    latents = read_config(recipe.distill.base, "unet").get("sample_size")
    if not isinstance(latents, int) or latents * 8 <= SMALL_SIDE:
        return []
    return ["--height", str(SMALL_SIDE), "--width", str(SMALL_SIDE)]
