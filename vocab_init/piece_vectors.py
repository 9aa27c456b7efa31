"""The sentence encoder's vectors of pieces and English tokens, made once for a model and its texts.

In:  texts; `vocab_init.sentence_encoder` and `prompt`.
Out: `<run>/piece_vectors/DIGEST/`: `vectors.safetensors`, and a manifest with its SHA-256. DIGEST
     stands for the model's files (a hub name for itself), the prompt and the texts. A damaged
     folder is made again.

Texts are encoded in batches of similar length: sentence-transformers sorts them. The batch size is
no part of the digest.
"""

import sys
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from configs import artefact
from configs.errors import DataError, first_line, one_line
from configs.files import file_sha256, value_sha256, whole_folder
from configs.schema.recipe import VocabInit
from corpora.filters import sentence_encoder

FILE = "vectors.safetensors"


def embed(settings: VocabInit, texts: dict[str, list[str]], cache: Path) -> list[torch.Tensor]:
    """Unit vectors (len(texts), D) float32 of each list, by its name. Raises DataError."""
    made_from = {"vocab_init.sentence_encoder": _sha256(settings), "the texts": value_sha256(texts)}
    folder = cache / value_sha256(made_from)[:16]
    if folder.exists():
        try:
            artefact.read(folder, "it is made again")
            return _kept(folder / FILE, texts)
        except DataError as error:
            print(one_line(error), file=sys.stderr)
    encoder = sentence_encoder.load(settings.sentence_encoder.path, "vocab_init.sentence_encoder")
    found = {
        name: sentence_encoder.embed(encoder, rows, settings.prompt, settings.batch_size).cpu()
        for name, rows in texts.items()
    }
    with whole_folder(folder, replace=True) as work:
        save_file(found, work / FILE)
        artefact.seal(work, made_from)
    return list(found.values())


def _kept(path: Path, texts: dict[str, list[str]]) -> list[torch.Tensor]:
    """The vectors of each list. Raises DataError where they are not what the encoder gave: a model
    of the hub is known by its name alone, and may be another today.
    """
    try:
        stored = load_file(path)
    except SafetensorError as error:
        raise DataError(f"{path}: cannot be read ({first_line(error)}); it is made again") from None
    widths = {found.shape[-1] for found in stored.values()}
    for name, rows in texts.items():
        found = stored.get(name, torch.zeros(0, 0))
        if found.shape != (len(rows), *widths) or not found.isfinite().all():
            raise DataError(
                f"{path}: {name!r} is {tuple(found.shape)} and must be {len(rows)} vectors of one "
                "width, all of them numbers; it is made again"
            )
    return [stored[name] for name in texts]


def _sha256(settings: VocabInit) -> str:
    """Of the encoder's files and the prompt."""
    folder = Path(settings.sentence_encoder.path)
    files = sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else []
    named = {path.relative_to(folder).as_posix(): file_sha256(path) for path in files}
    return value_sha256([named or str(settings.sentence_encoder), settings.prompt])
