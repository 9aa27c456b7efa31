"""What the demo paints: both sides as eval.paint would, from models that are loaded once; one line
for every mistake.
"""

import threading
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from string import Formatter

import numpy as np
import pytest
from huggingface_hub import SpaceCard
from PIL import Image

from configs.errors import DataError, RecipeError
from demo import __main__ as demo_entry
from demo import studio, words
from demo.studio import Mistake, Stopped, Studio, Wish
from eval.paint import painter, picture_text
from eval.paint.request import Request

# diffusers' schedulers turn tensors into arrays in a way that NumPy 2 will not always allow
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")
JA, EN = "大きな赤い丸", "a large red circle"
WISH = Wish(
    japanese=JA,
    english=EN,
    japanese_negative="",
    english_negative="",
    weights="",
    steps=4,
    guidance=5.0,
    scheduler="",
    width=32,
    height=32,
    count=1,
    seed=3,
    refine=False,
    denoising_end=0.5,
    start=None,
    strength=0.6,
)


@pytest.fixture(scope="module")
def opened(demo_export: Path, tiny_sdxl: Path) -> Studio:
    found, notice = studio.load(studio.find(str(demo_export), str(tiny_sdxl / "base"), None, None))
    assert notice == ""
    return found


def painted(opened: Studio, wish: Wish) -> list[tuple[str, int, np.ndarray, dict]]:
    made = opened.paint(wish, lambda done: None, threading.Event())
    return [
        (one.side, one.painted.made_with["seed"], pixels(one.painted.picture), one.painted[1])
        for one in made
    ]


def pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture, dtype=np.int16)


def test_each_side_is_what_its_own_repository_paints(
    opened: Studio, demo_export: Path, tiny_sdxl: Path, tmp_path: Path
) -> None:
    """Also with refiner, weights, a picture to start from; one wish leaves nothing to the next."""
    start = tmp_path / "start.png"
    Image.new("RGB", (40, 40), "red").save(start)
    wishes: list[dict[str, object]] = [
        {"count": 2},
        {"scheduler": "dpm++_2m_karras", "japanese_negative": "青", "english_negative": "blue"},
        {
            "refine": True,
            "weights": "a1111",
            "japanese": f"（{JA}：1.3）",
            "english": f"({EN}:1.3)",
        },
        {"start": str(start), "weights": "comfyui", "japanese": f"({JA})", "height": 24},
    ]
    for changes in [*wishes, {}]:
        wish = replace(WISH, **changes)
        found = painted(opened, wish)
        assert [(side, seed) for side, seed, *_ in found] == [
            (side, 3 + i) for i in range(wish.count) for side in ("ja", "en")
        ]
        for home, texts in (
            (demo_export, (wish.japanese, wish.japanese_negative)),
            (tiny_sdxl, (wish.english, wish.english_negative)),
        ):
            request = Request(
                repository=str(home / "base"),
                prompts=(texts[0],),
                negative_prompt=texts[1] or None,
                refiner=str(home / "refiner") if wish.refine else None,
                denoising_end=0.5 if wish.refine else None,
                weights=wish.weights or None,
                steps=4,
                height=wish.height,
                width=32,
                scheduler=wish.scheduler or None,
                init_image=start if wish.start else None,
                strength=0.6 if wish.start else None,
            )
            expected = painter.paint(painter.load(request), texts[0], [3])[0].picture
            side = "ja" if home is demo_export else "en"
            (shown,) = (one for name, seed, one, _ in found if (name, seed) == (side, 3))
            assert abs(shown - pixels(expected)).max() <= 1, (side, changes)
        assert abs(found[0][2] - found[1][2]).max() > 3  # the encoders differ
    assert found[0][3]["text_encoders"] is None
    assert found[1][3]["text_encoders"] == str(tiny_sdxl / "base")
    assert ", Text encoders: base" in picture_text.parameters(found[1][3])
    assert "Text encoders" not in picture_text.parameters(found[0][3])


def test_without_english_text_the_japanese_is_painted_alone(opened: Studio) -> None:
    assert [side for side, *_ in painted(opened, replace(WISH, english=" "))] == ["ja"]


def test_progress_rises_to_the_end_and_stops_when_told(opened: Studio) -> None:
    wish, stop = replace(WISH, count=2, refine=True, steps=6), threading.Event()
    shares: list[float] = []
    assert len(list(opened.paint(wish, shares.append, stop))) == 4
    assert shares == sorted(shares) and shares[0] == 0 and shares[-1] == pytest.approx(1)
    assert len(shares) == 4 * (1 + 6)  # once before each picture, then after each step

    shares.clear()

    def stop_after_one_picture(done: float) -> None:
        shares.append(done)
        if done > 0.3:
            stop.set()

    making = opened.paint(wish, stop_after_one_picture, stop)
    assert next(making).side == "ja"
    with pytest.raises(Stopped):
        next(making)
    assert max(shares) < 0.5  # the second picture was not finished
    assert not opened.lock.locked()


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"japanese": " \n"}, "no_prompt"),
        ({"seed": None}, "no_number"),
        ({"guidance": None}, "no_number"),
        ({"width": 100}, "no_multiple"),
        ({"scheduler": "lms", "refine": True}, "lms cannot start midway"),
        ({"denoising_end": 0.9995, "refine": True}, "leaves the refiner none of 4 steps"),
        ({"start": "gone.png"}, "there is no such file"),
    ],
)
def test_a_mistake_is_one_line_and_paints_nothing(
    opened: Studio, changes: dict[str, object], key: str
) -> None:
    with pytest.raises((Mistake, RecipeError, DataError)) as caught:
        painted(opened, replace(WISH, **changes))
    error = caught.value
    if isinstance(error, Mistake):
        assert error.key == key
        for language in ("ja", "en"):
            assert "\n" not in words.say(language, key, **error.values)
        assert key != "no_multiple" or error.values["nearest"] in (96, 104)
    else:
        assert key in str(error) and "\n" not in str(error)


