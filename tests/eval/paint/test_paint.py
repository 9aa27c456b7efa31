"""eval.paint on a miniature SDXL: every way to paint, what the pictures say of themselves, and one
line for every mistake.
"""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from PIL import Image
from transformers import CLIPConfig, CLIPImageProcessor

from distill.sdxl.pipelines import Pipelines, load_pipelines
from eval.paint import __main__ as paint_entry
from eval.paint import models, painter, picture_text, samplers, schedulers
from eval.paint.request import Request
from eval.pictures import painting

# diffusers' schedulers turn tensors into arrays in a way that NumPy 2 will not always allow
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")
PROMPT = "白い背景に、大きな赤い丸"


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"), dtype=np.int16)


def run(repository: Path, out: Path, *arguments: str) -> int:
    return paint_entry.main([str(repository), "--steps", "4", "--out", str(out), *arguments])


def test_batches_seeds_numbers_and_grids(
    tiny_sdxl: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """2 batches of 3 pictures for each of 2 prompts, then the last one alone by the seed it says it
    has.
    """
    many = [
        "--n-iter",
        "2",
        "--n-samples",
        "3",
        "--n-rows",
        "2",
        "--seed",
        "7",
        "--prompt",
        PROMPT,
        "--prompt",
        "青い輪",
    ]
    assert run(tiny_sdxl / "base", tmp_path, *many) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"{i:04d}.png" for i in range(12)
    ] + [f"grid-{i:04d}.png" for i in range(4)]
    said = [picture_text.read(tmp_path / f"{i:04d}.png")[1] for i in range(12)]
    assert [(one["prompt"], one["seed"]) for one in said] == [
        (prompt, 7 + 3 * iteration + i)
        for iteration in range(2)
        for prompt in (PROMPT, "青い輪")
        for i in range(3)
    ]
    grid = pixels(tmp_path / "grid-0003.png")
    assert grid.shape == (2 * 32 + 2, 2 * 32 + 2, 3)
    assert (grid[34:, :32] == pixels(tmp_path / "0011.png")).all() and (
        grid[34:, 34:] == 255
    ).all()  # the third of three, two in a row
    assert picture_text.read(tmp_path / "grid-0003.png")[1]["seeds"] == [10, 11, 12]
    assert len({pixels(tmp_path / f"{i:04d}.png").tobytes() for i in range(12)}) == 12
    (tmp_path / "0012.txt").touch()  # no picture: not counted
    assert (
        run(tiny_sdxl / "base", tmp_path, "--prompt", "青い輪", "--seed", str(said[11]["seed"]))
        == 0
    )
    assert abs(pixels(tmp_path / "0012.png") - pixels(tmp_path / "0011.png")).max() <= 1
    assert not (tmp_path / "grid-0004.png").exists()  # one picture needs none
    assert "1 pictures of 1 prompts; invisible watermark: none" in capsys.readouterr().out


