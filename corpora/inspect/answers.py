"""Entry: what became of a row, and why."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from configs.errors import RecipeError
from configs.schema.corpora import Corpora
from configs.schema.filters import Filters
from configs.schema.recipe import Recipe
from corpora import dropped, pipeline
from corpora.filters import residue
from corpora.inspect import evidence, history
from corpora.inspect.evidence import Answer
from corpora.inspect.history import Fate, SourceRow
from corpora.pair import read_manifest

EARLY = ("filter", "language_id", "clip_tokens")  # the stages that judge a row by itself


def inspect(recipe: Recipe, ids: list[str], reason: str | None, limit: int) -> None:
    """Prints what is known of each row, and of the first `limit` that were dropped for the reason.

    Raises RecipeError and DataError.
    """
    corpora, folder = recipe.corpora, finished_pairs(recipe)
    if reason is not None:
        ids = [*ids, *islice(_dropped_for(reason, recipe, folder), limit)]
    ids = list(dict.fromkeys(history.full_id(corpora, id) for id in ids))
    fates = history.fates(folder, ids) if folder else {}
    rows = history.read_rows(
        corpora, [*ids, *(fate.other_id for fate in fates.values() if fate.other_id)]
    )
    for id in ids:
        fate = fates.get(id)
        print(
            "\n".join(
                told(
                    corpora, rows[id], fate, rows[fate.other_id] if fate and fate.other_id else None
                )
            ),
            end="\n\n",
        )


def inspect_texts(recipe: Recipe, text: str, en: str) -> None:
    """Prints what would become of a pair. Raises RecipeError and DataError."""
    folder, row = finished_pairs(recipe), history.SourceRow("this pair", text, en)
    texts = _cleaned(row, recipe.corpora.filters)
    same = history.same_texts(folder, *texts) if folder else None
    other = (
        history.read_rows(recipe.corpora, [same.other_id])[same.other_id]
        if same and same.other_id
        else None
    )
    print("\n".join(told(recipe.corpora, row, None, other, same)))


def finished_pairs(recipe: Recipe) -> Path | None:
    """`<run>/pairs` if it says what was dropped; tells the user where it is another recipe's.

    Raises DataError.
    """
    folder = recipe.run_dir / "pairs"
    if not (folder / dropped.FILE).is_file():
        return None
    if read_manifest(folder).settings != pipeline.recorded_settings(recipe.corpora):
        print(
            f"{folder}: made by other settings of `corpora`; what it says of a row is what those "
            "settings did\n"
        )
    return folder


def _dropped_for(reason: str, recipe: Recipe, folder: Path | None) -> Iterator[str]:
    if folder is None:
        raise RecipeError(
            f"--reason {reason}: {recipe.run_dir / 'pairs'} does not say what was dropped; run: "
            "python -m corpora.prepare RECIPE"
        )
    reasons = {
        one
        for stage in read_manifest(folder).stages
        for one, count in stage.dropped.items()
        if count
    }
    if reason not in reasons:
        raise RecipeError(
            f"--reason {reason}: no row was dropped for it; the reasons are "
            f"{', '.join(sorted(reasons)) or 'none'}"
        )
    return dropped.of_reason(folder / dropped.FILE, reason)


def told(
    corpora: Corpora,
    row: SourceRow,
    fate: Fate | None,
    other: SourceRow | None,
    would_be: Fate | None = None,
) -> list[str]:
    """Lines on one row.

    `fate` is on record; `would_be` is what the finished pairs would make of a pair that is in no
    source.
    """
    if row.unreadable:
        return [
            f"{row.id}: dropped by read: {row.unreadable}",
            f"  {evidence.UNREADABLE.get(row.unreadable, 'its texts could not be read')}",
        ]
    source = history.source_of(corpora, row.id)
    limits, _ = corpora.filters_of(source)
    text, en = _cleaned(row, limits)
    judged = [("filter", answer) for answer in evidence.answers(text, en, corpora, source)]
    judged += [("language_id", answer) for answer in evidence.languages(text, en, corpora, source)]
    judged += (
        [("clip_tokens", evidence.tokens(en, corpora.clip_tokens))] if corpora.clip_tokens else []
    )
    now = next((f"{stage}: {answer.name}" for stage, answer in judged if answer.drops), None)
    lines = [_headline(row.id, fate, would_be, now), *_texts("as read", row.text, row.en)]
    if (text, en) != (row.text, row.en):
        lines += _texts("cleaned", text, en)
    for name in dict(judged):
        lines += [
            f"  {name}",
            *(line for stage, answer in judged if stage == name for line in _answer(answer)),
        ]
    last = fate or would_be
    if last and last.score is not None and corpora.semantic:
        lines += [f"  {last.stage}", *_answer(evidence.meaning(last.score, corpora.semantic))]
    elif last and last.other_id:
        lines += [f"  {last.stage}", *_compared(corpora, last, (text, en), other)]
    return lines


def _headline(id: str, fate: Fate | None, would_be: Fate | None, now: str | None) -> str:
    by_now = f"dropped by {now}" if now else "kept by the filters and the language id"
    if fate is None:
        late = (
            f"dropped by {would_be.stage}: {would_be.reason}"
            if would_be
            else "then corpora.prepare compares it with all rows at hand"
        )
        return f"{id}: would be {by_now}" + ("" if now else f"; {late}")
    recorded = f"kept, in {fate.split}" if fate.split else f"dropped by {fate.stage}: {fate.reason}"
    agrees = now == (f"{fate.stage}: {fate.reason}" if fate.stage in EARLY else None)
    return (
        f"{id}: {recorded}"
        if agrees
        else f"{id}: {recorded}; with these settings it would be {by_now}"
    )


def _answer(answer: Answer) -> list[str]:
    lines = [f"    {'DROPS' if answer.drops else 'ok':<6}{answer.name:<28}{answer.found}"]
    remedy = f"to keep it: {answer.keeps}" if answer.keeps else "no setting keeps it"
    return [*lines, f"    {'':<34}{remedy}"] if answer.drops else lines


def _compared(
    corpora: Corpora, fate: Fate, cleaned: tuple[str, str], other: SourceRow | None
) -> list[str]:
    """How alike the row and the one kept instead are."""
    assert other is not None, "a duplicate is one of another row"
    limits, _ = corpora.filters_of(history.source_of(corpora, other.id))
    answer = evidence.compared(fate.reason, cleaned, _cleaned(other, limits), corpora)
    return [
        *_answer(answer),
        f"    the other row is {other.id}",
        *("  " + line for line in _texts("as read", other.text, other.en)),
    ]


def _cleaned(row: SourceRow, limits: Filters) -> tuple[str, str]:
    return residue.stored(row.text, row.en, limits)


def _texts(what: str, text: str, en: str) -> list[str]:
    """Both sides, with escapes where something in them cannot be seen."""
    shown = (one if one.isprintable() and one == one.strip() else ascii(one) for one in (text, en))
    return [
        f"  {what:<9} {side:<4}  {one}" for side, one in zip(("text", "en"), shown, strict=True)
    ]
