"""`unpacked.json` of a folder: which single file it was written from.

In/out: the file, beside `model_index.json`.
"""

from pathlib import Path

from configs.records import SealedRecord

RECORD = "unpacked.json"


class UnpackedFrom(SealedRecord):
    """`file`: its name without folders. `notes`: what was said while it was unpacked."""

    file: str
    sha256_of_file: str
    kind: str
    notes: list[str]


def source_of(folder: str | Path) -> UnpackedFrom | None:
    """None for a folder that was not unpacked. Raises DataError for a damaged record."""
    path = Path(folder) / RECORD
    return UnpackedFrom.read(path, "unpack the file again") if path.is_file() else None
