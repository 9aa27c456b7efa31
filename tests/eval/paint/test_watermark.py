"""The package invisible-watermark itself reads back what `eval.paint` wrote, and bears every size.

The package is no part of this project's environment (its OpenCV wants a desktop's libraries): the
second one, `.venv-v4`, which `make test` makes, holds it with an OpenCV for servers.
"""

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

ROOT = Path(__file__).resolve().parents[3]
V4_PYTHON = os.environ.get("V4_PYTHON") or str(ROOT / ".venv-v4" / "bin" / "python")
DECODE = """
import sys
import numpy as np
from imwatermark import WatermarkDecoder
from PIL import Image
for path in sys.argv[1:]:
    bgr = np.ascontiguousarray(np.asarray(Image.open(path).convert("RGB"))[:, :, ::-1])
    print(WatermarkDecoder("bytes", 8 * len("StableDiffusionV1")).decode(bgr, "dwtDct"))
"""


def go(python: str, *words: str | Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [python, *map(str, words)], cwd=ROOT, env=environment, capture_output=True, text=True
    )


@cache
def python_with_the_package() -> str | None:
    there = filter(shutil.which, (sys.executable, V4_PYTHON))
    return next((one for one in there if not go(one, "-c", "import imwatermark").returncode), None)


@pytest.fixture
def python() -> str:
    found = python_with_the_package()
    if found is None:
        pytest.skip("no environment has invisible-watermark: run `make test`")
    return found


@pytest.mark.slow
def test_the_text_is_read_back_from_pictures_of_an_sd(python: str, tmp_path: Path) -> None:
    """At 512 x 512 pixels, from a smooth start of middle tones: flat or clipped areas lose bits."""
    noise = np.random.default_rng(0).integers(0, 256, (512, 512, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(noise).filter(ImageFilter.GaussianBlur(12)), dtype=float)
    start = (smooth - smooth.mean()) / smooth.std() * 30 + 128
    Image.fromarray(start.clip(0, 255).astype(np.uint8)).save(tmp_path / "start.png")
    words = ["--init-img", tmp_path / "start.png", "--strength", "0.1", "--ddim_steps", "10"]
    words += ["--prompt", "a big red circle", "--scale", "1", "--outdir", tmp_path]
    done = go(python, "-m", "eval.paint", "toyworld:sd", *words)
    assert "invisible watermark: StableDiffusionV1" in done.stdout, done.stderr
    assert go(python, "-c", DECODE, tmp_path / "0000.png").stdout == "b'StableDiffusionV1'\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("width", "height", "said"),
    [
        (512, 64, "none (the picture has less than 65,536 pixels)"),
        (256, 256, "applied by the pipeline"),
    ],
)
def test_a_wide_picture_of_a_small_area_is_no_error_of_sdxl(
    python: str, tmp_path: Path, width: int, height: int, said: str
) -> None:
    """diffusers looks at the width alone, the package at the area."""
    words = ["--prompt", "x", "--steps", "1", "--out", tmp_path]
    words += ["--width", str(width), "--height", str(height)]
    done = go(python, "-m", "eval.paint", "toyworld:base", *words)
    assert done.returncode == 0 and f"invisible watermark: {said}" in done.stdout, done.stderr
