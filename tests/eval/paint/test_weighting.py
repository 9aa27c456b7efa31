"""`--weights` in eval.paint: nothing changes for a prompt without markup; weights, long prompts and
long negative ones change the picture, through base, refiner, image to image and SD.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import write_tiny_sdxl
from PIL import Image

from distill.prompt import STYLES, Style
from eval.paint import __main__ as paint_entry
from eval.paint import painter, picture_text, weighting
from eval.paint.painter import Painter
from eval.paint.request import Request

# diffusers' schedulers turn tensors into arrays in a way that NumPy 2 will not always allow
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")
PROMPT, NEGATIVE = "白い背景に、大きな赤い丸", "青い輪"
BY_ONE = "（白い：1.0）背景に、大きな赤い丸"


def painted(loaded: Painter, prompt: str, **changes: object) -> np.ndarray:
    loaded = replace(loaded, request=replace(loaded.request, **changes))
    found = [np.asarray(one.picture, np.int16) for one in painter.paint(loaded, prompt, [3, 4])]
    return np.stack(found)


@pytest.fixture(scope="module")
def painters(
    tiny_sdxl: Path, tiny_sd: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Painter]:
    """By what paints: an SDXL that reads zeros without a negative prompt, one into a refiner from a
    picture, an SD.
    """
    start = tmp_path_factory.mktemp("start") / "start.png"
    Image.new("RGB", (32, 32), "red").save(start)
    base = Request(str(tiny_sdxl / "base"), (PROMPT,), steps=4, weights="comfyui")
    refined = replace(base, init_image=start, refiner=str(tiny_sdxl / "refiner"), denoising_end=0.6)
    sd = replace(base, repository=str(tiny_sd), no_safety_checker=True)
    found = {"base": base, "refined": refined, "sd": sd}
    return {name: painter.load(request) for name, request in found.items()}


@pytest.mark.parametrize("what", ["base", "refined", "sd"])
@pytest.mark.parametrize("style", ["a1111", "comfyui"])
def test_a_prompt_without_markup_paints_the_same_picture(
    what: str, style: str, painters: dict[str, Painter]
) -> None:
    """Without a negative prompt, which SDXL's base reads as zeros, with an empty one, with one."""
    unweighted = []
    for negative in (None, "", NEGATIVE):
        plain, weighted, by_one = (
            painted(painters[what], prompt, negative_prompt=negative, weights=weights)
            for prompt, weights in ((PROMPT, None), (PROMPT, style), (BY_ONE, style))
        )
        assert abs(plain[0] - plain[1]).max() > 2
        assert abs(weighted - plain).max() <= 1 and abs(by_one - plain).max() <= 1
        unweighted.append(plain)
    assert bool(abs(unweighted[0] - unweighted[1]).max() > 2) is (what != "sd")


@pytest.mark.parametrize("what", ["base", "refined", "sd"])
def test_weights_and_long_prompts_reach_the_picture(
    what: str, painters: dict[str, Painter]
) -> None:
    loaded = painters[what]
    changes: dict[str, tuple[str, str | None]] = {
        "plain": (PROMPT, NEGATIVE),
        "heavy": ("白い背景に、大きな（赤い：3）丸", NEGATIVE),
        "long": (PROMPT * 4, NEGATIVE),
        "long, another end": (PROMPT * 3 + "白い背景に、大きな青い輪", NEGATIVE),
        "BREAK": (f"{PROMPT} BREAK {NEGATIVE}", NEGATIVE),
        "long negative": (PROMPT, NEGATIVE * 9),
        "heavy negative": (PROMPT, "（青い：3）輪"),
    }
    found = {
        name: painted(loaded, prompt, negative_prompt=negative).tobytes()
        for name, (prompt, negative) in changes.items()
    }
    found["a1111"] = painted(loaded, changes["heavy"][0], weights="a1111").tobytes()
    assert len(set(found.values())) == len(found)


@pytest.mark.parametrize("what", ["base", "refined", "sd"])
@pytest.mark.parametrize("style", STYLES)
def test_two_chunks_reach_the_pipeline_as_the_encodings_of_both(
    what: str, style: Style, painters: dict[str, Painter]
) -> None:
    """Those of the stock pipeline for each chunk alone, along the tokens: of BREAK, and of a prompt
    over 75 tokens, which ends its first chunk within it.
    """
    loaded = painters[what]
    pipeline, readers = loaded.first, loaded.encoders["base"]
    tokenizer = next(iter(readers.tokenizers.values()))
    long = "a" * 70 + ", " + "b" * 40
    ids = tokenizer(long, add_special_tokens=False).input_ids
    assert 75 < len(ids) < 150
    first, second = "a" * 70 + ",", "b" * 40
    halves = {f"{PROMPT} BREAK {NEGATIVE}": (PROMPT, NEGATIVE)}
    if style == "a1111":
        halves[long] = (first, second)
    for prompt, chunks in halves.items():
        given = weighting.arguments(pipeline, readers, prompt, NEGATIVE, style, 2)
        with torch.no_grad():
            own, empty, negative = (stock(pipeline, list(t)) for t in (chunks, [""], [NEGATIVE]))
        for name, windows in (
            ("prompt_embeds", [own[0][:1], own[0][1:]]),
            ("negative_prompt_embeds", [negative[0], empty[0]]),
        ):
            expected = torch.cat(windows, dim=1).expand(2, -1, -1)
            torch.testing.assert_close(given[name], expected, rtol=0, atol=1e-5)
        if own[1] is not None:
            pooled = own[1][:1].expand(2, -1)
            torch.testing.assert_close(given["pooled_prompt_embeds"], pooled, rtol=0, atol=1e-5)


def stock(pipeline: Any, prompts: list[str]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """States and pooled states as the unmodified pipeline encodes prompts."""
    one = {"num_images_per_prompt": 1, "do_classifier_free_guidance": False}
    found = pipeline.encode_prompt(prompt=prompts, device="cpu", **one)
    return found[0], found[2] if len(found) > 2 else None


def test_the_command_says_what_it_read(
    tiny_sdxl: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing of a long prompt is left out, and the picture holds the style."""
    words = [str(tiny_sdxl / "base"), "--steps", "2", "--prompt", "a" * 90 + "(b:1.2)"]
    assert paint_entry.main([*words, "--out", str(tmp_path), "--weights", "a1111"]) == 0
    assert "not read" not in capsys.readouterr().err
    made_with = picture_text.read(tmp_path / "0000.png")[1]
    assert made_with["weights"] == "a1111" and made_with["prompt_not_read"] == ""
    with pytest.raises(SystemExit, match="2"):
        paint_entry.main([*words, "--weights", "compel"])
    assert "--weights" in capsys.readouterr().err


def test_a_tokenizer_that_knows_no_places_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tiny_sdxl(tmp_path / "tiny", seed=0)
    kind = type(painter.load(Request(str(tmp_path / "tiny" / "base"), ("x",))).first.tokenizer)
    monkeypatch.setattr(kind, "is_fast", False)
    words = [str(tmp_path / "tiny" / "base"), "--prompt", "x", "--out", str(tmp_path / "out")]
    assert paint_entry.main([*words, "--weights", "a1111"]) == 3
    said = capsys.readouterr().err
    assert "which does not say where in the prompt a token lies; leave --weights out" in said
