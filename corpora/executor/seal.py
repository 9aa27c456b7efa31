"""Detects damage to finished pieces: a piece whose files have changed is done again.

In/out: `seals/00012.json` beside datatrove's markers: the SHA-256 of every file of piece 12.
        Parquet and npy do not notice a flipped bit, and an interrupted run may wait for days before
        it continues.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from configs.errors import DataError
from configs.files import file_sha256
from configs.records import Record
from corpora.executor.pieces import Task


class Seal(Record):
    """`files`: the SHA-256 of the piece's files, in the order of `Task.files`."""

    files: list[str]


@dataclass
class Sealed:
    """A task that writes a seal for every finished piece."""

    task: Task
    folder: Path

    @property
    def rows(self) -> list[int]:
        return list(self.task.rows)

    def files(self, rank: int) -> list[Path]:
        return [*self.task.files(rank), self._seal(rank)]

    def __call__(self, data: object, rank: int, world_size: int) -> None:
        self.task(data, rank, world_size)
        self._seal(rank).parent.mkdir(parents=True, exist_ok=True)
        Seal(files=[file_sha256(path) for path in self.task.files(rank)]).write(self._seal(rank))

    def forget_damaged(self) -> None:
        """Removes the markers of pieces whose files are missing or damaged, so that they are done
        again.
        """
        for marker in tqdm(
            sorted((self.folder / "completions").glob("*")),
            desc="checking finished pieces",
            unit="piece",
            leave=False,
        ):
            problem = self._problem(int(marker.name))
            if problem is not None:
                print(f"{problem}; its piece is done again", file=sys.stderr)
                marker.unlink()

    def _problem(self, rank: int) -> str | None:
        try:
            digests = Seal.read(self._seal(rank), "it is made again").files
            paths = self.task.files(rank)
            damaged = [
                path
                for path, digest in zip(paths, digests, strict=True)
                if not path.is_file() or file_sha256(path) != digest
            ]
        except (DataError, ValueError) as error:
            return str(error)
        return f"{damaged[0]}: missing or damaged" if damaged else None

    def _seal(self, rank: int) -> Path:
        return self.folder / "seals" / f"{rank:05d}.json"
