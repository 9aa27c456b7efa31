"""The held-out pairs that evaluation reads.

In:  `<run>/pairs/held_out-*.parquet`.
Out: pairs in memory, no text twice.
"""

from collections.abc import Iterable, Iterator
from itertools import islice

from configs.errors import DataError
from configs.schema.recipe import Recipe
from corpora.pair import Pair, read_pairs


def read(recipe: Recipe, count: int) -> list[Pair]:
    """The first `count` held-out pairs no text of which came before. Raises DataError for fewer
    than two, or a missing or damaged folder.

    A repeated text would be counted twice and make retrieval ambiguous. Fewer pairs than asked for
    are taken as they are.
    """
    folder = recipe.run_dir / "pairs"
    pairs = list(islice(_distinct(read_pairs(folder, "held_out")), count))
    if len(pairs) < 2:
        raise DataError(
            f"{folder}: {len(pairs)} held-out pair(s) of different texts, at least 2 are needed; "
            "prepare more (held_out_pairs)"
        )
    return pairs


def _distinct(pairs: Iterable[Pair]) -> Iterator[Pair]:
    seen: dict[str, set[str]] = {"text": set(), "en": set()}
    for one in pairs:
        if one.text not in seen["text"] and one.en not in seen["en"]:
            yield one
        seen["text"].add(one.text)
        seen["en"].add(one.en)
