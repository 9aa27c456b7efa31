"""Real text through the real pipeline: labelled dirty rows among ten thousand clean ones, and rows longer than SDXL reads."""

import random
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from test_corpora_filters import RIGHT, rows

from configs import schema
from configs.schema import Filters
from corpora import dropped, prepare
from corpora.normalise import normalise

CLEAN = {"pairs/tanaka_train.tsv": 5_000, "pairs/youcook2_jp.tsv": 4_000, "pairs/flickr30k_valid_ja_mt.tsv": 1_000}
# A sound translation of something else (another caption of the picture, a wrong sense of a word): only what means something could tell.
MEANING = {"low alignment margin (possibly the wrong one of five captions)", "wrong machine translation of a class name"}
REFERENCE = schema.load("configs/sdxl_jp.yaml").corpora.filters


def lost(texts: list[tuple[str, str]], filters: Filters, folder: Path) -> dict[int, tuple[str, str]]:
    """Stage and reason of every dropped row, by its number, after corpora.prepare.

    The language identifier that ships knows little but toyworld's captions: at the recipes' 0.5 it would take 4 % of the clean rows below, so
    here it judges and drops nothing. lid.176.bin, which the reference recipe asks for, is not at hand in a test.
    """
    (folder / "texts.tsv").write_text("".join(f"{ja}\t{en}\n" for ja, en in texts), encoding="utf-8")
    changes = [
        f"run={folder / 'run'}",
        f"corpora.sources=[{{kind: tsv, name: real, path: {folder / 'texts.tsv'}, licence: x, header: false, ja: 0, en: 1}}]",
        f"corpora.filters={filters.model_dump_json()}",
        "corpora.language_id.min_probability=0.0",
        "corpora.near_duplicates={threshold: 0.9}",
        "corpora.held_out_pairs=10",
    ]
    assert prepare.main(["configs/toyworld.yaml", *changes]) == 0
    found = pq.read_table(folder / "run" / "pairs" / dropped.FILE).to_pylist()
    return {int(row["id"].removeprefix("real:")): (row["stage"], row["reason"]) for row in found}


@pytest.mark.slow
def test_dirty_rows_go_for_the_right_reason_and_clean_ones_stay(tmp_path: Path) -> None:
    rng = random.Random(0)
    mixed = [(ja, en, noted) for ja, en, _, _, noted in rows("fixtures/dirty_pairs.tsv")]
    for name, count in CLEAN.items():
        mixed += [(ja, en, "") for ja, en, *_ in rng.sample(rows(name), count)]
    rng.shuffle(mixed)
    reasons = lost([(ja, en) for ja, en, _ in mixed], REFERENCE, tmp_path)
    assert {noted for _, _, noted in mixed} == {"", *RIGHT, *MEANING}
    hits = [reasons.get(number, ("", ""))[1] in RIGHT[noted] for number, (_, _, noted) in enumerate(mixed) if noted in RIGHT]
    assert sum(hits) >= 0.85 * len(hits), f"{sum(hits)} of {len(hits)}"
    # duplicates and texts of held-out rows are dropped by rights, however clean
    wrongly = Counter(reason for number, (stage, reason) in reasons.items() if not mixed[number][2] and stage in ("read", "filter", "language_id"))
    assert wrongly.total() <= 0.01 * sum(CLEAN.values()), wrongly
    print(f"{sum(hits)} of {len(hits)} dirty rows for the right reason; of the clean ones {wrongly}")


def test_over_long_rows_are_what_the_recipe_says(tmp_path: Path) -> None:
    """Longer than 77 tokens is no reason to drop a pair (it is cut, as SDXL cuts prompts); longer than `max_characters` is, for exactly those."""
    texts = [(ja, en) for ja, en, *_ in rows("fixtures/long_over_77.tsv")] + [(ja, en) for ja, en, *_ in rows("pairs/tanaka_dev.tsv")]
    long = {number for number, pair in enumerate(texts) if max(len(normalise(text)) for text in pair) > 300}
    assert len(long) >= 5
    for limit, expected in ((1000, set()), (300, long)):
        (tmp_path / str(limit)).mkdir()
        reasons = lost(texts, REFERENCE.model_copy(update={"max_characters": limit}), tmp_path / str(limit))
        assert {number for number, found in reasons.items() if found == ("filter", "too_long")} == expected
