"""eval.paint on a miniature SD, by the command lines of CompVis' scripts: samplers, defaults, the
safety checker, and one line for what is not supported.
"""

import json
import shlex
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import diffusers
import numpy as np
import pytest
import torch
from conftest import write_flagging_sd
from PIL import Image
from safetensors.torch import load_file, save_file

from eval.paint import __main__ as paint_entry
from eval.paint import options, painter, picture_text, samplers
from eval.paint.request import Request

# diffusers' schedulers turn tensors into arrays in a way that NumPy 2 will not always allow
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")
PROMPT = "猫の肖像画 油絵"
# The commands of CompVis' README, its own and with the prompts of Japanese Stable Diffusion's;
# IMG stands for a picture.
COMMANDS = {
    'scripts/txt2img.py --prompt "a photograph of an astronaut riding a horse" --plms': {
        "sampler": "PLMS",
        "steps": 50,
        "guidance_scale": 7.5,
    },
    f'scripts/txt2img.py --prompt "{PROMPT}" --plms --ddim_steps 4 --n_samples 2 --n_iter 1 '
    "--H 32 --W 32 --C 4 --f 2 --scale 7.5 --seed 42 --precision full --skip_grid --fixed_code "
    "--n_rows 0": {"prompt": PROMPT, "sampler": "PLMS", "seed": 42, "precision": "full"},
    f'scripts/txt2img.py --prompt "{PROMPT}" --dpm_solver --ddim_steps 4': {"sampler": "DPM++ 2M"},
    f'scripts/txt2img.py --prompt "{PROMPT}" --ddim_eta 0.5 --ddim_steps 4': {
        "sampler": "DDIM",
        "eta": 0.5,
    },
    'scripts/img2img.py --prompt "A fantasy landscape, trending on artstation" --init-img IMG '
    "--strength 0.8": {"strength": 0.8, "guidance_scale": 5.0, "steps": 50},
    f'scripts/img2img.py --prompt "{PROMPT}" --init-img IMG --strength 0.8 --ddim_steps 5 --plms '
    "--n_samples 1 --scale 5.0": {"sampler": "PLMS", "strength": 0.8, "guidance_scale": 5.0},
}
REFUSED = {
    f'scripts/txt2img.py --prompt "{PROMPT}" --laion400m': "--laion400m: that model is of another",
    "scripts/txt2img.py --prompt x --config configs/v1-inference.yaml": "--config: a repository",
    "scripts/txt2img.py --prompt x --ckpt=sd-v1-4.ckpt": "--ckpt: a checkpoint in one file is not",
    "scripts/txt2img.py --prompt x --plms --ddim_eta 0.5": "--eta: 0.5 means nothing to pndm",
    "scripts/txt2img.py --prompt x --ddim_eta 2": "--eta: 2.0 is not from 0 to 1",
    "scripts/txt2img.py --prompt x --plms --dpm-solver": "--scheduler: pndm and dpm++_2m at once",
    "scripts/txt2img.py --prompt x --C 8": "--C: 8, but the repository's is 4; leave it out",
    "scripts/txt2img.py --prompt x --f 16": "--f: 16, but the repository's is 2; leave it out",
    "scripts/txt2img.py --prompt x --refiner y": "--refiner: an SD has none; leave it out",
    "scripts/img2img.py --prompt x --init-img IMG --scheduler lms": "--scheduler: lms cannot start",
}


@pytest.fixture
def paint(tiny_sd: Path, tmp_path: Path) -> Callable[..., list[dict[str, object]]]:
    """Runs a command line of the old scripts; what each picture says of itself, with its pixels."""
    Image.new("RGB", (32, 32), "red").save(tmp_path / "start.png")

    def run(line: str, repository: Path = tiny_sd, code: int = 0) -> list[dict[str, object]]:
        words = shlex.split(line.replace("IMG", str(tmp_path / "start.png")))
        words = words[1:] if words[0].endswith(".py") else words
        out = tmp_path / "out"
        shutil.rmtree(out, ignore_errors=True)
        assert paint_entry.main([str(repository), *words, "--outdir", str(out)]) == code
        return [described(path) for path in sorted(out.glob("*.png"))]

    return run


def described(path: Path) -> dict[str, object]:
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"), dtype=np.int16)
    return picture_text.read(path)[1] | {"pixels": pixels, "file": path.name}


def changed(tiny_sd: Path, folder: Path, part: str, **changes: object) -> Path:
    """A copy of the miniature with another config of one part."""
    shutil.copytree(tiny_sd, folder)
    path = folder / part
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes))
    return folder


