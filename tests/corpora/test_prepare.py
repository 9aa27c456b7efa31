"""The whole stage on disk: toyworld and files in, pairs out, the same bytes whatever happened on
the way.
"""

import gzip
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from killing import run_killed
from language_models import train_model

from configs.schema.load import load_recipe
from corpora import pipeline, prepare, sources
from corpora.executor.local import LocalExecutor
from corpora.filters.normalise import comparison_key
from corpora.pair import SPLITS, read_manifest, read_pairs
from corpora.sources import part
from corpora.toyworld import captions
from corpora.toyworld.japanese import PHRASINGS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_model(tmp_path_factory.mktemp("model") / "lid.bin")


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A TSV of 1500 captions with dirt in it, and a parquet file of 200 more."""
    folder = tmp_path_factory.mktemp("texts")
    lines = [f"{one.text}\t{one.en}".encode() for one in captions.pairs(1500, "train", seed=11)]
    lines[3:3] = [
        lines[0],
        b"\xff\t\xff",
        b"ragged",
        "абвгде жзи 四角\ta red circle".encode(),
        "赤い丸\tабвгдеж a".encode(),
        b"",
        b"x" * (2 << 20),
    ]
    lines[20:20] = [lines[10] + b".", "同じ\t同じ".encode(), "#URL#の丸\ta circle".encode()]
    (folder / "a.tsv").write_bytes(b"ja\ten\n" + b"\n".join(lines) + b"\n")
    more = [*captions.pairs(200, "train", seed=12)]
    table = {
        "ja": [one.text for one in more] + [None],
        "en": [one.en for one in more] + ["a red circle"],
    }
    pq.write_table(pa.table(table), folder / "b.parquet", row_group_size=60)
    return folder


@pytest.fixture
def recipe(tmp_path: Path, texts: Path, model_path: Path) -> Path:
    """configs/toyworld.yaml with our sources and model, run in `tmp_path`."""
    tree = yaml.safe_load((ROOT / "configs/toyworld.yaml").read_text(encoding="utf-8"))
    tree["run"] = str(tmp_path / "run")
    tree["distill"]["learning_rate"] = 1e-3  # PyYAML reads the recipe's 1e-3 as text
    tree["corpora"] = {
        "sources": [
            {"kind": "tsv", "name": "captions", "path": str(texts / "a.tsv"), "licence": "CC0"},
            {"kind": "toyworld", "pairs": 300, "held_out_pairs": 40},
            {
                "kind": "parquet",
                "name": "more",
                "path": str(texts / "*.parquet"),
                "licence": "CC BY",
            },
        ],
        "language_id": {"model": str(model_path), "min_probability": 0.6},
        "near_duplicates": {"ignored_words": ["a", "the"]},
        "held_out_pairs": 60,
        "shard_rows": 400,
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree, allow_unicode=True), encoding="utf-8")
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_files_and_toyworld_become_pairs(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare.main([str(recipe)]) == 0
    shown = capsys.readouterr()
    folder = tmp_path / "run" / "pairs"
    manifest = read_manifest(folder)
    assert [one.name for one in manifest.stages] == [
        "read",
        "filter",
        "language_id",
        "deduplicate",
        "split",
    ]
    assert manifest.stages[0].rows_in == 1510 + 340 + 201
    dropped = Counter[str]()
    for one in manifest.stages:
        assert one.rows_in == one.rows_out + sum(one.dropped.values())
        dropped.update(one.dropped)
    assert {
        reason: dropped[reason]
        for reason in (
            "invalid_utf8",
            "ragged",
            "too_long",
            "null",
            "copy",
            "placeholder",
            "no_latin_script",
        )
    } == {
        "invalid_utf8": 1,
        "ragged": 2,
        "too_long": 1,
        "null": 1,
        "copy": 1,
        "placeholder": 1,
        "no_latin_script": 0,
    }
    assert dropped["ja_script_is_not_japanese"] == dropped["en_script_is_not_latin"] == 1
    assert dropped["exact_duplicate"] >= 1 and dropped["near_duplicate"] >= 1
    # the printed table says the same
    for reason, count in dropped.items():
        assert not count or f"{-count:,}" in next(
            line for line in shown.out.splitlines() if f" {reason} " in line
        )
    assert f"{manifest.rows('train'):,}" in shown.out and "2,051  100.00%" in shown.out
    assert "DEBUG" not in shown.err and "INFO" not in shown.err and "datatrove" not in shown.err

    train, held_out = ([*read_pairs(folder, split)] for split in SPLITS)
    assert len(train) == manifest.rows("train") and [
        len([*read_pairs(folder, split)]) for split in SPLITS
    ][1] == len(held_out)
    assert manifest.stages[0].rows_in == len(train) + len(held_out) + dropped.total()
    assert len([one for one in held_out if not one.source.startswith("toyworld_")]) == 60
    assert all(
        one.id.startswith("toyworld:held_out:")
        for one in held_out
        if one.source.startswith("toyworld_")
    )
    for side in ("text", "en"):
        assert not {comparison_key(getattr(one, side)) for one in train} & {
            comparison_key(getattr(one, side)) for one in held_out
        }
    toyworld = {(f"toyworld_{phrasing}", "Apache-2.0") for phrasing in PHRASINGS}
    assert {(one.source, one.licence) for one in train + held_out} == {
        ("captions", "CC0"),
        ("more", "CC BY"),
    } | toyworld
    assert all(
        one.text_language_probability >= 0.6 and one.en_language_probability >= 0.6
        for one in train + held_out
    )
    assert len({one.id for one in train + held_out}) == len(train + held_out)
    assert [path.name for path in (tmp_path / "run").iterdir() if "unfinished" in path.name] == []


def test_two_workers_and_many_parts_give_the_same_bytes(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(part, "PART_ROWS", 60)
    for workers in (1, 2):
        assert (
            prepare.main(
                [str(recipe), f"run={tmp_path / str(workers)}", f"corpora.workers={workers}"]
            )
            == 0
        )
    one, two = (contents(tmp_path / str(workers) / "pairs") for workers in (1, 2))
    assert one == two and len(one) >= 5
    assert "INFO" not in capfd.readouterr().err  # nor do the workers chatter


KILLED_AFTER_PARTS = """
import os, sys
from corpora import pair, pipeline, sources
from corpora.sources import part
part.PART_ROWS = part.STREAM_PART_ROWS = 150
count, write_batch = 0, sources.read
def read(source, piece):
    global count
    count += 1
    for batch in write_batch(source, piece):
        yield batch
    if count == 3:
        os.kill(os.getpid(), 9)
