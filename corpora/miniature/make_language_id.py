"""Trains toyworld's language identification, a miniature of fastText's lid.176: ja, en and five
other languages.

    python -m corpora.miniature.make_language_id

In:  toyworld's training captions, and `sentences/` for what its grammar cannot say.
Out: `language_id.ftz` among toyworld's models, a quantised fastText model. Takes seconds on one
     core; the same texts give the same file.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from configs.files import whole
from configs.references import TOYWORLD_MODELS
from corpora.toyworld import captions

CAPTIONS = 1_000
SEED = 3_000
SPANS = 50  # per line: runs of words, or of characters in languages that hardly use spaces

# Rare words get no row of their own (a Japanese text is one "word"), but their n-grams do.
SETTINGS = {
    "dim": 16,
    "minn": 1,
    "maxn": 4,
    "bucket": 20_000,
    "minCount": 20,
    "lr": 0.5,
    "epoch": 10,
    "thread": 1,
    "seed": SEED,
    "verbose": 0,
}
FIT = """import fasttext, json, sys
model = fasttext.train_supervised(sys.argv[1], **json.loads(sys.argv[3]))
model.quantize(dsub=2)
model.save_model(sys.argv[2])"""

LANGUAGES = ("ja", "en", "de", "fr", "es", "zh", "ko")
SENTENCES = {
    language: (Path(__file__).parent / "sentences" / f"{language}.txt").read_text(encoding="utf-8")
    for language in LANGUAGES
}


def train(path: Path) -> None:
    """Writes the model whole or not at all."""
    lines = training_lines()
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".txt") as file,
        whole(path) as temporary,
    ):
        file.writelines(line + "\n" for line in lines)
        file.flush()
        # One thread, because several race for the weights. fastText 0.9.3 then initialises only a
        # tenth of its table, and reused memory holds garbage, even NaN. A process of its own gets
        # fresh pages, which are zero.
        environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "131072"}
        subprocess.run(
            [sys.executable, "-c", FIT, file.name, str(temporary), json.dumps(SETTINGS)],
            env=environment,
            check=True,
        )
    print(
        f"{path}: {len(lines):,} lines of {len(SENTENCES)} languages, {path.stat().st_size:,} bytes"
    )


def training_lines() -> list[str]:
    """`__label__ja text`, shuffled: spans of every language's sentences, and captions for ja and
    en.
    """
    rng = random.Random(SEED)
    pairs = list(captions.pairs(CAPTIONS, "train", SEED))
    texts = {
        language: [
            part for line in block.splitlines() for part in (line.strip(), *spans(line, rng))
        ]
        for language, block in SENTENCES.items()
    }
    texts["ja"] += [caption.text for caption in pairs]
    texts["en"] += [caption.en for caption in pairs]
    lines = [f"__label__{language} {text}" for language, some in texts.items() for text in some]
    rng.shuffle(lines)
    return lines


def spans(text: str, rng: random.Random) -> list[str]:
    """`SPANS` runs of 2 to 12 words; of 3 to 30 characters for a text with hardly a space."""
    words = text.split()
    joiner, parts, shortest, longest = (
        (" ", words, 2, 12) if len(words) > len(text) / 12 else ("", list(text), 3, 30)
    )
    starts = [rng.randrange(max(1, len(parts) - shortest)) for _ in range(SPANS)]
    return [
        joiner.join(parts[start : start + rng.randint(shortest, longest)]).strip()
        for start in starts
    ]


def main(argv: list[str] | None = None) -> int:
    prog = "python -m corpora.miniature.make_language_id"
    parser = argparse.ArgumentParser(
        prog=prog, description="Trains toyworld's language identification.", allow_abbrev=False
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=TOYWORLD_MODELS / "language_id.ftz",
        help="the file to write (default %(default)s)",
    )
    train(parser.parse_args(argv).out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
