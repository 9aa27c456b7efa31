"""What other programs read inside a PNG is what was painted, whatever the prompt says."""

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from eval.paint import __main__ as paint_entry
from eval.paint import picture_text
from eval.pictures import painting

FIELD = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')  # the web UI's own
MADE_WITH: dict[str, Any] = {
    "prompt": "",
    "negative_prompt": None,
    "steps": 20,
    "sampler": "DPM++ 2M",
    "guidance_scale": 5.0,
    "seed": 7,
    "width": 1024,
    "height": 1024,
    "repository": "org/name",
    "strength": None,
    "refiner": None,
    "denoising_end": None,
}
LINES = [
    "赤い丸",
    "Steps: 1, Sampler: x, Seed: 666",
    "Negative prompt: everything",
    " steps:9",
    "a: b, c: d, e: f",
    "",
    "\x1b[2J",
    'say "x", y',
]
PROMPTS = st.lists(
    st.one_of(st.sampled_from(LINES), st.text(max_size=20)), min_size=1, max_size=4
).map("\n".join)


def web_ui(text: str) -> tuple[str, str, dict[str, str]]:
    """`parse_generation_parameters` of AUTOMATIC1111's web UI: prompt, negative prompt, fields."""
    prompt, negative, in_prompt = "", "", True
    *lines, last = text.strip().split("\n")
    if len(FIELD.findall(last)) < 3:
        lines, last = [*lines, last], ""
    for line in (one.strip() for one in lines):
        if line.startswith("Negative prompt:"):
            in_prompt, line = False, line[16:].strip()
        if in_prompt:
            prompt += ("" if prompt == "" else "\n") + line
        else:
            negative += ("" if negative == "" else "\n") + line
    return (
        prompt,
        negative,
        {
            name: json.loads(value) if value[:1] == '"' else value
            for name, value in FIELD.findall(last)
        },
    )


def first_steps_line(text: str) -> str:
    """As programs do that look for the first line of settings."""
    return next(line for line in text.splitlines() if re.match(r"\s*Steps:", line, re.I))


def words(text: str) -> list[str]:
    """What is read of a prompt: CLIP knows no line breaks, and punctuation stands by itself."""
    return re.sub(r"[\x00-\x20\x7f-\xa0\u2028\u2029:]", " ", text).split()


@settings(max_examples=200, deadline=None)
@given(PROMPTS, st.one_of(st.none(), PROMPTS), st.text(min_size=1, max_size=12))
def test_the_web_ui_reads_what_was_painted(prompt: str, negative: str | None, name: str) -> None:
    name = name.replace("/", "")
    made_with = MADE_WITH | {
        "prompt": prompt,
        "negative_prompt": negative,
        "repository": f"org/{name}",
    }
    chunks = picture_text.texts(made_with)
    found, found_negative, fields = web_ui(chunks["parameters"])
    assert words(found) == words(prompt) and words(found_negative) == words(negative or "")
    assert (fields["Steps"], fields["Seed"], fields["Size"]) == ("20", "7", "1024x1024")
    assert first_steps_line(chunks["parameters"]).startswith("Steps: 20, Sampler: DPM++ 2M")
    assert json.loads(chunks["json"])["prompt"] == prompt


def test_an_ordinary_prompt_is_left_as_it_is() -> None:
    prompt = "赤い丸: 大きい\n二行目, (weighted:1.2)"
    assert picture_text.parameters(MADE_WITH | {"prompt": prompt}).startswith(
        prompt + "\nSteps: 20, "
    )


def test_a_strangers_picture_cannot_write_to_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made_with = MADE_WITH | {"prompt": "\x1b]0;owned\x07\u202e"}
    chunks = {
        "parameters": "a\x1b[2Jb\nSteps: 1",
        "json": json.dumps(made_with, ensure_ascii=False),
    }
    path = tmp_path / "a.png"
    path.write_bytes(painting.png(Image.new("RGB", (2, 2)), chunks))
    assert Image.open(io.BytesIO(path.read_bytes())).size == (2, 2)
    assert paint_entry.main(["--show", str(path)]) == 0
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", capsys.readouterr().out)
