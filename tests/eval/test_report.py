"""The report and the summary, rendered from results written by hand."""

import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from configs.errors import DataError
from configs.files import file_sha256
from configs.schema.load import load_recipe
from distill.encoders.family import SDXL
from eval import results, summary
from eval.pictures import painted, painting
from eval.report import plots, report
from eval.rows import ROWS

SINCE_EVER = (
    "recipe fingerprint pairs gap_pairs rows word_order warnings examples".split()
)  # of a result, before forms of prompts were measured


def outputs(recipe: str) -> Path:
    return load_recipe(recipe).run_dir / "eval"


def gap(value: float) -> dict:
    low, high = 0.5 * value, 2 * value
    return {
        "value": value,
        "low": low,
        "high": high,
        "by_timestep": {"901": value},
        "intervals_by_timestep": {"901": [low, high]},
    }


def write_results(folder: Path, ja: str = "赤い丸") -> None:
    """Results as both evaluations write them, with made-up numbers."""
    share = {"value": 0.75, "low": 0.6, "high": 0.86, "right": 3, "total": 4}
    numbers = {"nmse": 0.5, "centred_cosine": 0.7} | {
        f"recall_at_{k}_{way}": 1.0 for k in (1, 10) for way in ("text_en", "en_text")
    }
    interval = {"value": 0.5, "low": 0.4, "high": 0.6}
    states = {
        "clip_l": {"bos": {"relative_squared_error": 0.0}, "content": numbers},
        "pooled": {"pooled": numbers},
    }
    rows = {
        row: {
            "states": states,
            "pooled_intervals": dict.fromkeys(numbers, interval),
            "by_length": {"1-16": {"pairs": 8, "states": states}},
            "by_source": {"<b>web</b>": {"pairs": 8, "states": states}},
            "collapse": {
                "pooled": {
                    "effective_rank": 3.0,
                    "effective_rank_ratio": 0.4,
                    "mean_pairwise_cosine": 0.1,
                }
            },
            "noise_gap": gap(0.0 if row == "teacher" else 0.01),
        }
        for row in [*ROWS, "<i>theirs</i>"]
    }
    comparison = {
        "recipe": "tiny",
        "fingerprint": "",
        "pairs": 8,
        "gap_pairs": 4,
        "rows": rows,
        "word_order": {"scrambled": {"pooled": 1.0, "states": None, "noise": 0.5, "pairs": 8}},
        "forms": {
            "words_50": {"noise_gap": gap(0.1234), "pairs": 4},
            "tags_sentence": {"noise_gap": gap(0.4321), "pairs": 3},
        },
        "weight_response": {"cosine": interval, "size": interval, "weight": 1.4, "pairs": 2},
        "warnings": ["collapse: a <b>line</b>"],
        "examples": [
            {"text": ja, "en": "a red circle", "nearest_en": "a ring", "centred_cosine": 0.5}
        ],
    }
    results.write(folder / "compare_hidden_states.json", comparison)
    results.write_bytes(
        folder / "pictures" / "0000.png", painting.png(Image.new("RGB", (32, 32), "red"))
    )
    names = ("teacher", "student", "teacher_untranslated")
    painted, right = dict.fromkeys(names, "pictures/0000.png"), dict.fromkeys(names, True)
    example = {"number": 1, "text": ja, "en": "a red circle", "pictures": painted, "right": right}
    measured = {name: {"scene_accuracy": share, "attributes": {"color": share}} for name in names}
    results.write(
        folder / "pictures.json",
        {
            "recipe": "tiny",
            "fingerprint": "",
            "prompts": 4,
            "rows": measured,
            "forms": {"words_50": {"scene_accuracy": share, "of_the_teacher": interval}},
            "examples": [example],
        },
    )


def test_report_holds_everything_and_escapes_captions(finished_run: Callable[..., str]) -> None:
    recipe = load_recipe(finished_run())
    empty = report.render(recipe, SDXL).read_text(encoding="utf-8")
    assert (
        "python -m eval.generate RECIPE" in empty
        and "python -m eval.compare_hidden_states RECIPE" in empty
    )
    write_results(recipe.run_dir / "eval", ja="<script>alert('赤')</script>")
    (recipe.run_dir / "distill").mkdir()
    history = [
        {"step": 1, "loss/total": 2.0, "val/total": 2.1, "optimizer/gradient_norm": 1.0},
        {"step": 2, "loss/total": 1.0, "loss/eos": 0.5, "val/total": 1.1}
        | {"optimizer/gradient_norm": 0.9},
    ]
    (recipe.run_dir / "distill" / "metrics.jsonl").write_text(
        "\n".join(map(json.dumps, history)) + '\n{"step": 3, "lo'
    )
    page = report.render(recipe, SDXL).read_text(encoding="utf-8")
    assert "<script" not in page and "&lt;script&gt;alert" in page
    assert "<b>web" not in page and "<i>theirs" not in page and "<b>line" not in page
    assert (
        page.count("data:image/png;base64,") == 2 + 2 + 3
    )  # a couple of pictures, the two plots of training, the three of numbers
    assert (
        not re.search(r'(src|href)="(?!data:)', page) and "url(" not in page
    )  # nothing from elsewhere
    assert "75.0 %" in page
    form = page[page.index("English phrases, Japanese sentence") :]
    assert "0.4321" in form and "0.2160" in form[: form.index("</tr>")]
    painted_form = page[page.index("50 % of the words in English") :]
    cells = re.findall(r"<td>(.*?)</td>", painted_form[: painted_form.index("</tr>")])
    assert cells[-4:] == ["75.0 %", "4", "<b>0.500</b>", "<small>0.400 – 0.600</small>"]
    assert "at the weight 1.4" in page