def test_tokens_are_counted_and_what_is_cut_is_told(opened: Studio) -> None:
    """One token a byte in this miniature."""
    assert opened.tokens("ja", "a" * 75, "") == 75 and opened.tokens("en", "", "") == 0
    assert (
        opened.tokens("ja", "(ab:1.3)", "") == 8 and opened.tokens("ja", "(ab:1.3)", "a1111") == 2
    )
    wish = replace(WISH, english="b" * 75 + "cd", count=2)
    cut = [one.cut for one in opened.paint(wish, lambda done: None, threading.Event())]
    assert [tuple(text.replace(" ", "") for text in one) for one in cut] == [(), ("cd",), (), ()]


def test_what_was_not_given_lies_beside_the_export(
    demo_export: Path, tiny_sdxl: Path, tiny_sd: Path, tmp_path: Path
) -> None:
    export = tmp_path / "run" / "export"
    export.mkdir(parents=True)
    for name in ("base", "refiner"):
        (export / name).symlink_to(demo_export / name)
    assert studio.find(str(export), None, None, None).report is None
    page = tmp_path / "run" / "eval" / "report.html"
    page.parent.mkdir()
    page.write_text("<p>report</p>")
    found = studio.find(str(export), None, None, None)
    assert (found.base, found.refiner) == (str(export / "base"), str(export / "refiner"))
    assert found.report == str(page) and found.teacher == "ORG/GONE"
    assert studio.find(str(export / "base"), None, None, None).report == str(page)
    alone, notice = studio.load(found)  # the teacher that the export names is not to be had
    assert set(alone.models) == {"ja"} and "ORG/GONE" in notice and "--teacher" in notice
    with pytest.raises(DataError, match="its text encoders are SD's of widths 18, the UNet reads"):
        studio.load(studio.find(str(export), str(tiny_sd), None, None))


def test_bad_input_is_one_line(
    demo_export: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    (tmp_path / "empty").mkdir()
    export = str(demo_export)
    for arguments, code, message in (
        ([str(tmp_path / "gone")], 3, "there is no such folder"),
        ([str(tmp_path / "empty")], 3, "holds neither model_index.json nor text_encoder folders"),
        ([str(demo_export / "refiner")], 3, "where a StableDiffusionXLPipeline is needed"),
        ([export, "--report", "gone.html"], 3, "--report gone.html: there is no such file"),
        ([export, "--space", str(tmp_path / "space")], 2, "is no hub name"),
        (["a/b", "--space", str(tmp_path / "empty")], 3, "is there already"),
        (["a/b", "--report", "x.html", "--space", str(tmp_path / "s")], 2, "is no address"),
    ):
        assert demo_entry.main(arguments) == code
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("demo: ") and message in line
    monkeypatch.setattr(demo_entry, "find_spec", lambda name: None)
    assert demo_entry.main([export]) == 4
    assert "pip install -e '.[demo]'" in capsys.readouterr().err


def test_a_space_names_what_it_shows_and_needs_nothing_of_training(tmp_path: Path) -> None:
    folder = tmp_path / "space"
    names = ["ORG/jp-base", "--teacher", "ORG/sdxl", "--refiner", "ORG/jp-refiner"]
    assert demo_entry.main([*names, "--space", str(folder)]) == 0
    card = SpaceCard.load(folder / "README.md").data
    assert (card.sdk, card.app_file) == ("gradio", "app.py")
    assert card.models == ["ORG/jp-base", "ORG/sdxl", "ORG/jp-refiner"]
    assert card.sdk_version == version("gradio")
    assert repr(names) in (folder / "app.py").read_text(encoding="utf-8")
    lines = (folder / "requirements.txt").read_text(encoding="utf-8").splitlines()
    needed = {line.partition("==")[0] for line in lines}
    assert {"torch", "diffusers", "transformers", "accelerate"} <= needed
    assert not needed & {"deepspeed", "fasttext", "gradio", "datatrove"}
    # that it runs, test_page.py shows


def test_both_languages_say_the_same_things() -> None:
    def named(text: str) -> set[str]:
        return {name for _, name, _, _ in Formatter().parse(text) if name}

    assert not [key for key, (ja, en) in words.WORDS.items() if named(ja) != named(en)]
    assert all(text for both in words.WORDS.values() for text in both)
    for accepted, language in (
        ("ja,en-US;q=0.9", "ja"),
        ("ja-JP", "ja"),
        ("en-US,ja;q=0.5", "en"),
        ("", "en"),
    ):
        assert words.language_of(accepted) == language