@pytest.mark.parametrize("line", COMMANDS)
def test_a_pasted_command_paints(line: str, paint: Callable[..., list]) -> None:
    made = paint(line)
    assert made[0].items() >= COMMANDS[line].items()
    assert all(one["pixels"].std() > 2 for one in made)  # something is there


@pytest.mark.parametrize("line", REFUSED)
def test_what_is_not_supported_is_one_line(
    line: str, paint: Callable[..., list], capsys: pytest.CaptureFixture[str]
) -> None:
    assert paint(line, code=2) == []
    error = capsys.readouterr().err.strip()
    assert REFUSED[line] in error and "\n" not in error


def test_every_old_option_is_read_with_underscores_and_with_hyphens() -> None:
    flags = "plms dpm_solver fixed_code skip_grid skip_save".split()
    values = {"ddim_steps": "7", "n_iter": "2", "n_samples": "3", "n_rows": "2", "H": "64"}
    values |= {"W": "32", "C": "4", "f": "8", "scale": "3", "from-file": "a_b.txt", "seed": "9"}
    values |= {"init-img": "a_b.png", "strength": "0.5", "ddim_eta": "0.5", "eta": "0.5"}
    values |= {"precision": "full", "outdir": "a_b", "prompt": "--a_b --n_iter, c_d"}
    plain = vars(options.parser().parse_args([]))
    for name in [*flags, *values]:
        value = [values[name]] if name in values else []
        spelt = [name, name.replace("_", "-")]
        lines = [[f"--{one}", *value] for one in spelt]
        lines += [[f"--{one}={value[0]}"] for one in spelt if value]
        read = [vars(options.parser().parse_args(options.in_our_spelling(one))) for one in lines]
        assert all(one == read[0] for one in read), name
        (difference,) = [key for key in plain if plain[key] != read[0][key]]
        if value:
            found = read[0][difference]
            assert (
                str(found[0] if isinstance(found, list) else found).removesuffix(".0") == value[0]
            )


def test_each_sampler_asks_the_unet_as_often_as_the_original(tiny_sd: Path) -> None:
    """PLMS evaluates its first step twice; all of them paint, and no two the same."""
    pictures = set()
    for name, calls in {"pndm": 51, "lms": 50, "ddim": 50, "dpm++_2m": 50}.items():
        loaded = painter.load(Request(str(tiny_sd), (PROMPT,), scheduler=name))
        counted: Counter[str] = Counter()
        loaded.first.unet.register_forward_hook(lambda *_, counted=counted: counted.update("u"))
        (made,) = painter.paint(loaded, PROMPT, [0])
        assert counted["u"] == calls
        pictures.add(made.picture.tobytes())
        if name == "pndm":
            config = loaded.first.scheduler.config
            assert config.skip_prk_steps and config.steps_offset == 1
            assert config.set_alpha_to_one is False
    assert len(pictures) == 4


def levels(scheduler: object, start: int, steps: int = 20) -> list[float]:
    """How noisy a latent of nothing but noise is at each step, over what the UNet is told."""
    scheduler.set_timesteps(steps)
    timesteps = scheduler.timesteps[start:]
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    sample, found = scheduler.add_noise(torch.zeros_like(noise), noise, timesteps[:1]), []
    for timestep in timesteps:
        told = (1 - scheduler.alphas_cumprod[timestep]) ** 0.5
        found.append(float(sample.std() / noise.std() / told))
        sample = scheduler.step(sample / told, timestep, sample, return_dict=False)[0]
    return found


def test_plms_may_start_from_a_picture(tiny_sd: Path, tiny_sdxl: Path, tmp_path: Path) -> None:
    """What the UNet is told of the noise is what is there. As diffusers starts it midway it is not,
    from the third step on; CompVis' script refuses.
    """
    stock = diffusers.PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        skip_prk_steps=True,
        steps_offset=1,
    )
    mended = samplers.named("pndm", stock.config, start=10)
    assert levels(mended, 10) == pytest.approx([1.0] * 11, abs=1e-4)
    late = levels(stock, 10)
    assert late[:2] == pytest.approx([1.0] * 2, abs=1e-4) and min(late[2:]) > 1.05
    stock.set_timesteps(20)
    whole = samplers.named("pndm", stock.config)
    whole.set_timesteps(20)
    assert whole.timesteps.tolist() == stock.timesteps.tolist()

    own = changed(
        tiny_sd, tmp_path / "own", "model_index.json", scheduler=["diffusers", "PNDMScheduler"]
    )
    stock.save_pretrained(own / "scheduler")
    Image.new("RGB", (32, 32), "red").save(tmp_path / "start.png")
    asked = {"steps": 10, "init_image": tmp_path / "start.png", "strength": 0.5}
    for folder, name in ((own, None), (own, "pndm"), (tiny_sdxl / "base", "pndm")):
        loaded = painter.load(Request(str(folder), (PROMPT,), scheduler=name, **asked))
        counted: Counter[str] = Counter()
        loaded.first.unet.register_forward_hook(lambda *_, counted=counted: counted.update("u"))
        (made,) = painter.paint(loaded, PROMPT, [0])
        assert counted["u"] == 6 and made.made_with["sampler"] == "PLMS"


