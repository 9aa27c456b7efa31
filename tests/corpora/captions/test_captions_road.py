"""A synthetic laion2B-multi becomes pairs: every row accounted for by its own reason, the same
bytes however often it is interrupted.
"""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from killing import run_killed

from configs.schema.load import load_recipe
from corpora import prepare
from corpora.captions import __main__ as entry
from corpora.captions import choose, translate, translator
from corpora.miniature import make_laion
from corpora.pair import read_manifest, read_pairs
from corpora.toyworld import caption_reader

ROOT = Path(__file__).resolve().parents[3]
ROWS, SEED = 12_000, 3


@pytest.fixture(scope="module")
def laion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("laion") / "laion"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(make_laion, "SHARD_ROWS", 300)
        patch.setattr(make_laion, "FILE_ROWS", 5000)
        patch.setattr(make_laion, "GROUP_ROWS", 1000)
        make_laion.write(folder, ROWS, SEED)
    return folder


@pytest.fixture(scope="module")
def recipe(laion: Path) -> Path:
    tree = yaml.safe_load((ROOT / "configs" / "toyworld.yaml").read_text(encoding="utf-8"))
    tree["captions"] |= {
        "keep": 500,
        "shard_rows": 200,
        "images": {"kind": "shards", "path": f"{laion}/images/*.tar"},
    }
    tree["captions"]["source"]["path"] = f"{laion}/metadata/*.parquet"
    path = laion / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def made(recipe: Path) -> Path:
    """The run that nobody disturbed."""
    run = recipe.parent / "made"
    assert entry.main([str(recipe), f"run={run}"]) == 0
    return run


def read(folder: Path) -> pa.Table:
    return pa.concat_tables(pq.read_table(file) for file in sorted(folder.glob("*.parquet")))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_every_row_goes_by_its_own_reason(made: Path, laion: Path) -> None:
    expected = json.loads((laion / "expected.json").read_text(encoding="utf-8"))
    manifest = read_manifest(made / "captions")
    dropped = sum((Counter(stage.dropped) for stage in manifest.stages), Counter[str]())
    assert manifest.stages[0].rows_in == ROWS and manifest.rows("train") + dropped.total() == ROWS
    for reason in [*make_laion.DIRT, "language_column"]:
        if reason != "equal_caption":  # two captions are sometimes equal by chance
            assert dropped[reason] == expected[reason], reason
    assert expected["equal_caption"] <= dropped["equal_caption"] <= 1.3 * expected["equal_caption"]
    assert [
        stage.name for stage in manifest.stages
    ] == "read unsafe filter language_id picture deduplicate rank translate".split()


def test_the_captions_kept_fit_their_pictures_and_are_said_in_english(made: Path) -> None:
    truth = {f"laion:{row.number:010d}": row for row in make_laion.rows(ROWS, SEED)}
    table = read(made / "captions")
    assert table.schema.equals(translate.SCHEMA) and 495 <= len(table) <= 500
    rows = table.to_pylist()
    assert (
        np.mean([truth[row["id"]].fits for row in rows]) > 0.93
    )  # 0.75 of those that could be ranked
    said = [caption_reader.read(row["en"]) for row in rows]
    right = [
        scene is not None and scene.key == truth[row["id"]].shown.key
        for scene, row in zip(said, rows, strict=True)
        if truth[row["id"]].fits
    ]
    assert np.mean(right) > 0.8  # the miniature translator alone: 0.82 to 0.88
    assert [row["id"] for row in rows] == sorted(row["id"] for row in rows)


def test_the_card_shows_every_reason_and_nothing_unescaped(made: Path) -> None:
    page = (made / "captions" / "data_card.html").read_text(encoding="utf-8")
    for stage in read_manifest(made / "captions").stages:
        assert all(
            f"{stage.name}: {reason}" in page for reason, count in stage.dropped.items() if count
        )
    assert "&lt;a href=x&gt;" in page and "<a href=x>" not in page  # of the captions with markup
    assert (made / "captions" / "README.md").read_text(encoding="utf-8").count(
        "| rank | not_among_the_best |"
    ) == 1


def test_pairs_are_made_of_them(made: Path, recipe: Path, tmp_path: Path) -> None:
    source = {
        "kind": "parquet",
        "name": "laion",
        "path": f"{made}/captions/*.parquet",
        "text": "text",
        "licence": "CC BY 4.0",
    }
    tree = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    tree["corpora"] |= {"sources": [source], "held_out_pairs": 20}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    assert prepare.main([str(tmp_path / "r.yaml"), f"run={tmp_path / 'run'}"]) == 0
    captions = set(read(made / "captions")["text"].to_pylist())
    assert {
        pair.text
        for split in ("train", "held_out")
        for pair in read_pairs(tmp_path / "run" / "pairs", split)
    } <= captions  # type: ignore[arg-type]