def test_results_of_another_version_are_named(finished_run: Callable[..., str]) -> None:
    recipe = load_recipe(finished_run())
    write_results(recipe.run_dir / "eval")
    path = recipe.run_dir / "eval" / "compare_hidden_states.json"
    whole = json.loads(path.read_text())
    results.write(path, {key: value for key, value in whole.items() if key in SINCE_EVER})
    page = report.render(recipe, SDXL).read_text(encoding="utf-8")
    assert "Prompts of other forms" not in page and "weight response" not in page
    for missing in ("word_order", "rows"):
        results.write(path, {key: value for key, value in whole.items() if key != missing})
        with pytest.raises(ValueError, match="another version's"):
            report.render(recipe, SDXL)


def test_large_pictures_are_embedded_small_and_small_ones_untouched(tmp_path: Path) -> None:
    path = tmp_path / "0.png"
    for side in (32, 1024):
        path.write_bytes(painting.png(Image.new("RGB", (side, side // 2), "red")))
        with Image.open(io.BytesIO(report.thumbnail(path))) as shown:
            assert shown.size == ((32, 16) if side == 32 else (384, 192))


def test_training_history_joins_what_a_resumed_run_logged_twice(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert report.training_history(path) == []
    path.write_text(
        '{"step": 2, "loss/total": 5}\n{"step": 1, "loss/total": 9}\n{"step": 2, "loss/total": '
        "4}\nnot json\n[]\n"
    )
    assert report.training_history(path) == [
        {"step": 1, "loss/total": 9},
        {"step": 2, "loss/total": 4},
    ]
    assert plots.training_loss([{"step": 1, "loss/total": 9}]) is None
    assert plots.training_measures([{"step": 1, "speed/mfu": 0.4}, {"step": 2}]) is None


def test_summary(finished_run: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    recipe = finished_run()
    write_results(outputs(recipe))
    folder = outputs(recipe).parent
    (folder / "stages.jsonl").write_text(
        '{"stage": "corpora.prepare", "seconds": 61}\n{"stage": "distill.train", "seconds": 3600}\n'
    )
    assert summary.main([recipe]) == 0
    assert results.read(folder / "summary.json", "") == {
        "scene_accuracy": {
            "teacher": 0.75,
            "student": 0.75,
            "teacher_untranslated": 0.75,
        },
        "noise_gap": 0.01,
        "forms": {"words_50": 0.1234, "tags_sentence": 0.4321},
        "weight_response": 0.5,
        "seconds": {"corpora.prepare": 61.0, "distill.train": 3600.0, "total": 3661.0},
    }
    out = capsys.readouterr().out
    assert "1:01:01" in out and "tags_sentence" in out and "0.4321" in out
    (folder / "stages.jsonl").write_text("nonsense\n")
    assert summary.main([recipe]) == 3
    assert "line 1 is not a stage" in capsys.readouterr().err
    (folder / "stages.jsonl").unlink()
    assert summary.main([recipe]) == 3
    assert "python -m corpora.prepare RECIPE" in capsys.readouterr().err
    assert summary.main([finished_run(name="another")]) == 3
    assert "made by the recipe 'tiny'" in capsys.readouterr().err


def test_a_damaged_result_is_named(tmp_path: Path) -> None:
    for content in ("{", "[]"):
        (tmp_path / "x.json").write_text(content)
        with pytest.raises(ValueError, match="delete it and run: make me"):
            results.read(tmp_path / "x.json", "make me")


def test_a_picture_that_changed_since_it_was_painted_is_named(tmp_path: Path) -> None:
    path = tmp_path / "pictures" / "row" / "0000.png"
    path.parent.mkdir(parents=True)
    Image.new("RGB", (8, 8), "red").save(path)
    painted.record(path.parent, {"recipe": "x", "fingerprint": "y"}, {path.name: file_sha256(path)})
    assert report.thumbnail(path) == path.read_bytes() and painted.all_whole(tmp_path / "pictures")
    Image.new("RGB", (8, 8), "blue").save(path)
    assert not painted.all_whole(tmp_path / "pictures")
    with pytest.raises(
        DataError,
        match=r"0000\.png: missing, or changed since it was painted; run: python -m eval\.generate",
    ):
        report.thumbnail(path)
    (path.parent / "inputs.json").unlink()
    for broken in (b"", path.read_bytes()[:50]):
        path.write_bytes(broken)
        with pytest.raises(DataError, match=r"0000\.png: no picture"):
            report.thumbnail(path)
