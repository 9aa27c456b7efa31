"""Drops pairs whose sides do not mean the same, by the margin of a multilingual sentence encoder,
or by translations of words (corpora/filters/translations.py).

In:  cleaned rows of one part, in order, without duplicates, and the recipe's `corpora.semantic`.
Out: `semantic/00012.npy`: the margin of each row of part 12, NaN where it is not measured. The
     margin (Artetxe and Schwenk 2019, "ratio") is the cosine of the two sides over the mean cosine
     of each side and its nearest neighbours in the other language: it works with an encoder that
     finds all texts similar, such as e5. Rows that share a text are no neighbours: they mean the
     same, and would lower each other's margin. By translations: their score, and `counted.npz`.

Neighbours are searched in blocks of BLOCK_ROWS rows of the part, so the number of workers does not
matter. Cosines are floating-point sums: another machine may decide differently at the very
threshold.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from configs.files import file_sha256, whole
from configs.references import ModelName
from configs.schema.corpora import Semantic, WordAlignment
from corpora.filters import sentence_encoder, translations
from corpora.filters.deduplicate import first_of_each
from corpora.pair import Input

BLOCK_ROWS = 4096
# Smaller parts are not measured: among so few rows hardly any text has a similar one.
FEWEST_ROWS = 64
COUNTED = "counted.npz"


def model_files(settings: Semantic) -> list[Input]:
    """The encoder's files as inputs for the manifest; none for a hub name, whose files are in the
    library's cache.
    """
    folder = Path(settings.model.path)
    names = (
        sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        if folder.is_dir()
        else []
    )
    return [
        Input(
            source="semantic",
            path=f"{settings.model}/{name}",
            bytes=(folder / name).stat().st_size,
            sha256=file_sha256(folder / name),
        )
        for name in names
    ]


@lru_cache(maxsize=1)
def load(model: str) -> Any:
    """The encoder, read once per process. Raises DataError."""
    return sentence_encoder.load(ModelName(model).path, "corpora.semantic.model")


@dataclass
class MeasurePart:
    """Executor task: the margins of the remaining rows of part `rank`, or their scores by
    translations.
    """

    settings: Semantic | WordAlignment
    parts: list[Path]  # cleaned rows
    folder: Path
    rows: list[int]

    @classmethod
    def of(
        cls,
        settings: Semantic | WordAlignment,
        parts: list[Path],
        folder: Path,
        is_left: np.ndarray,
        starts: np.ndarray,
    ) -> "MeasurePart":
        """Also writes the mask of each part's remaining rows, and the translations counted from
        them, for the workers to read.
        """
        folder.mkdir(exist_ok=True)
        for rank, left in enumerate(np.split(is_left, starts[1:-1])):
            with whole(folder / f"{rank:05d}.left.npy") as temporary, open(temporary, "wb") as file:
                np.save(file, left)
        if isinstance(settings, WordAlignment) and not (folder / COUNTED).exists():
            translations.count(parts, is_left, starts).write(folder / COUNTED)
        return cls(settings, parts, folder, np.diff(starts).tolist())

    def files(self, rank: int) -> list[Path]:
        return [self.folder / f"{rank:05d}.npy"]

    def __call__(self, data: object, rank: int, world_size: int) -> None:
        left = np.load(self.folder / f"{rank:05d}.left.npy", allow_pickle=False)
        scores = np.full(len(left), np.nan, dtype=np.float32)
        texts = pq.read_table(self.parts[rank], columns=["text", "en", "text_digest", "en_digest"])
        scores[left] = self._measured(texts.filter(pa.array(left)))
        with whole(self.files(rank)[0]) as temporary, open(temporary, "wb") as file:
            np.save(file, scores)

    def _measured(self, texts: pa.Table) -> np.ndarray:
        if isinstance(self.settings, WordAlignment):
            counted = translations.read(self.folder / COUNTED)
            found = [
                counted.scores(*(batch.column(name).to_pylist() for name in ("text", "en")))
                for batch in texts.to_batches(translations.ROWS_AT_ONCE)
            ]
        else:
            found = [self._margins(self.settings, block) for block in blocks(iter([texts]))]
        return np.concatenate([*found, np.zeros(0, np.float32)])

    @staticmethod
    def _margins(settings: Semantic, block: pa.Table) -> np.ndarray:
        if block.num_rows < FEWEST_ROWS:
            return np.full(block.num_rows, np.nan, dtype=np.float32)
        same = [
            first_of_each(block.column(name).to_numpy()) for name in ("text_digest", "en_digest")
        ]
        text, en = (block.column(name).to_pylist() for name in ("text", "en"))
        return np.array(margins(text, en, settings, *same), dtype=np.float32)

    def scores(self) -> np.ndarray:
        """(rows,) float32, of all parts; call it when all are done."""
        return np.concatenate(
            [np.load(self.files(rank)[0], allow_pickle=False) for rank in range(len(self.parts))]
        )


def blocks(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """The same rows, BLOCK_ROWS at a time; a short last block joins the one before it."""
    pending: pa.Table | None = None
    for table in tables:
        pending = table if pending is None else pa.concat_tables([pending, table])
        while pending.num_rows >= BLOCK_ROWS + BLOCK_ROWS // 2:
            yield pending.slice(0, BLOCK_ROWS)
            pending = pending.slice(BLOCK_ROWS)
    if pending is not None:
        yield pending


def margins(
    text: list[str],
    en: list[str],
    settings: Semantic,
    text_same: np.ndarray | None = None,
    en_same: np.ndarray | None = None,
) -> list[float]:
    """The margin of each pair among all of these. `text_same`, `en_same`: (rows,), equal for rows
    that share the text.

    Raises DataError if the encoder returns NaN or infinity.
    """
    import torch

    encoder = load(settings.model)
    text_RD, en_RD = (
        sentence_encoder.embed(
            encoder, texts, settings.prompt, settings.batch_size, show_progress=False
        )
        for texts in (text, en)
    )
    cosine_RR = text_RD @ en_RD.T
    own_R = cosine_RR.diagonal().clone()
    count = min(settings.neighbors, len(text))
    for same in (text_same, en_same):
        if same is not None:
            _forget_shared(cosine_RR, same)
    neighbors_R = (_mean_of_nearest(cosine_RR, count) + _mean_of_nearest(cosine_RR.T, count)) / 2
    # a text of unknown words is the zero vector: all its cosines are zero
    margin_R = torch.where(neighbors_R > 0, own_R / neighbors_R, 0.0)
    result: list[float] = margin_R.tolist()
    return result


def _forget_shared(cosine_RR: Any, same: np.ndarray) -> None:
    """Masks in `cosine_RR` the rows that share a text, except each row with itself."""

    order = np.argsort(same, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(same[order])) + 1):
        if len(rows) > 1:
            own = cosine_RR[rows, rows].clone()
            cosine_RR[rows[:, None], rows] = -np.inf
            cosine_RR[rows, rows] = own


def _mean_of_nearest(cosine_RR: Any, count: int) -> Any:
    """(R,): the mean of each row's highest finite cosines, at most `count` of them."""
    nearest_RN = cosine_RR.topk(count, dim=1).values
    is_finite_RN = nearest_RN.isfinite()
    return nearest_RN.where(is_finite_RN, 0.0).sum(dim=1) / is_finite_RN.sum(dim=1)