sources.read = read
write_shard = pair.ShardWriter._write_shard
def shard(self, rows):
    write_shard(self, rows)
    if os.environ.get("KILL_AT_SHARD"):
        os.kill(os.getpid(), 9)
if os.environ.get("KILL_AT_SHARD"):
    count = 99
pair.ShardWriter._write_shard = shard
from corpora import prepare
sys.exit(prepare.main(sys.argv[1:]))
"""


def test_killed_twice_it_goes_on_and_ends_with_the_same_bytes(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(part, "PART_ROWS", 150)
    assert prepare.main([str(recipe), f"run={tmp_path / 'unbroken'}"]) == 0
    (tmp_path / "kill.py").write_text(KILLED_AFTER_PARTS, encoding="utf-8")
    run = [sys.executable, str(tmp_path / "kill.py"), str(recipe)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    first = subprocess.run(run, env=environment, capture_output=True, check=False)
    (work,) = (tmp_path / "run").glob("pairs.unfinished-*")
    done = sorted(work.glob("parts/*.parquet"))
    assert first.returncode == -signal.SIGKILL and len(done) == 2, first.stderr.decode()[-500:]
    made = [path.stat().st_mtime_ns for path in done]
    second = subprocess.run(
        run, env={**environment, "KILL_AT_SHARD": "1"}, capture_output=True, check=False
    )
    assert (
        second.returncode == -signal.SIGKILL and (work / "pairs" / "train-00000.parquet").exists()
    ), second.stderr.decode()[-500:]
    assert not (tmp_path / "run" / "pairs").exists()
    assert [path.stat().st_mtime_ns for path in done] == made, "a finished part was made again"
    assert prepare.main([str(recipe)]) == 0
    assert contents(tmp_path / "run" / "pairs") == contents(tmp_path / "unbroken" / "pairs")
    assert not list((tmp_path / "run").glob("pairs.unfinished-*"))


def test_killed_at_twenty_random_moments_it_ends_with_the_same_bytes(
    recipe: Path, tmp_path: Path
) -> None:
    assert (
        prepare.main([str(recipe), f"run={tmp_path / 'whole'}", "corpora.sources.1.pairs=8000"])
        == 0
    )
    arguments = [str(recipe), f"run={tmp_path / 'killed'}", "corpora.sources.1.pairs=8000"]
    assert (
        run_killed(
            "corpora.prepare",
            ["corpora.pipeline"],
            arguments,
            kills=20,
            longest=0.25,
            piece_rows=500,
        )
        >= 10
    )
    assert shards(tmp_path / "killed" / "pairs") == shards(tmp_path / "whole" / "pairs")
    assert not list((tmp_path / "killed").glob("*unfinished*"))


def shards(folder: Path) -> dict[str, bytes]:
    return {
        name: content
        for name, content in contents(folder).items()
        if name.endswith(".parquet") or name == "samples.json"
    }


def test_streams_give_the_same_bytes_for_any_workers_and_after_a_kill(
    recipe: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gzip, a zip and an XML file are cut into parts although each is read from its start; the
    gzip gives what the plain file gives.
    """
    (tmp_path / "a.tsv.gz").write_bytes(gzip.compress((texts / "a.tsv").read_bytes()))
    moses, units = ([*captions.pairs(rows, "train", seed=rows)] for rows in (250, 220))
    with zipfile.ZipFile(tmp_path / "m.zip", "w") as archive:
        archive.writestr("M.en-ja.ja", "".join(f"{one.text}\n" for one in moses))
        archive.writestr("M.en-ja.en", "".join(f"{one.en}\n" for one in moses))
    both = '<tu><tuv xml:lang="ja"><seg>{}</seg></tuv><tuv xml:lang="en"><seg>{}</seg></tuv></tu>'
    (tmp_path / "u.tmx").write_text(
        f"<tmx><body>{''.join(both.format(one.text, one.en) for one in units)}</body></tmx>",
        encoding="utf-8",
    )
    more = (
        f"{{kind: moses, name: m, path: {tmp_path}/m.zip, licence: x}}, "
        f"{{kind: tmx, name: u, path: {tmp_path}/u.tmx, licence: y}}"
    )
    plain, packed = (
        f"corpora.sources=[{{kind: tsv, name: captions, path: {path}, licence: CC0}}, {more}]"
        for path in (texts / "a.tsv", tmp_path / "a.tsv.gz")
    )
    assert prepare.main([str(recipe), plain, f"run={tmp_path / 'plain'}"]) == 0
    expected = shards(tmp_path / "plain" / "pairs")
    assert read_manifest(tmp_path / "plain" / "pairs").stages[0].rows_in == 1510 + 250 + 220
    monkeypatch.setattr(part, "STREAM_PART_ROWS", 150)
    assert len(sources.plan(load_recipe(recipe, [packed]).corpora)) == 11 + 2 + 2
    for workers in (1, 2, 4):
        assert (
            prepare.main(
                [
                    str(recipe),
                    packed,
                    f"run={tmp_path / str(workers)}",
                    f"corpora.workers={workers}",
                ]
            )
            == 0
        )
        assert shards(tmp_path / str(workers) / "pairs") == expected
    (tmp_path / "kill.py").write_text(KILLED_AFTER_PARTS, encoding="utf-8")
    command = [sys.executable, str(tmp_path / "kill.py"), str(recipe), packed]
    killed = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()[-500:]
    (work,) = (tmp_path / "run").glob("pairs.unfinished-*")
    made = {path.name: path.stat().st_mtime_ns for path in work.glob("parts/*.parquet")}
    assert len(made) == 2
    run_for_rank = LocalExecutor._run_for_rank
    ranks: list[int] = []
    monkeypatch.setattr(
        LocalExecutor,
        "_run_for_rank",
        lambda self, rank: ranks.append(rank) or run_for_rank(self, rank),
    )
    assert prepare.main([str(recipe), packed]) == 0
    assert shards(tmp_path / "run" / "pairs") == expected and sorted(ranks) == list(range(2, 15)), (
        "a finished part was made again"
    )