def test_more_workers_smaller_pieces_the_same_bytes(
    made: Path, recipe: Path, tmp_path: Path
) -> None:
    assert entry.main([str(recipe), f"run={tmp_path}", "corpora.workers=2"]) == 0
    assert contents(tmp_path / "captions") == contents(made / "captions")
    assert entry.main([str(recipe), f"run={tmp_path}"]) == 0  # nothing is left to do
    assert (
        entry.main([str(recipe), f"run={tmp_path}", "captions.keep=400"]) == 3
    )  # another recipe's


def test_killed_at_random_moments_it_ends_with_the_same_bytes(
    made: Path, recipe: Path, tmp_path: Path
) -> None:
    libraries = [
        "corpora.captions.dual_encoder",
        "corpora.captions.pipeline",
        "corpora.captions.translator",
    ]
    assert (
        run_killed(
            "corpora.captions.__main__",
            libraries,
            [str(recipe), f"run={tmp_path}"],
            kills=20,
            longest=0.6,
        )
        >= 10
    )
    assert contents(tmp_path / "captions") == contents(made / "captions")
    assert not list(tmp_path.glob("*unfinished*"))


def test_files_and_a_column_rank_too(recipe: Path, laion: Path, tmp_path: Path) -> None:
    column = ["captions.images={kind: similarity_column}", "captions.ranker=null"]
    assert entry.main([str(recipe), f"run={tmp_path / 'column'}", *column]) == 0
    kept = read(tmp_path / "column" / "captions").to_pylist()
    every = {
        f"laion:{number:010d}": value
        for number, value in enumerate(read(laion / "metadata")["similarity"].to_pylist())
    }
    assert all(row["similarity"] == np.float32(every[row["id"]]) for row in kept)
    assert (
        entry.main(
            [
                str(recipe),
                f"run={tmp_path / 'files'}",
                f"captions.images={{kind: files, path: {tmp_path}}}",
            ]
        )
        == 3
    )  # no picture is there


def test_what_does_not_come_back_is_dropped(
    made: Path, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way back is played by the captions themselves, wrong for every third."""
    japanese = read(made / "captions")["text"].to_pylist()
    load = translator.load

    def both_ways(settings: object, folder: Path, source: str, target: str) -> object:
        if target == "en":
            return load(settings, folder)  # type: ignore[arg-type]
        return lambda texts: [text if number % 3 else "円" for number, text in enumerate(japanese)]

    monkeypatch.setattr(translator, "load", both_ways)
    back = "captions.back_translation={translator: {model: toyworld:translator}, min_chrf: 40}"
    assert entry.main([str(recipe), f"run={tmp_path}", back]) == 0
    stage, kept = read_manifest(tmp_path / "captions").stages[-1], read(tmp_path / "captions")
    assert stage.dropped["back_translation"] == -(-len(japanese) // 3)
    assert min(kept["back_translation_chrf"].to_pylist()) >= 40


@pytest.mark.parametrize(
    ("override", "code", "said"),
    [
        ("captions.ranker=null", 2, "pictures want a ranker"),
        ("captions.source.path=/nowhere/*.parquet", 3, "there is no such file"),
        ("captions.images.path=/nowhere/*.tar", 3, "matches no file"),
        ("captions.translator.model=/nowhere", 3, "/nowhere"),
        ("captions=null", 2, "no section `captions`"),
    ],
)
def test_what_a_user_can_get_wrong_is_one_line(
    recipe: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    override: str,
    code: int,
    said: str,
) -> None:
    assert entry.main([str(recipe), f"run={tmp_path}", override]) == code
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_of_equal_captions_the_best_and_of_equal_scores_the_first() -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 20, 500).astype(np.float32)
    values[rng.random(500) < 0.2] = np.nan
    digests = rng.integers(0, 200, 500).astype(np.uint64)
    kept, lost = choose.choose(
        values, {"no_picture": np.flatnonzero(np.isnan(values))}, digests, 60
    )
    best: dict[int, int] = {}
    for row in np.flatnonzero(~np.isnan(values)):
        if digests[row] not in best or values[row] > values[best[digests[row]]]:
            best[digests[row]] = int(row)
    assert kept.tolist() == sorted(sorted(best.values(), key=lambda row: (-values[row], row))[:60])
    stages = choose.count(500, lost)
    assert stages[0].rows_in == 500 and stages[-1].rows_out == 60
    assert sorted(
        np.concatenate(
            [kept, *(rows for reasons in lost.values() for rows in reasons.values())]
        ).tolist()
    ) == list(range(500))


def test_help_answers_without_the_heavy_libraries() -> None:
    code = (
        "import sys; from corpora.captions import __main__\nassert not {'torch', 'datatrove', "
        "'ctranslate2', 'pyarrow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_the_recipe_has_the_section() -> None:
    captions = load_recipe(ROOT / "configs" / "sdxl_jp.yaml").captions
    assert captions is not None and captions.keep == 13_221_368  # what the reference kept