def test_a_file_of_prompts(
    tiny_sdxl: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """BOM, CRLF, blank lines, and a line separator within a prompt, which str.splitlines would
    split at.
    """
    path = tmp_path / "prompts.txt"
    path.write_bytes(f"\ufeff{PROMPT}\r\n\n  \n青い\u2028輪\n".encode())
    assert run(tiny_sdxl / "base", tmp_path / "out", "--from-file", str(path)) == 0
    assert [
        picture_text.read(tmp_path / "out" / f"{i:04d}.png")[1]["prompt"] for i in range(2)
    ] == [PROMPT, "青い\u2028輪"]
    assert "2 prompts, 2 blank lines skipped" in capsys.readouterr().out


def test_every_setting_reaches_the_picture_and_is_inside_it(
    tiny_sdxl: Path, tmp_path: Path
) -> None:
    """Each change alone gives another picture than the plain one, and the picture says what it
    was.
    """
    start = tmp_path / "start.png"
    Image.new("RGB", (45, 35), "red").save(start)
    changes: dict[str, tuple[list[str], dict[str, object]]] = {
        "plain": (
            [],
            {
                "seed": 0,
                "steps": 4,
                "guidance_scale": 5.0,
                "scheduler": "DDIMScheduler",
                "width": 32,
                "height": 32,
            },
        ),
        "negative": (["--negative-prompt", "青い輪"], {"negative_prompt": "青い輪"}),
        "scheduler": (
            ["--scheduler", "dpm++_2m_karras"],
            {"scheduler": "dpm++_2m_karras", "sampler": "DPM++ 2M Karras"},
        ),
        "guidance": (["--scale", "2"], {"guidance_scale": 2.0}),
        "steps": (["--steps", "6"], {"steps": 6}),
        "size": (["--height", "24", "--width", "40"], {"height": 24, "width": 40}),
        "refined": (
            ["--refiner", str(tiny_sdxl / "refiner")],
            {"refiner": str(tiny_sdxl / "refiner"), "denoising_end": 0.8},
        ),
        "refined_soon": (
            ["--refiner", str(tiny_sdxl / "refiner"), "--denoising-end", "0.3"],
            {"denoising_end": 0.3},
        ),
        "from_picture": (
            ["--init-image", str(start)],
            {"strength": 0.75, "width": 40, "height": 32},
        ),
        "near_picture": (["--init-image", str(start), "--strength", "0.3"], {"strength": 0.3}),
        "both": (
            ["--init-image", str(start), "--refiner", str(tiny_sdxl / "refiner")],
            {"strength": 0.75, "denoising_end": 0.8},
        ),
    }
    found = {}
    for name, (arguments, expected) in changes.items():
        assert run(tiny_sdxl / "base", tmp_path / name, "--prompt", PROMPT, *arguments) == 0
        made_with = picture_text.read(tmp_path / name / "0000.png")[1]
        assert made_with.items() >= expected.items(), name
        found[name] = pixels(tmp_path / name / "0000.png")
        assert found[name].shape == (made_with["height"], made_with["width"], 3)
    assert len({picture.tobytes() for picture in found.values()}) == len(found)
    red = np.array([255, 0, 0])
    assert abs(found["near_picture"] - red).mean() < abs(found["from_picture"] - red).mean()


def test_what_is_not_read_of_a_prompt_is_told(tiny_sdxl: Path, tmp_path: Path, capsys) -> None:
    """One token a byte here: BOS, 75 bytes and EOS are read."""
    fits, long = "a" * 75, "a" * 75 + "bc"
    prompts = ["--prompt", fits, "--prompt", long, "--negative-prompt", "d" * 76]
    assert run(tiny_sdxl / "base", tmp_path, *prompts, "--refiner", str(tiny_sdxl / "refiner")) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "not read" in line]
    assert [line.partition("not read: ")[2].replace(" ", "") for line in said] == ["bc", "d"]
    assert said[0].startswith("eval.paint: aaa")
    inside = [picture_text.read(tmp_path / f"{i:04d}.png")[1]["prompt_not_read"] for i in range(2)]
    assert [text.replace(" ", "") for text in inside] == ["", "bc"]


def test_outputs_that_cannot_be_written_are_told_before_the_work(tmp_path: Path, capsys) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match="2"):
        paint_entry.main(["nowhere", "--prompt", "a", "--out", str(tmp_path / "file" / "below")])
    assert f"--out: {tmp_path / 'file'} is a file; give a folder" in capsys.readouterr().err


def test_a_picture_of_16_bits_is_not_white(tiny_sdxl: Path, tmp_path: Path) -> None:
    grey = np.linspace(0, 65535, 32, dtype=np.uint16)[None].repeat(32, 0)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    start = painter.load(
        Request(str(tiny_sdxl / "base"), (PROMPT,), init_image=tmp_path / "grey.png")
    ).start
    assert start is not None and start.mode == "RGB"
    assert np.abs(np.asarray(start)[..., 0] - grey / 257).max() <= 1


@pytest.fixture(scope="module")
def painters(tiny_sdxl: Path, tmp_path_factory: pytest.TempPathFactory) -> list[painter.Painter]:
    """From noise; and from a picture into the refiner."""
    start = tmp_path_factory.mktemp("start") / "start.png"
    Image.new("RGB", (32, 32), "red").save(start)
    plain = Request(str(tiny_sdxl / "base"), (PROMPT,), steps=6)
    midway = replace(plain, init_image=start, refiner=str(tiny_sdxl / "refiner"), denoising_end=0.6)
    return [painter.load(plain), painter.load(midway)]


@pytest.mark.parametrize("name", schedulers.SCHEDULERS)
def test_every_scheduler_paints_alike_in_any_batch(
    painters: list[painter.Painter], name: str
) -> None:
    """Those that draw noise on the way draw it by the picture's seed."""
    for loaded in painters if schedulers.SCHEDULERS[name].fits(True, True) else painters[:1]:
        for pipeline in filter(None, (loaded.first, loaded.refiner)):
            pipeline.scheduler = samplers.named(name, pipeline.scheduler.config)
            assert (
                pipeline.scheduler.config.beta_end == 0.012
            )  # the pipeline's own, not the class's
        two = [
            np.asarray(one.picture, dtype=np.int16) for one in painter.paint(loaded, PROMPT, [3, 4])
        ]
        (alone,) = painter.paint(loaded, PROMPT, [4])
        assert abs(two[1] - np.asarray(alone.picture, dtype=np.int16)).max() <= 2
        assert abs(two[0] - two[1]).max() > 2
        assert alone.made_with["scheduler"] == schedulers.SCHEDULERS[name].class_name


