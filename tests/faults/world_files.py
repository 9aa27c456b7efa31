"""What a run of the tiny world starts from: the teacher's folders and a file of texts. Run by the
fork server, which has the libraries.
"""

from pathlib import Path

from corpora.toyworld import captions
from tests.conftest import write_tiny_sdxl


def main(argv: list[str]) -> int:
    """Writes `teacher/` and `texts.tsv` into the working folder; other seeds give other content of
    the same shape.
    """
    seed, pairs = map(int, argv)
    write_tiny_sdxl(Path("teacher"), seed)
    rows = [f"{one.text}\t{one.en}\n" for one in captions.pairs(pairs, "train", seed)]
    Path("texts.tsv").write_text("ja\ten\n" + "".join(rows), encoding="utf-8")
    return 0
