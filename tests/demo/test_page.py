"""The demo's page: through gradio's own client, and once in a real browser."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest
from gradio_client import Client, exceptions
from playwright.sync_api import Page, expect, sync_playwright

from demo import __main__ as demo_entry
from demo import words
from eval.paint import picture_text

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

JA, EN = "大きな赤い丸", "a large red circle"
# The demo, which says where its code lies, and what else than this machine it connects to.
PROGRAM = """
import socket, sys
connect = socket.socket.connect
def noted(self, where):
    if isinstance(where, tuple) and where[0] not in ("127.0.0.1", "::1", "localhost"):
        print("CONNECTED TO", where, flush=True)
    return connect(self, where)
socket.socket.connect = noted
from demo.__main__ import __file__, main
print("CODE", __file__)
raise SystemExit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def address(demo_export: Path, tiny_sdxl: Path, tmp_path_factory) -> Iterator[str]:
    """Served by the modules that a Space brings: nothing of the rest is needed."""
    log = tmp_path_factory.mktemp("demo") / "log"
    space = log.with_name("space")
    assert demo_entry.main(["ORG/jp-base", "--space", str(space)]) == 0
    report = log.with_name("report.html")
    report.write_text("<p>the report of the run</p>")
    words = [str(demo_export), "--teacher", str(tiny_sdxl / "base"), "--report", str(report)]
    with open(log, "w") as file:
        server = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *words],
            cwd=space,
            env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
            stdout=file,
            stderr=file,
        )
    try:
        while not (found := re.search(r"http://127\.0\.0\.1:\d+/", log.read_text())):
            with pytest.raises(subprocess.TimeoutExpired):
                server.wait(0.2)
        yield found[0]
    finally:
        server.terminate()
        server.wait(30)
    said = log.read_text()
    assert f"CODE {space / 'demo'}" in said
    assert "CONNECTED TO" not in said and "Warning" not in said


@pytest.fixture(scope="module")
def client(address: str) -> Iterator[Client]:
    found = Client(address, verbose=False)
    yield found
    found.close()


def asked(**changes: object) -> list[object]:
    """The fields in the page's order."""
    values = {
        "japanese": JA,
        "japanese_negative": "",
        "english": EN,
        "english_negative": "blue",
        "steps": 3,
        "guidance": 5.0,
        "scheduler": "",
        "weights": "",
        "width": 32,
        "height": 32,
        "count": 1,
        "seed": 7,
        "refine": False,
        "denoising_end": 0.8,
        "start": None,
        "strength": 0.75,
    }
    return list((values | changes).values())


def test_pictures_are_pngs_that_keep_their_settings(client: Client) -> None:
    japanese, english, pair, text = client.predict(*asked(count=2), api_name="/paint")
    assert [one["caption"] for one in japanese] == ["Seed 7", "Seed 8"]
    paths = [Path(one["image"]) for one in (japanese[0], english[0], japanese[1])]
    told = [picture_text.read(path) for path in paths]
    assert [(one["prompt"], one["seed"]) for _, one in told] == [(JA, 7), (EN, 7), (JA, 8)]
    assert told[1][0].startswith(f"{EN}\nNegative prompt: blue\nSteps: 3, Sampler: DDIM, ")
    assert [path.suffix for path in paths] == [".png"] * 3 and paths[0].name == "ja-7.png"
    assert text == f"{told[0][0]}\n\n{told[1][0]}"
    assert [Path(one).name for one in pair["value"]] == ["ja-7.png", "en-7.png"]


def test_a_mistake_is_a_line_on_the_page(client: Client) -> None:
    for changes, message in (
        ({"japanese": " "}, "The Japanese prompt is empty; write what to paint."),
        ({"width": 100}, "Width: 100 is not a multiple of 8; the nearest is 96."),
        ({"seed": None}, "Seed is empty; give a number."),
        ({"steps": 0}, "less than minimum value 1"),
        ({"scheduler": "lms", "refine": True}, "lms cannot start midway"),
    ):
        with pytest.raises(exceptions.AppError) as caught:
            client.predict(*asked(**changes), api_name="/paint")
        assert message in str(caught.value) and "\n" not in str(caught.value).strip()