def test_the_text_other_programs_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The web UI's form: prompt, negative prompt, one line of fields; values that would read as
    several are quoted.
    """
    made_with = {
        "prompt": "赤い丸,\n青い: 輪 👩‍👩‍👧",
        "negative_prompt": "灰色",
        "steps": 20,
        "sampler": "Euler a",
        "guidance_scale": 5.0,
        "seed": 9,
    }
    made_with |= {
        "width": 40,
        "height": 24,
        "repository": "org/a, b",
        "refiner": "runs/refiner",
        "denoising_end": 0.8,
        "strength": None,
    }
    path = tmp_path / "a.png"
    path.write_bytes(painting.png(Image.new("RGB", (40, 24)), picture_text.texts(made_with)))
    with Image.open(path) as picture:
        *prompt, negative, fields = picture.info["parameters"].split("\n")  # as the web UI finds it
    assert "\n".join(prompt) == made_with["prompt"] and negative == "Negative prompt: 灰色"
    read = {
        name: value or bare
        for name, value, bare in re.findall(r'([A-Z][\w ]*): (?:"(.*?)"|([^,]*))(?:, |$)', fields)
    }
    assert read == {
        "Steps": "20",
        "Sampler": "Euler a",
        "CFG scale": "5.0",
        "Seed": "9",
        "Size": "40x24",
        "Model": "a, b",
        "Refiner": "refiner",
        "Refiner switch at": "0.8",
    }
    assert paint_entry.main(["--show", str(path)]) == 0
    shown = capsys.readouterr().out
    assert (
        "Negative prompt: 灰色\nSteps: 20, " in shown
        and json.loads(shown[shown.index("{") :]) == made_with
    )


def write_safety_checker(folder: Path, threshold: float) -> Path:
    """A tiny checker that flags whatever is more alike to a concept than `threshold`, a cosine."""
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    config = CLIPConfig(
        text_config=sizes,
        vision_config=sizes | {"image_size": 32, "patch_size": 8},
        projection_dim=12,
    )
    model = StableDiffusionSafetyChecker(config)
    model.concept_embeds_weights.data.fill_(threshold)
    model.special_care_embeds_weights.data.fill_(2.0)
    model.save_pretrained(folder)
    CLIPImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    ).save_pretrained(folder)
    return folder


def test_what_the_safety_checker_flags_is_black(
    tiny_sdxl: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, threshold in (("all", -2.0), ("none", 2.0)):
        checker = str(write_safety_checker(tmp_path / f"flags_{name}", threshold))
        assert (
            run(
                tiny_sdxl / "base",
                tmp_path / name,
                "--prompt",
                PROMPT,
                "--safety-checker",
                checker,
                "--n-samples",
                "2",
            )
            == 0
        )
        for number in range(2):
            path = tmp_path / name / f"{number:04d}.png"
            assert picture_text.read(path)[1]["flagged_by_safety_checker"] is (name == "all")
            assert bool(pixels(path).max() == 0) is (name == "all")
    assert capsys.readouterr().out.count("black: flagged by the safety checker") == 2


class Marker:
    """In place of diffusers' watermarker: the package raises as this does."""

    def apply_watermark(self, images: torch.Tensor) -> torch.Tensor:
        if images.shape[-1] * images.shape[-2] < 256 * 256:
            raise RuntimeError("image too small, should be larger than 256x256")
        return torch.ones_like(images)