def test_a_sampler_that_cannot_start_midway_gives_way(tiny_sd: Path, tmp_path: Path) -> None:
    index = {"scheduler": ["diffusers", "LMSDiscreteScheduler"]}
    own = changed(tiny_sd, tmp_path / "own", "model_index.json", **index)
    diffusers.LMSDiscreteScheduler(steps_offset=1).save_pretrained(own / "scheduler")
    Image.new("RGB", (32, 32), "red").save(tmp_path / "start.png")
    from_text = Request(str(own), (PROMPT,), no_safety_checker=True)
    from_picture = Request(str(own), (PROMPT,), init_image=tmp_path / "start.png")
    assert type(painter.load(from_text).first.scheduler).__name__ == "LMSDiscreteScheduler"
    loaded = painter.load(from_picture)
    assert type(loaded.first.scheduler).__name__ == "DDIMScheduler"
    assert "sampler: DDIM, as the repository's own (LMS) cannot start midway" in loaded.notices


def test_eta_adds_noise_by_the_pictures_own_seed(paint: Callable[..., list]) -> None:
    line = f'--prompt "{PROMPT}" --ddim_steps 4 --scheduler ddim --skip_grid'
    (plain,) = paint(line)
    two = paint(f"{line} --eta 1 --n_samples 2")
    (alone,) = paint(f"{line} --eta 1 --seed 1")
    assert abs(two[0]["pixels"] - plain["pixels"]).max() > 2
    assert abs(two[1]["pixels"] - alone["pixels"]).max() <= 2


def test_one_side_alone_keeps_the_unets_other(paint: Callable[..., list]) -> None:
    """diffusers' SD pipeline would drop the side that is given."""
    (high,) = paint(f'--prompt "{PROMPT}" --H 48 --steps 2')
    (wide,) = paint(f'--prompt "{PROMPT}" --W 48 --steps 2')
    assert high["pixels"].shape == (48, 32, 3) and wide["pixels"].shape == (32, 48, 3)


def test_a_negative_prompt_goes_with_every_picture(paint: Callable[..., list]) -> None:
    line = f'--prompt "{PROMPT}" --steps 3 --n_samples 2 --skip_grid'
    plain, other = paint(line), paint(f"{line} --negative_prompt 青い輪")
    assert all((a["pixels"] != b["pixels"]).any() for a, b in zip(plain, other, strict=True))


def test_grids_pictures_and_fixed_seeds(paint: Callable[..., list]) -> None:
    line = f'--prompt "{PROMPT}" --steps 2 --n_samples 2 --n_iter 2'
    counted = paint(line)
    assert [one["file"] for one in counted] == [f"{i:04d}.png" for i in range(4)] + [
        "grid-0000.png",
        "grid-0001.png",
    ]
    fixed = paint(f"{line} --fixed_code --skip_grid --seed 5")
    assert [one["seed"] for one in fixed] == [5, 6, 5, 6]
    assert (fixed[0]["pixels"] == fixed[2]["pixels"]).all()
    grids = paint(f"{line} --skip_save --n_rows 1")
    assert [one["file"] for one in grids] == ["grid-0000.png", "grid-0001.png"]
    assert grids[0]["pixels"].shape == (2 * 32 + 2, 32, 3)
    assert paint(f"{line} --skip-save --skip-grid") == []


@pytest.mark.parametrize(("name", "dtype"), [("full", "float32"), ("bf16", "bfloat16")])
def test_a_precision_is_the_models(name: str, dtype: str, tiny_sd: Path) -> None:
    loaded = painter.load(Request(str(tiny_sd), (PROMPT,), steps=2, precision=name))
    assert loaded.first.unet.dtype == loaded.first.vae.dtype == getattr(torch, dtype)
    (made,) = painter.paint(loaded, PROMPT, [0])
    assert np.asarray(made.picture).std() > 2 and made.made_with["precision"] == name


