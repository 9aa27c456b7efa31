"""Trains a world's miniature SDXL on its English captions, start to end; resumable.

Toyworld's takes about two hours on two CPU cores, emojiworld's of 300 concepts three and a half.

    python -m corpora.miniature.train_miniature [--work runs/miniature] [--measure-only]
    python -m corpora.miniature.train_miniature --emojiworld 300 --work runs/miniature_emoji

In:  nothing but the grammar and the renderer; held-out scenes are never drawn.
Out: `models/base` and `models/refiner` of the world (diffusers layout, fp16 weights), and the
     accuracy measured on held-out captions.
All models save checkpoints: after a kill the same command continues and skips finished ones.
"""

import argparse
from pathlib import Path

from diffusers import AutoencoderKL

from configs import command
from configs.errors import DataError
from configs.files import read_json
from corpora.miniature import miniature, train_text_encoders, train_unets, train_vae
from corpora.miniature.caption_reader import CaptionReader, load_reader
from corpora.miniature.design import OF_TOYWORLD, Design, of_emojiworld
from corpora.miniature.miniature_accuracy import measure
from corpora.miniature.miniature_folder import write_folder, write_frozen_models

TOKENIZER_CAPTIONS = 4000


def train(work: Path, design: Design) -> None:
    """Trains every model in turn, each from where it stopped.

    Raises DataError for finished models of another vocabulary.
    """
    work.mkdir(parents=True, exist_ok=True)
    captions = design.world.pairs(TOKENIZER_CAPTIONS, "train", 0)
    miniature.write_tokenizers((caption.en for caption in captions), work, design.tokens)
    vae, reader = _frozen_models(work, design)
    for part in ("base", "refiner"):
        unet = train_unets.train(part, vae, reader, work, design)
        write_folder(part, unet, vae, reader, work, design.models)


def _frozen_models(work: Path, design: Design) -> tuple[AutoencoderKL, CaptionReader]:
    """What the UNets are trained on: finished models, or trained now."""
    finished = design.models / "base"
    if design.keeps_frozen and finished.is_dir():
        own, theirs = (folder / "tokenizer" / "vocab.json" for folder in (work, finished))
        if read_json(own) != read_json(theirs):
            raise DataError(
                f"{finished}: its text encoders were trained on captions with other words; move "
                "it away to train new ones"
            )
        return train_vae.load(finished / "vae"), load_reader(finished)

    vae = train_vae.train(work, design)
    accuracy = train_vae.accuracy(vae, world=design.world)
    print(f"autoencoder: {accuracy:.3f} of held-out pictures read the same after it")
    reader = train_text_encoders.train(miniature.load_tokenizers(work), work, design)
    if design.keeps_frozen:
        write_frozen_models(finished, vae, reader, work)
    return vae, reader


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m corpora.miniature.train_miniature",
        description="Trains the miniature SDXL of a world.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--emojiworld",
        type=int,
        metavar="CONCEPTS",
        help="emojiworld's, with so many of its concepts (default: toyworld's)",
    )
    parser.add_argument(
        "--work", type=Path, default=Path("runs/miniature"), help="where unfinished models are kept"
    )
    parser.add_argument("--measure-only", action="store_true", help="measure the models there are")
    arguments = parser.parse_args(argv)
    concepts = arguments.emojiworld
    design = OF_TOYWORLD if concepts is None else of_emojiworld(concepts)

    def body() -> None:
        if not arguments.measure_only:
            train(arguments.work, design)
        for name, shares in measure(design).items():
            print(
                f"{name}: {shares['scenes']:.3f} of held-out English captions painted with every "
                f"attribute right, {shares['things']:.3f} of their things"
            )

    return command.guard("corpora.miniature.train_miniature", body)


if __name__ == "__main__":
    raise SystemExit(main())
