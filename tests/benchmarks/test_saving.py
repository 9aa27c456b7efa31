"""The benchmark of a save measures a real one, by any number of processes."""

import json
from pathlib import Path

from groups import run_groups

from benchmarks import saving
from distill.parallel import engine


def save_small(out: str) -> None:
    engine.REDUCE_BUCKET = 1000
    for shape in saving.SHAPES.values():
        shape |= {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    options = [
        "distill.batch_size=8",
        "distill.ema_decay=0.9",
        "--scale",
        "0.01",
        "--rounds",
        "1",
        "--out",
        out,
    ]
    assert saving.main(["configs/sdxl_jp.yaml", *options]) == 0


def test_a_save_beside_a_plain_write(tmp_path: Path) -> None:
    run_groups(__file__, [(2, "save_small", {"out": str(tmp_path)})])
    result = json.loads((tmp_path / "saving_0.01.json").read_text())
    frozen = (
        16 * 16 * 4 + 16 * 4 + 2 * 16 * 32 + 32 + 16 + 4 * 16 + 2 * 16
    )  # clip_l's last layer and norm have no optimizer state
    assert (
        result["gigabytes"] * 1e9 == 16 * result["parameters"] - 12 * frozen
        and result["processes"] == 2
    )
    assert result["ratio"] > 0 and (tmp_path / "saving_0.01.md").read_text().count("| ") > 6
    assert not (tmp_path / "saving").exists()