def test_a_repository_saved_from_image_to_image_paints_too(
    tiny_sd: Path, tmp_path: Path, paint: Callable[..., list]
) -> None:
    index = {"_class_name": "StableDiffusionImg2ImgPipeline"}
    other = changed(tiny_sd, tmp_path / "other", "model_index.json", **index)
    line = f'--prompt "{PROMPT}" --steps 2'
    (first,), (second,) = paint(line), paint(line, repository=other)
    assert (first["pixels"] == second["pixels"]).all()


def test_the_repositorys_own_checker_runs_unless_left_out(
    tiny_sd: Path, tmp_path: Path, paint: Callable[..., list], capsys: pytest.CaptureFixture[str]
) -> None:
    line, own = f'--prompt "{PROMPT}" --steps 2', "safety checker: the repository's own"
    flags = write_flagging_sd(tiny_sd, tmp_path / "flags")
    weights = flags / "safety_checker" / "model.safetensors"
    (harmless,) = paint(line)
    said = capsys.readouterr()
    assert said.err.count(own) == 1 and "black" not in said.out
    assert harmless["flagged_by_safety_checker"] is False and harmless["pixels"].max() > 0
    (black,) = paint(line, repository=flags)
    said = capsys.readouterr()
    assert said.err.count(own) == 1 and "(black: flagged by the safety checker)" in said.out
    assert black["flagged_by_safety_checker"] is True and black["pixels"].max() == 0
    (free,) = paint(f"{line} --no-safety-checker", repository=flags)
    assert "safety checker: none (--no-safety-checker)" in capsys.readouterr().err
    assert free["flagged_by_safety_checker"] is None
    assert (free["pixels"] == harmless["pixels"]).all()
    (other,) = paint(
        f"{line} --safety-checker {flags / 'safety_checker'}",
        repository=processed(tiny_sd, flags / "safety_checker"),
    )
    assert other["pixels"].max() == 0  # the one that is named, in place of its own

    tensors = load_file(weights)
    del tensors["visual_projection.weight"]  # transformers would fill in random numbers
    save_file(tensors, weights, metadata={"format": "pt"})
    assert paint(line, repository=flags, code=3) == []
    assert "lacks weights of a StableDiffusionSafetyChecker" in capsys.readouterr().err


def processed(tiny_sd: Path, checker: Path) -> Path:
    """Lays the processor beside a checker, as it is published alone."""
    shutil.copytree(tiny_sd / "feature_extractor", checker, dirs_exist_ok=True)
    return tiny_sd


def test_a_repository_without_a_checker_says_so(
    tiny_sd: Path, tmp_path: Path, paint: Callable[..., list], capsys: pytest.CaptureFixture[str]
) -> None:
    index = {"safety_checker": [None, None], "feature_extractor": [None, None]}
    without = changed(tiny_sd, tmp_path / "without", "model_index.json", **index)
    (made,) = paint(f'--prompt "{PROMPT}" --steps 2', repository=without)
    assert made["flagged_by_safety_checker"] is None and made["safety_checker"] is None
    assert "safety checker: none, the repository has none" in capsys.readouterr().err


def test_grid_and_pictures_are_marked_where_they_are_large_enough(
    tiny_sd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a stand-in for the package; tests/eval/paint/test_watermark.py reads the real one."""
    encoder = SimpleNamespace(
        set_watermark=lambda kind, content: marks.append(content),
        encode=lambda bgr, method: np.full_like(bgr, (1, 2, 3)),
    )
    marks: list[bytes] = []
    monkeypatch.setitem(
        sys.modules, "imwatermark", SimpleNamespace(WatermarkEncoder=lambda: encoder)
    )
    painter.watermark.missing.cache_clear()
    words = ["--prompt", PROMPT, "--steps", "1", "--H", "128", "--W", "256", "--n_samples", "2"]
    words += ["--n_rows", "1", "--outdir", str(tmp_path)]
    assert paint_entry.main([str(tiny_sd), *words]) == 0
    painter.watermark.missing.cache_clear()
    assert marks == [b"StableDiffusionV1"]
    small, _, grid = (described(path) for path in sorted(tmp_path.glob("*.png")))
    assert small["watermark"] == "none (the picture has less than 65,536 pixels)"
    assert grid["watermark"] == "StableDiffusionV1"
    assert (grid["pixels"] == (3, 2, 1)).all() and (small["pixels"] != (3, 2, 1)).any()
