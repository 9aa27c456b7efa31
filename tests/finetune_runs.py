"""Runs of a tiny base that are ready to be finetuned."""

from pathlib import Path

import yaml
from conftest import write_initial_student, write_pairs

from configs.schema.load import load_recipe
from corpora.toyworld import captions
from finetune.pictures import pipeline

STEPS = 4


def write_recipe(base: Path, folder: Path, name: str, stage: dict, **finetune: object) -> str:
    """A run that has its initial student, pairs and pictures."""
    run = folder / name
    write_initial_student(base, run / "initial_student")
    pairs = [(one.text, one.en) for one in captions.pairs(24, "train", 0)]
    write_pairs(run / "pairs", pairs, "train")
    tree = {
        "name": "x",
        "run": str(run),
        "corpora": {
            "sources": [{"kind": "toyworld", "pairs": 24, "held_out_pairs": 2}],
            "language_id": {"model": "x"},
        },
        "vocab_init": {"tokenizer": "toyworld:spiece.model", "sentence_encoder": "x"},
        "distill": {
            "base": str(base),
            "objective": {"position": 1.0},
            "steps": STEPS,
            "batch_size": 4,
            "learning_rate": 1e-3,
            "warmup_steps": 1,
            "precision": "fp32",
        },
        "pictures": {
            "resolution": 32,
            "buckets": None,
            "held_out": 4,
            "sources": [{"kind": "toyworld", "scenes": 20}],
        },
        "finetune": {
            "start": "initial_student",
            "stages": {
                "words": {
                    "trains": ["text"],
                    "steps": STEPS,
                    "batch_size": 6,
                    "learning_rate": 1e-3,
                    "warmup_steps": 1,
                    "precision": "fp32",
                    "log_every_steps": 1,
                    "save_every_steps": 2,
                    "eval_every_steps": 2,
                    **stage,
                }
            },
            **finetune,
        },
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    pipeline.make(load_recipe(path))
    return str(path)
