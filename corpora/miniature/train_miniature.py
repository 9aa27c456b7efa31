"""Trains the miniature SDXL on toyworld's English captions, start to end; resumable, about two
hours on two CPU cores.

    python -m corpora.miniature.train_miniature [--work runs/miniature] [--measure-only]

In:  nothing but the grammar and the renderer; held-out scenes are never drawn.
Out: `models/base` and `models/refiner` (diffusers layout, fp16 weights), and the accuracy measured
     on held-out captions.
All models save checkpoints: after a kill the same command continues and skips finished ones.
"""

import argparse
from pathlib import Path

from corpora.miniature import miniature, train_text_encoders, train_unets, train_vae
from corpora.miniature.miniature_accuracy import measure
from corpora.miniature.miniature_folder import write_folder
from corpora.toyworld import captions

TOKENIZER_CAPTIONS = 4000


def train(work: Path) -> None:
    """Trains every model in turn, each from where it stopped."""
    work.mkdir(parents=True, exist_ok=True)
    miniature.write_tokenizers(
        (caption.en for caption in captions.pairs(TOKENIZER_CAPTIONS, "train", 0)), work
    )
    tokenizers = miniature.load_tokenizers(work)
    vae = train_vae.train(work)
    print(f"autoencoder: {train_vae.accuracy(vae):.3f} of held-out pictures read the same after it")
    reader = train_text_encoders.train(tokenizers, work)
    for part in ("base", "refiner"):
        write_folder(part, train_unets.train(part, vae, reader, work), vae, reader, work)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m corpora.miniature.train_miniature",
        description="Trains the miniature SDXL of toyworld.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--work", type=Path, default=Path("runs/miniature"), help="where unfinished models are kept"
    )
    parser.add_argument("--measure-only", action="store_true", help="measure the models there are")
    arguments = parser.parse_args(argv)
    if not arguments.measure_only:
        train(arguments.work)

    for name, accuracy in measure().items():
        print(
            f"{name}: {accuracy:.3f} of held-out English captions painted with every attribute "
            "right"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
