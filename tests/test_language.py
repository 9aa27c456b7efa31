"""A second language goes the whole road by its code alone: Korean, from a TSV made here to a
verified pipeline.
"""

import itertools
import json
import random
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import sentencepiece
import yaml
from language_models import train_model

from configs.errors import RecipeError
from configs.languages import KOREAN, LANGUAGES
from configs.schema.load import dump_recipe, load_recipe
from corpora import prepare
from corpora.filters import language_id
from corpora.pair import read_manifest, read_pairs
from distill.export.__main__ import main as export
from distill.verify.__main__ import main as verify
from vocab_init.__main__ import main as vocab_init

ROOT = Path(__file__).resolve().parents[1]
COLOURS = {"빨간": "red", "파란": "blue", "노란": "yellow", "초록색": "green", "보라색": "purple"}
SHAPES = {"동그라미": "circle", "사각형": "square", "삼각형": "triangle", "별": "star"}
SIZES = {"큰": "big", "작은": "small", "아주 큰": "very big"}
GROUNDS = {"하얀": "white", "검은": "black", "회색": "grey", "갈색": "brown"}
DIRTY = (
    ("赤い丸が白い背景にある", "a red circle on a white background", "no_korean_script"),
    ("빨간 동그라미", "a red 동그라미", "korean_script_in_english"),
    ("빨 red circles on white", "red circles on white", "ko_script_is_not_korean"),
)


def sentences(count: int) -> list[tuple[str, str]]:
    made = [
        (f"{GROUND} 배경에 {SIZE} {COLOUR} {SHAPE}", f"a {size} {colour} {shape} on {ground}")
        for (SIZE, size), (COLOUR, colour), (SHAPE, shape), (GROUND, ground) in itertools.product(
            *(words.items() for words in (SIZES, COLOURS, SHAPES, GROUNDS))
        )
    ]
    return random.Random(0).sample(made, count)


@pytest.fixture
def recipe(tiny_sdxl: Path, tmp_path: Path) -> Path:
    pairs = sentences(200)
    rows = [("ko", "en"), *pairs, *((text, en) for text, en, _ in DIRTY)]
    (tmp_path / "shapes.tsv").write_text(
        "".join(f"{text}\t{en}\n" for text, en in rows), encoding="utf-8"
    )
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text for text, _ in pairs),
        model_prefix=str(tmp_path / "korean"),
        model_type="unigram",
        vocab_size=400,
        byte_fallback=True,
        character_coverage=1.0,
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
    )
    model = train_model(
        tmp_path / "id.bin", ("ko", "en"), ko=[text for text, _ in pairs for _ in range(3)]
    )
    tree = {
        "name": "korean",
        "run": str(tmp_path / "run"),
        "language": "ko",
        "corpora": {
            "sources": [
                {
                    "kind": "tsv",
                    "name": "shapes",
                    "licence": "CC0-1.0",
                    "path": str(tmp_path / "shapes.tsv"),
                }
            ],
            "language_id": {"model": str(model)},
            "near_duplicates": None,
            "held_out_pairs": 20,
        },
        "vocab_init": {
            "tokenizer": str(tmp_path / "korean.model"),
            "sentence_encoder": "toyworld:sentence_encoder",
        },
        "distill": {
            "base": str(tiny_sdxl / "base"),
            "refiner": str(tiny_sdxl / "refiner"),
            "objective": {"position": 1.0},
            "steps": 3,
            "warmup_steps": 0,
            "batch_size": 4,
            "learning_rate": 1e-3,
        },
    }
    path = tmp_path / "korean.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return path


def test_korean_from_a_tsv_to_a_verified_pipeline(recipe: Path, tmp_path: Path) -> None:
    assert prepare.main([str(recipe)]) == 0
    assert vocab_init([str(recipe)]) == 0
    # A process of its own: DeepSpeed keeps its process group until the process ends.
    subprocess.run([sys.executable, "-m", "distill.train", str(recipe)], cwd=ROOT, check=True)
    assert export([str(recipe)]) == 0
    run = tmp_path / "run"
    for name in ("encoders", "base", "refiner"):
        assert verify([str(run / "export" / name)]) == 0

    manifest = read_manifest(run / "pairs")
    reasons = {reason for stage in manifest.stages for reason in stage.dropped}
    assert manifest.settings["language"] == "ko" and {one for *_, one in DIRTY} <= reasons
    kept = [*read_pairs(run / "pairs", "train"), *read_pairs(run / "pairs", "held_out")]
    assert {(one.text, one.en) for one in kept} <= set(sentences(200)) and len(kept) > 190
    assert pq.read_schema(run / "pairs" / "train-00000.parquet").names[:3] == ["id", "text", "en"]
    assert "# Korean-English pairs" in (run / "pairs" / "README.md").read_text(encoding="utf-8")
    card = (run / "export" / "base" / "README.md").read_text(encoding="utf-8")
    assert yaml.safe_load(card.split("---\n")[1])["language"] == ["ko"]
    assert "that reads Korean" in card and "日本語" not in card and "使い方" not in card
    verification = json.loads((run / "export" / "base" / "verification.json").read_text("utf-8"))
    assert [row["prompt"] for row in verification["prompts"]] == list(KOREAN.verification_prompts)


def test_an_unknown_language_and_the_default(recipe: Path) -> None:
    with pytest.raises(RecipeError, match=r"language: .*ja\|ko.* not 'xx'; correct the value"):
        load_recipe(recipe, ["language=xx"])
    korean, japanese = load_recipe(recipe), load_recipe("configs/toyworld.yaml")
    assert korean.corpora.filters.text_language is KOREAN
    assert korean.corpora.sources[0].columns == ("ko", "en")  # type: ignore[union-attr]
    assert japanese.language == "ja" and japanese.corpora.filters.text_language.code == "ja"
    again = recipe.with_name("again.yaml")
    again.write_text(dump_recipe(korean), encoding="utf-8")
    assert load_recipe(again) == korean


def test_every_language_is_whole() -> None:
    for code, one in LANGUAGES.items():
        own = [prompt for prompt in one.verification_prompts if one.script.search(prompt)]
        assert code == one.code and code in one.names and len(own) >= 8
        assert len(one.verification_prompts) == 12 and "" in one.verification_prompts
        assert len(set(language_id.REASONS[code])) == 3
