"""Translates the chosen captions into English, some thousand at a time.

In:  the chosen rows (`kept.npz`), cleaned captions, a translation model, its guards.
Out: `translated/00000.parquet` of SCHEMA, in row order, and `00000.json`: counts and samples of
     what the guards dropped, by reason.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from configs.files import whole
from configs.schema.captions import Captions, Translator
from corpora import pair
from corpora.captions import guards, translator
from corpora.captions.clean import Cleaned, Lost
from corpora.captions.devices import one_thread
from corpora.filters import language_id
from corpora.filters.normalise import normalise

PIECE_ROWS = 16_384  # minutes on a core, seconds on a GPU: what is lost if a worker is killed
SCHEMA = pa.schema(
    [
        *pair.SCHEMA,
        pa.field("similarity", pa.float32(), nullable=False),
        pa.field("url", pa.string(), nullable=False),
        pa.field("back_translation_chrf", pa.float32()),
    ]
)


@dataclass
class TranslatePiece:
    """Executor task: translates piece `rank` of the chosen captions."""

    captions: Captions
    language_id_model: str
    cleaned: Cleaned
    kept: Path
    rows: list[int]
    folder: Path
    models: Path

    @property
    def code(self) -> str:
        """The captions' language."""
        return self.captions.text_language.code

    def files(self, rank: int) -> list[Path]:
        return [self.folder / f"{rank:05d}.parquet", self.folder / f"{rank:05d}.json"]

    def __call__(self, data: object, rank: int, world_size: int) -> None:
        start = rank * PIECE_ROWS
        with np.load(self.kept, allow_pickle=False) as kept:
            rows, similarity = (
                kept[name][start : start + PIECE_ROWS] for name in ("rows", "similarity")
            )
        captions = self.cleaned.take(
            rows, ["id", "text", "url", "licence", "text_language_probability"]
        )
        text = captions["text"].to_pylist()
        with one_thread():
            en = [
                normalise(one)
                for one in _loaded(self.captions.translator, self.models, self.code, "en")(text)
            ]
        reasons, english = guards.judged(
            text, en, self.captions.translator.guards, language_id.load(self.language_id_model)
        )
        chrf = self._come_back(text, en, reasons)
        more = {
            "en": pa.array(en, pa.string()),
            "source": pa.array([self.captions.source.name] * len(text), pa.string()),
            "en_language_probability": pa.array(english, pa.float32()),
            "similarity": pa.array(similarity, pa.float32()),
            "back_translation_chrf": pa.array(chrf, pa.float32()),
        }
        table = (
            pa.table({**{name: captions[name] for name in captions.column_names}, **more})
            .select(SCHEMA.names)
            .cast(SCHEMA)
        )
        table = table.filter(pa.array([reason is None for reason in reasons], pa.bool_()))
        lost = Lost(["translate"])
        for id, *texts, reason in zip(captions["id"].to_pylist(), text, en, reasons, strict=True):
            if reason is not None:
                lost.add("translate", reason, id, *texts)
        assert len(text) == table.num_rows + lost.rows == self.rows[rank]
        with whole(self.folder / f"{rank:05d}.parquet") as temporary:
            pq.write_table(table.combine_chunks(), temporary, compression="lz4")
        lost.write(self.folder / f"{rank:05d}.json")

    def _come_back(
        self, text: list[str], en: list[str], reasons: list[str | None]
    ) -> list[float | None]:
        """chrF of the back-translations, if configured, of the rows that no guard dropped; writes
        `back_translation` into `reasons` where it is too low.
        """
        result: list[float | None] = [None] * len(text)
        settings = self.captions.back_translation
        if settings is None:
            return result
        rows = [row for row, reason in enumerate(reasons) if reason is None]
        with one_thread():
            back = _loaded(settings.translator, self.models, "en", self.code)(
                [en[row] for row in rows]
            )
        for row, score in zip(rows, guards.chrf([text[row] for row in rows], back), strict=True):
            result[row] = score
            if score < settings.min_chrf:
                reasons[row] = "back_translation"
        return result


def pieces(rows: int) -> list[int]:
    """Rows of each piece."""
    return [min(PIECE_ROWS, rows - start) for start in range(0, rows, PIECE_ROWS)]


@lru_cache(maxsize=2)
def _loaded(
    settings: Translator, models: Path, source: str, target: str
) -> Callable[[list[str]], list[str]]:
    """Loaded once per process."""
    return translator.load(settings, models, source, target)