def test_a_second_run_does_nothing_and_another_recipe_is_refused(
    recipe: Path, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = [
        str(recipe),
        "corpora.near_duplicates=null",
        "corpora.sources=[{kind: toyworld, pairs: 50, held_out_pairs: 5}]",
        "corpora.held_out_pairs=0",
    ]
    folder = tmp_path / "run" / "pairs"
    assert prepare.main(small) == 0
    before, times = contents(folder), [path.stat().st_mtime_ns for path in folder.iterdir()]
    capsys.readouterr()
    started = time.process_time()
    assert prepare.main([*small, "corpora.workers=2"]) == 0
    assert time.process_time() - started < 1
    assert (
        "already prepared for these settings (50 train, 5 held_out pairs); nothing to do"
        in capsys.readouterr().out
    )
    assert prepare.main([*small, "corpora.filters.max_characters=299"]) == 3
    shown = capsys.readouterr().err
    assert "pairs made by other settings" in shown and "Traceback" not in shown
    assert (
        contents(folder) == before
        and [path.stat().st_mtime_ns for path in folder.iterdir()] == times
    )
    (folder / "train-00000.parquet").unlink()
    assert prepare.main(small) == 3 and "train-00000.parquet: missing" in capsys.readouterr().err


def test_sources_that_changed_since_are_noticed_and_gone_ones_forgiven(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "one.tsv"
    lines = [f"{one.text}\t{one.en}\n" for one in captions.pairs(30, "train", seed=2)]
    text.write_text("ja\ten\n" + "".join(lines), encoding="utf-8")
    listed = f"corpora.sources=[{{kind: tsv, name: o, path: '{tmp_path}/*.tsv', licence: CC0}}]"
    command = [str(recipe), listed, "corpora.near_duplicates=null", "corpora.held_out_pairs=5"]
    assert prepare.main(command) == 0
    text.write_text("ja\ten\n" + "".join(lines[::-1]), encoding="utf-8")
    assert (
        prepare.main(command) == 3
        and "one.tsv has changed since the pairs were made" in capsys.readouterr().err
    )
    text.rename(tmp_path / "two.tsv")
    assert prepare.main(command) == 3 and "two.tsv has changed" in capsys.readouterr().err
    (tmp_path / "two.tsv").unlink()
    assert prepare.main(command) == 0


@pytest.mark.parametrize(
    ("overrides", "code", "message"),
    [
        (["corpora.held_out_pairs=5000"], 3, "held_out_pairs asks for 5000 rows of file sources"),
        (["corpora.filters.min_characters=999"], 3, "no pair is left to train on"),
        (["corpora.sources.0.path=nowhere.tsv"], 3, "nowhere.tsv: there is no such file"),
        (["corpora.sources.0.text=jp"], 2, "0 columns are called 'jp'"),
        (
            ["corpora.language_id.model=nowhere.bin"],
            3,
            "nowhere.bin: there is no language-id model",
        ),
        (["corpora.near_duplicates.threshold=0.9"], 2, "there is no such key"),
    ],
)
def test_what_a_user_can_get_wrong_is_one_line(
    recipe: Path, capsys: pytest.CaptureFixture[str], overrides: list[str], code: int, message: str
) -> None:
    if "min_characters" in overrides[0]:
        overrides = [*overrides, "corpora.held_out_pairs=0"]
    assert prepare.main([str(recipe), *overrides]) == code
    last = capsys.readouterr().err.rstrip().splitlines()[-1]
    assert last.startswith("corpora.prepare: ") and message in last


def test_an_error_in_a_worker_is_one_line_too(
    recipe: Path, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file's first page is damaged: planning reads the footer only, a worker meets the page."""
    content = bytearray((texts / "b.parquet").read_bytes())
    content[4:40] = b"\xff" * 36
    (tmp_path / "bad.parquet").write_bytes(content)
    assert (
        prepare.main(
            [str(recipe), f"corpora.sources.2.path={tmp_path}/bad.parquet", "corpora.workers=2"]
        )
        == 3
    )
    assert "bad.parquet: cannot be read as parquet" in capsys.readouterr().err.splitlines()[-1]


def test_help_answers_without_the_heavy_libraries() -> None:
    code = (
        "import sys; from corpora import prepare, pair\nassert not {'torch', 'datatrove', "
        "'fasttext'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_the_number_of_workers_is_no_setting_of_the_data(recipe: Path) -> None:
    loaded = load_recipe(recipe)
    manifest, is_new = pipeline.prepare(loaded)
    assert is_new and "workers" not in manifest.settings
    assert (
        json.loads((loaded.run_dir / "pairs" / "manifest.json").read_text(encoding="utf-8"))[
            "settings"
        ]["shard_rows"]
        == 400
    )
