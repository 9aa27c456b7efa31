"""Files of latents: any number of safetensors files, each named by its own digest, which say
themselves under which keys their latents are kept.

In/out: `latents-DIGEST.safetensors`: of each bucket two tensors, `1024x768.mean` and
        `1024x768.std`, (N, C, h, w) fp16, and in the header the N keys (`Crop.key`).
"""

import hashlib
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from configs.errors import DataError, first_line
from configs.files import file_sha256, whole
from configs.records import Record
from finetune.pictures.buckets import Size

PATTERN = "latents-*.safetensors"
DIGITS = 16  # of the digest, in a file's name
SHARD_BYTES = 128 << 20
FLUSH_SECONDS = 10.0  # so much work a kill may cost
HEADER = "keys"


class LatentKeys(Record):
    """The keys of a file's rows, in order, by bucket (`1024x768`)."""

    buckets: dict[str, list[str]]


class Place(NamedTuple):
    """Where the latents of a key are."""

    path: Path
    bucket: str
    row: int


@dataclass(frozen=True)
class LatentFile:
    path: Path
    sha256: str
    keys: LatentKeys

    def places(self) -> dict[str, Place]:
        return {
            key: Place(self.path, bucket, row)
            for bucket, keys in self.keys.buckets.items()
            for row, key in enumerate(keys)
        }


def bucket_name(bucket: Size) -> str:
    return f"{bucket[0]}x{bucket[1]}"


def undamaged(folder: Path) -> list[LatentFile]:
    """The files of a folder whose digest is the one in their name; others are as if not there."""
    found = []
    for path in sorted(folder.glob(PATTERN)):
        digest = file_sha256(path)
        if path.name == _file_name(digest):
            found.append(LatentFile(path, digest, _keys(path)))
    return found


def _keys(path: Path) -> LatentKeys:
    try:
        with safe_open(path, framework="pt") as file:
            return LatentKeys.model_validate_json((file.metadata() or {}).get(HEADER, ""))
    except (OSError, SafetensorError, ValidationError) as error:
        raise DataError(
            f"{path}: no file of latents of this version ({first_line(error)}); delete it, and run "
            "python -m finetune.pictures with this recipe"
        ) from None


def _file_name(digest: str) -> str:
    return f"latents-{digest[:DIGITS]}.safetensors"


class LatentWriter:
    """Gathers rows and writes them to files of about `SHARD_BYTES`, each whole or not at all.

    `seconds`: the longest that a row waits for others.
    """

    def __init__(self, folder: Path, seconds: float = FLUSH_SECONDS) -> None:
        self.folder, self.seconds = folder, seconds
        self.written: list[LatentFile] = []
        self._rows: dict[str, list[tuple[str, torch.Tensor, torch.Tensor]]] = {}
        self._bytes, self._since = 0, time.monotonic()

    def add(self, key: str, bucket: str, mean_CHW: torch.Tensor, std_CHW: torch.Tensor) -> None:
        """Both fp16. Writes a file when enough has been gathered, or when it has waited enough."""
        self._rows.setdefault(bucket, []).append((key, mean_CHW, std_CHW))
        self._bytes += mean_CHW.nbytes + std_CHW.nbytes
        if self._bytes >= SHARD_BYTES or time.monotonic() - self._since >= self.seconds:
            self.flush()

    def flush(self) -> None:
        """Puts on disk what has been gathered."""
        if self._rows:
            tensors = {}
            for bucket, rows in self._rows.items():
                tensors[f"{bucket}.mean"] = torch.stack([mean_CHW for _, mean_CHW, _ in rows])
                tensors[f"{bucket}.std"] = torch.stack([std_CHW for _, _, std_CHW in rows])
            keys = LatentKeys(
                buckets={bucket: [row[0] for row in rows] for bucket, rows in self._rows.items()}
            )
            content = save(tensors, {HEADER: keys.model_dump_json()})
            digest = hashlib.sha256(content).hexdigest()
            path = self.folder / _file_name(digest)
            with whole(path) as temporary:
                temporary.write_bytes(content)
            self.written.append(LatentFile(path, digest, keys))
        self._rows, self._bytes, self._since = {}, 0, time.monotonic()


class LatentReader:
    """Rows out of memory-mapped files, each opened once. Give a process one of its own."""

    def __init__(self) -> None:
        self._open: dict[Path, Any] = {}

    def read(self, places: Iterable[Place]) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and deviation (B, C, h, w) fp16 of rows of one bucket. Raises DataError."""
        rows = [(self._row(place, "mean"), self._row(place, "std")) for place in places]
        return torch.stack([row[0] for row in rows]), torch.stack([row[1] for row in rows])

    def _row(self, place: Place, name: str) -> torch.Tensor:
        try:
            if place.path not in self._open:
                self._open[place.path] = safe_open(place.path, framework="pt")
            found: torch.Tensor = self._open[place.path].get_slice(f"{place.bucket}.{name}")[
                place.row
            ]
        except (OSError, SafetensorError, IndexError) as error:
            raise DataError(
                f"{place.path}: no row {place.row} of {place.bucket} ({first_line(error)}); run "
                "python -m finetune.pictures with this recipe"
            ) from None
        return found
