"""Memory-mapped token ids of all training pairs, as `distill.tokens.store` wrote them.

Numpy alone: `distill.plan` counts them without torch.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from configs import artefact
from distill.encoders.family import Family

RAREST = "rarest.npy"
TEACHER = "en_"  # before the name of a part, as its tokenizers may differ
STUDENT_SIDES = ("text", "en")  # the student keeps its English by reading it with its own tokenizer


def sides_of(family: Family) -> tuple[str, ...]:
    """The teacher's of each part, then the student's."""
    return (*(f"{TEACHER}{name}" for name in family.parts), *STUDENT_SIDES)


def column(side: str) -> str:
    """Of a pair: the text that a side reads."""
    return "en" if side.startswith(TEACHER) else side


@dataclass(frozen=True)
class TokenPairs:
    """The ids of all training pairs, memory-mapped, and which of `source_names` each comes from.

    `rarest_N`: of each pair, in how many pairs its rarest English word is, where this was counted.

    Behind the pairs stand the `composed` prompts, as rows of their own: what the student reads in
    `text`, what the teacher reads in its sides.
    """

    ids: dict[str, np.ndarray]
    offsets: dict[str, np.ndarray]
    source_N: np.ndarray | None = None
    source_names: tuple[str, ...] = ()
    composed: int = 0
    rarest_N: np.ndarray | None = None

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts of the teacher whose ids these are."""
        return tuple(side.removeprefix(TEACHER) for side in self.ids if side.startswith(TEACHER))

    def __len__(self) -> int:
        """The number of pairs."""
        return len(self.offsets["text"]) - 1 - self.composed

    def row(self, side: str, index: int) -> np.ndarray:
        start, end = self.offsets[side][index : index + 2]
        return self.ids[side][start:end]

    def lengths(self, side: str, rows: np.ndarray) -> np.ndarray:
        return self.offsets[side][rows + 1] - self.offsets[side][rows]


def load(folder: Path, family: Family) -> TokenPairs:
    """What `prepare` wrote, without checking the digests again. Raises DataError."""
    details = artefact.ArtefactManifest.read(
        folder / artefact.MANIFEST, "run the same command again, which makes it again"
    ).details
    # Plain views of the mapped files: numpy's memmap class does Python work at every access.
    ids, offsets = (
        {side: _mapped(folder / f"{side}_{part}.npy") for side in sides_of(family)}
        for part in ("ids", "offsets")
    )
    sources = _mapped(folder / "sources.npy")
    rarest = _mapped(folder / RAREST) if (folder / RAREST).is_file() else None
    names, composed = tuple(details["sources"]), details.get("composed", 0)
    return TokenPairs(ids, offsets, sources, names, composed, rarest)


def _mapped(path: Path) -> np.ndarray:
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
