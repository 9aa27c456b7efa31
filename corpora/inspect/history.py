"""All that is known of a row: its source's texts, what became of it, and which finished row it
duplicates.

In:  the recipe's `corpora` section, ids (SOURCE:NUMBER), `<run>/pairs/` if it exists.
Out: rows as read, and their fates. Nothing is written; only the parts that hold the rows are
     decoded.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from configs.errors import DataError, RecipeError
from configs.schema.corpora import Corpora
from configs.schema.sources import Source, WorldSource
from corpora import dropped, sources
from corpora.filters.normalise import comparison_key
from corpora.pair import SPLITS, Split, read_batches
from corpora.sources.part import Part, row_id


@dataclass(frozen=True)
class SourceRow:
    """A row as its source gives it: two texts, or the reason why they are unreadable."""

    id: str
    text: str = ""
    en: str = ""
    unreadable: str | None = None


@dataclass(frozen=True)
class Fate:
    """What became of a row: its split, or the stage and reason that dropped it, with the id of the
    row kept instead or the score that was too low.
    """

    split: Split | None = None
    stage: str = ""
    reason: str = ""
    other_id: str | None = None
    score: float | None = None


def full_id(corpora: Corpora, id: str) -> str:
    """The id as recorded: `news:12` is `news:000000012`.

    Raises RecipeError for an id that no source of the recipe can have.
    """
    source, split, number = _place(corpora, id)
    return (
        f"{source.kind}:{split}:{number:06d}"
        if isinstance(source, WorldSource)
        else row_id(source.name, number)
    )


def _place(corpora: Corpora, id: str) -> tuple[Source, str, int]:
    name, _, number = id.rpartition(":")
    for source in corpora.sources:
        names = (
            [f"{source.kind}:{split}" for split in SPLITS]
            if isinstance(source, WorldSource)
            else [source.name]
        )
        if name in names and number.isascii() and number.isdigit():
            return source, name.rpartition(":")[2], int(number)
    worlds = {one.kind for one in corpora.sources if isinstance(one, WorldSource)}
    world = name.partition(":")[0]
    known = (
        ", ".join(f"{world}:{split}" for split in SPLITS)
        if world in worlds
        else ", ".join(map(sources.name, corpora.sources))
    )
    raise RecipeError(
        f"{id!r} is no id of this recipe: an id is SOURCE:NUMBER, and the sources are {known}"
    )


def source_of(corpora: Corpora, id: str) -> Source | None:
    """The source that a row of this id is from; None: a pair of no source."""
    return _place(corpora, id)[0] if ":" in id else None


def read_rows(corpora: Corpora, ids: Iterable[str]) -> dict[str, SourceRow]:
    """The rows as their sources give them.

    Raises RecipeError; DataError, also for a number after the source's last row.
    """
    wanted: dict[str, list[tuple[str, str, int]]] = defaultdict(list)
    by_name = {sources.name(source): source for source in corpora.sources}
    for id in ids:
        source, split, number = _place(corpora, id)
        wanted[sources.name(source)].append((id, split, number))
    result: dict[str, SourceRow] = {}
    for name, places in wanted.items():
        source = by_name[name]
        # plan only this source: counting the rows of the others may take minutes
        parts = sources.plan(corpora.model_copy(update={"sources": [source]}))
        in_part: dict[Part, set[str]] = defaultdict(set)
        for id, split, number in places:
            found = [
                part
                for part in parts
                if part.first_row <= number < part.first_row + part.rows
                and part.split in (split, "by_text")
            ]
            if not found:
                rows = sum(part.rows for part in parts if part.split in (split, "by_text"))
                raise DataError(
                    f"{id}: source {name!r} has {rows} rows, numbered from 0; correct the id"
                )
            in_part[found[0]].add(id)
        for part, part_ids in in_part.items():
            result |= _of_part(source, part, part_ids)
    return result


def _of_part(source: Source, part: Part, wanted: set[str]) -> dict[str, SourceRow]:
    result: dict[str, SourceRow] = {}
    for batch in sources.read(source, part):
        result |= {
            id: SourceRow(id, text, en)
            for id, text, en in zip(batch.ids, batch.text, batch.en, strict=True)
            if id in wanted
        }
        result |= {
            id: SourceRow(id, unreadable=reason) for id, reason in batch.dropped if id in wanted
        }
        if len(result) == len(wanted):
            break
    assert len(result) == len(wanted), "a planned row was not read"
    return result


def fates(folder: Path, ids: list[str]) -> dict[str, Fate]:
    """What became of the ids in the finished pairs; unknown ids are left out.

    Raises DataError for damaged pairs.
    """
    lost = dropped.find(folder / dropped.FILE, ids)
    found = {
        id: Fate(None, row["stage"], row["reason"], row["other_id"], row["score"])
        for id, row in lost.items()
    }
    left = pa.array([id for id in ids if id not in found], pa.string())
    for split in SPLITS if len(left) else ():
        for batch in read_batches(folder, split, columns=["id"]):
            column = batch.column("id")
            found |= {id: Fate(split) for id in column.filter(pc.is_in(column, left)).to_pylist()}
    return found


def same_texts(folder: Path, text: str, en: str) -> Fate | None:
    """What the finished pairs would make of two normalised texts: a duplicate, or dropped because a
    held-out row has the same text; None: neither.

    Raises DataError for damaged pairs.
    """
    text_key, en_key = comparison_key(text), comparison_key(en)
    shared: Fate | None = None
    for split in SPLITS:
        for batch in read_batches(folder, split, columns=["id", "text", "en"]):
            for id, row_text, row_en in zip(
                *(column.to_pylist() for column in batch.columns), strict=True
            ):
                same = comparison_key(row_text) == text_key, comparison_key(row_en) == en_key
                if all(same):
                    return Fate(None, "deduplicate", "exact_duplicate", id)
                if any(same) and split == "held_out":
                    shared = shared or Fate(None, "split", "text_is_held_out", id)
    return shared