def test_the_report_opens_as_a_page(address: str) -> None:
    with urlopen(f"{address}report", timeout=30) as answer:
        assert answer.headers["content-type"].startswith("text/html")
        assert "disposition" not in str(answer.headers) and b"report of the run" in answer.read()


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium; on Debian: apt-get install chromium")
def test_in_a_browser(address: str, tmp_path: Path) -> None:
    """Type, press, see two pictures; load one down; another seed gives others; stop; Japanese."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            visit = browser.new_page(locale="en-US")
            elsewhere: list[str] = []
            visit.on("request", lambda one: elsewhere.append(one.url))
            visit.goto(address)
            visit.locator("#examples tbody tr").nth(3).click()  # once it answers, all else does
            expect(visit.locator("#japanese textarea")).to_have_value(words.EXAMPLES[3][0])
            visit.locator("#settings button").first.click()
            expect(visit.locator("#weights input")).to_have_value("AUTOMATIC1111")
            visit.locator("#japanese textarea").fill("赤" * 30)
            expect(visit.locator("#tokens_ja")).to_contain_text("90 tokens")
            _choose(visit, "#weights", "–")
            expect(visit.locator("#tokens_ja")).to_contain_text("⚠️ 90 / 75 tokens: the end is not")
            visit.locator("#japanese textarea").fill(JA)
            expect(visit.locator("#tokens_ja")).to_contain_text("18 / 75 tokens")
            visit.locator("#english textarea").fill(EN)
            visit.locator("#steps input").fill("3")
            first = _painted(visit, 0)

            visit.locator("#pictures_ja .gallery-item, #pictures_ja button img").first.click()
            with visit.expect_download() as loading:
                visit.locator("#pictures_ja").get_by_label("Download").first.click()
            loading.value.save_as(tmp_path / "picture.png")
            assert picture_text.read(tmp_path / "picture.png")[1]["prompt"] == JA

            visit.locator("#dice").click()
            expect(visit.locator("#seed input")).not_to_have_value("0")
            seed = int(visit.locator("#seed input").input_value())
            assert _painted(visit, seed) != first

            visit.locator("#steps input").fill("150")
            visit.locator("#count input").fill("8")
            visit.locator("#paint").click()
            expect(visit.locator(".progress-text, .progress-level").first).to_be_visible()
            visit.locator("#stop").click()
            expect(visit.locator(".progress-text, .progress-level")).to_have_count(0)
            visit.locator("#steps input").fill("2")
            visit.locator("#count input").fill("1")
            visit.locator("#seed input").fill("5")
            assert _painted(visit, 5) != first  # it is free for the next

            visit.locator("#japanese textarea").fill("")
            visit.locator("#paint").click()
            expect(visit.get_by_text("The Japanese prompt is empty")).to_be_visible()
            assert not [url for url in elsewhere if not url.startswith((address, "blob:", "data:"))]

            visit = browser.new_page(locale="ja-JP")
            visit.goto(address)
            expect(visit.locator("#paint")).to_have_text("描く")
            visit.locator("#paint").click()
            expect(visit.get_by_text("プロンプト(日本語)が空です。")).to_be_visible()
        finally:
            browser.close()


def _painted(visit: Page, seed: int) -> tuple[str | None, ...]:
    """Both pictures of a seed, by the addresses of what the browser shows."""
    visit.locator("#paint").click()
    settings = visit.locator("#made_with textarea")
    expect(settings).to_have_value(re.compile(f"Seed: {seed},[^~]*Seed: {seed},"))
    shown = [visit.locator(f"#pictures_{side} img").first for side in ("ja", "en")]
    for picture in shown:
        expect(picture).to_have_js_property("naturalWidth", 32)
    return tuple(picture.get_attribute("src") for picture in shown)


def _choose(visit: Page, field: str, title: str) -> None:
    visit.locator(f"{field} input").click()
    visit.get_by_role("option", name=title).first.click()