def test_the_watermark_is_the_pipelines_own_and_can_be_left_out(
    tiny_sdxl: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large picture takes it; a wide one of a small area does not, at which diffusers raises; and
    `watermark=False` leaves it out.
    """
    request = Request(str(tiny_sdxl / "base"), (PROMPT,), steps=1, width=256, height=256)

    def with_marker(*words: object, **options: object) -> Pipelines:
        pipelines = load_pipelines(*words, **options)
        pipelines.base.watermark = Marker()
        return pipelines

    monkeypatch.setattr(models, "load_pipelines", with_marker)
    said = []
    for changes in ({}, {"width": 512, "height": 64}, {"watermark": False}):
        (painted,) = painter.paint(painter.load(replace(request, **changes)), PROMPT, [0])
        white = bool(np.asarray(painted.picture).min() == 255)
        said.append((painted.made_with["watermark"], white))
    assert said == [
        ("applied by the pipeline", True),
        ("none (the picture has less than 65,536 pixels)", False),
        ("none (--no-watermark)", False),
    ]


WRONG_OPTIONS = [
    ("", "no prompt; give one with --prompt"),
    ("--prompt x --steps 0", "--steps: 0 is too few"),
    ("--prompt x --n-samples 0", "--n-samples: 0 is too few"),
    ("--prompt x --seed -1", "--seed: -1 is no seed; give one from 0"),
    ("--prompt x --guidance nan", "--guidance: nan is no guidance scale"),
    ("--prompt x --height 100", "--height: 100 is not a multiple of 8; the nearest is 96"),
    ("--prompt x --width 3", "--width: 3 is not a multiple of 8; the nearest is 8"),
    (f"--prompt x --width 1{'0' * 400}1", "is not a multiple of 8"),
    (
        "--prompt x --scheduler eular",
        "--scheduler: there is no 'eular'; the names are ddim, ddpm, pndm, lms, euler",
    ),
    ("--prompt x --scheduler lms --refiner REFINER", "--scheduler: lms cannot start midway"),
    ("--prompt x --strength 0.5", "--strength: 0.5 of no picture; give one with --init-image"),
    ("--prompt x --denoising-end 0.5", "--denoising-end: 0.5 hands over to no refiner"),
    (
        "--prompt x --refiner REFINER --denoising-end 1",
        "--denoising-end: 1.0 is not between 0 and 1",
    ),
    ("--prompt x --refiner REFINER --denoising-end 0.9995", "leaves the refiner none of 4 steps"),
    (
        "--prompt x --refiner REFINER --init-image PICTURE --strength 0.25 --denoising-end 0.3",
        "leaves the base none of 4 steps",
    ),
    ("--prompt x --init-image PICTURE --strength 0", "--strength: 0.0 is not above 0"),
    ("--prompt x --init-image PICTURE --strength 0.1", "--strength: 0.1 of 4 steps is no step"),
    ("--prompt \udc82\udca0", "is not UTF-8; write it in a UTF-8 terminal"),
]
WRONG_FILES = [
    ("--prompt x --init-image missing.png", "--init-image missing.png: there is no such file"),
    ("--prompt x --init-image TEXT", "no picture can be read"),
    ("--prompt x --init-image DOT", "4 x 4 pixels are too few"),
    (
        "--from-file missing.txt",
        "--from-file missing.txt: cannot be read (No such file or directory)",
    ),
    ("--from-file BLANK", "holds no prompt; write one a line"),
    ("--from-file PICTURE", "is not UTF-8; save the file as UTF-8"),
    (
        "--prompt x --refiner BASE",
        "where a StableDiffusionXLImg2ImgPipeline is needed; give an SDXL refiner",
    ),
    ("--prompt x --refiner BLANK/none", "there is no such folder"),
    ("--prompt x --safety-checker BASE/text_encoder", "--safety-checker"),
    ("--show TEXT", "cannot be read as a picture with settings"),
    ("--show PICTURE", "holds no settings"),
]


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [(*one, 2) for one in WRONG_OPTIONS] + [(*one, 3) for one in WRONG_FILES],
)
def test_mistakes_are_one_line_and_paint_nothing(
    tiny_sdxl: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: str,
    message: str,
    code: int,
) -> None:
    Image.new("RGB", (32, 32), "red").save(tmp_path / "picture.png")
    Image.new("RGB", (4, 4), "red").save(tmp_path / "dot.png")
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "blank.txt").write_text("\n \n")
    files = {"PICTURE": "picture.png", "DOT": "dot.png", "TEXT": "text.png", "BLANK": "blank.txt"}
    places = {name: str(tmp_path / file) for name, file in files.items()}
    places |= {"REFINER": str(tiny_sdxl / "refiner"), "BASE": str(tiny_sdxl / "base")}
    words = [
        re.sub("|".join(places), lambda found: places[found[0]], word) for word in arguments.split()
    ]
    assert run(tiny_sdxl / "base", tmp_path / "out", *words) == code
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error and not (tmp_path / "out").exists()


def test_a_refiner_or_bare_encoders_are_no_base(
    tiny_sdxl: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "encoders").mkdir()
    for part in ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"):
        shutil.copytree(tiny_sdxl / "base" / part, tmp_path / "encoders" / part)
    for folder, message in (
        (tiny_sdxl / "refiner", "give an SDXL base, and its refiner with --refiner"),
        (tmp_path / "encoders", "--assemble"),
    ):
        assert run(folder, tmp_path / "out", "--prompt", "x") == 3
        assert message in capsys.readouterr().err and not (tmp_path / "out").exists()
    assert paint_entry.main(["--prompt", "x"]) == 2
    assert "no repository" in capsys.readouterr().err
