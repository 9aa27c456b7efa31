"""Entry: what became of a row, and why.

In:  a recipe, and ids of rows (SOURCE:NUMBER), a reason of the funnel, or two texts.
Out: on the screen: the row as read and as cleaned, what each filter and the language identifier found and asked for, what it is a duplicate of,
     in which split it is; and the override that would have kept it. Overrides given here are tried out, not remembered.

    python -m corpora.inspect configs/toyworld.yaml toyworld:train:12
    python -m corpora.inspect configs/toyworld.yaml --reason exact_duplicate --limit 3
    python -m corpora.inspect configs/toyworld.yaml --ja 赤い丸 --en "a red circle" corpora.filters.min_characters=4
"""

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from configs import command, schema
from configs.errors import RecipeError

if TYPE_CHECKING:  # --help answers without what these import
    from corpora.evidence import Answer
    from corpora.history import Fate, Row

OVERRIDE = re.compile(r"[\w.]+=")
EARLY = ("filter", "language_id", "clip_tokens")  # the stages that judge a row by itself


def inspect(recipe: schema.Recipe, ids: list[str], reason: str | None, limit: int) -> None:
    """Prints what is known of each row, and of the first `limit` that were dropped for the reason. Raises RecipeError and DataError."""
    from corpora import history

    corpora, folder = recipe.corpora, finished_pairs(recipe)
    if reason is not None:
        ids = [*ids, *islice(_dropped_for(reason, recipe, folder), limit)]
    ids = list(dict.fromkeys(history.full_id(corpora, id) for id in ids))
    fates = history.fates(folder, ids) if folder else {}
    rows = history.read_rows(corpora, [*ids, *(fate.other_id for fate in fates.values() if fate.other_id)])
    for id in ids:
        fate = fates.get(id)
        print("\n".join(told(corpora, rows[id], fate, rows[fate.other_id] if fate and fate.other_id else None)), end="\n\n")


def inspect_texts(recipe: schema.Recipe, ja: str, en: str) -> None:
    """Prints what would become of a pair. Raises RecipeError and DataError."""
    from corpora import history

    folder, row = finished_pairs(recipe), history.Row("this pair", ja, en)
    same = history.same_texts(folder, *_cleaned(row)) if folder else None
    other = history.read_rows(recipe.corpora, [same.other_id])[same.other_id] if same and same.other_id else None
    print("\n".join(told(recipe.corpora, row, None, other, same)))


def finished_pairs(recipe: schema.Recipe) -> Path | None:
    """`<run>/pairs` if it says what was dropped; tells the user where it is another recipe's. Raises DataError."""
    from corpora import dropped, pipeline
    from corpora.pair import read_manifest

    folder = recipe.run_dir / "pairs"
    if not (folder / dropped.FILE).is_file():
        return None
    if read_manifest(folder).settings != pipeline.recorded_settings(recipe.corpora):
        print(f"{folder}: made by other settings of `corpora`; what it says of a row is what those settings did\n")
    return folder


def _dropped_for(reason: str, recipe: schema.Recipe, folder: Path | None) -> Iterator[str]:
    from corpora import dropped
    from corpora.pair import read_manifest

    if folder is None:
        raise RecipeError(f"--reason {reason}: {recipe.run_dir / 'pairs'} does not say what was dropped; run: python -m corpora.prepare RECIPE")
    reasons = {one for stage in read_manifest(folder).stages for one, count in stage.dropped.items() if count}
    if reason not in reasons:
        raise RecipeError(f"--reason {reason}: no row was dropped for it; the reasons are {', '.join(sorted(reasons)) or 'none'}")
    return dropped.of_reason(folder / dropped.FILE, reason)


def told(corpora: schema.Corpora, row: "Row", fate: "Fate | None", other: "Row | None", would_be: "Fate | None" = None) -> list[str]:
    """Lines on one row. `fate` is on record; `would_be` is what the finished pairs would make of a pair that is in no source."""
    from corpora import evidence

    if row.unreadable:
        return [f"{row.id}: dropped by read: {row.unreadable}", f"  {evidence.UNREADABLE.get(row.unreadable, 'its texts could not be read')}"]
    ja, en = _cleaned(row)
    judged = [("filter", answer) for answer in evidence.answers(ja, en, corpora.filters)]
    judged += [("language_id", answer) for answer in evidence.languages(ja, en, corpora.language_id)]
    judged += [("clip_tokens", evidence.tokens(en, corpora.clip_tokens))] if corpora.clip_tokens else []
    now = next((f"{stage}: {answer.name}" for stage, answer in judged if answer.drops), None)
    lines = [_headline(row.id, fate, would_be, now), *_texts("as read", row.ja, row.en)]
    if (ja, en) != (row.ja, row.en):
        lines += _texts("cleaned", ja, en)
    for name in dict(judged):
        lines += [f"  {name}", *(line for stage, answer in judged if stage == name for line in _answer(answer))]
    last = fate or would_be
    if last and last.score is not None and corpora.semantic:
        lines += [f"  {last.stage}", *_answer(evidence.margin(last.score, corpora.semantic))]
    elif last and last.other_id:
        lines += [f"  {last.stage}", *_compared(corpora, last, (ja, en), other)]
    return lines


def _headline(id: str, fate: "Fate | None", would_be: "Fate | None", now: str | None) -> str:
    by_now = f"dropped by {now}" if now else "kept by the filters and the language id"
    if fate is None:
        late = f"dropped by {would_be.stage}: {would_be.reason}" if would_be else "then corpora.prepare compares it with all rows at hand"
        return f"{id}: would be {by_now}" + ("" if now else f"; {late}")
    recorded = f"kept, in {fate.split}" if fate.split else f"dropped by {fate.stage}: {fate.reason}"
    agrees = now == (f"{fate.stage}: {fate.reason}" if fate.stage in EARLY else None)
    return f"{id}: {recorded}" if agrees else f"{id}: {recorded}; with these settings it would be {by_now}"


def _answer(answer: "Answer") -> list[str]:
    lines = [f"    {'DROPS' if answer.drops else 'ok':<6}{answer.name:<28}{answer.found}"]
    remedy = f"to keep it: {answer.keeps}" if answer.keeps else "no setting keeps it"
    return [*lines, f"    {'':<34}{remedy}"] if answer.drops else lines


def _compared(corpora: schema.Corpora, fate: "Fate", cleaned: tuple[str, str], other: "Row | None") -> list[str]:
    """How alike the row and the one kept instead are."""
    from corpora import evidence

    assert other is not None, "a duplicate is one of another row"
    answer = evidence.compared(fate.reason, cleaned, _cleaned(other), corpora)
    return [*_answer(answer), f"    the other row is {other.id}", *("  " + line for line in _texts("as read", other.ja, other.en))]


def _cleaned(row: "Row") -> tuple[str, str]:
    from corpora import residue

    return residue.pair(row.ja, row.en)


def _texts(what: str, ja: str, en: str) -> list[str]:
    """Both sides, with escapes where something in them cannot be seen."""
    shown = (text if text.isprintable() and text == text.strip() else ascii(text) for text in (ja, en))
    return [f"  {what:<9} {side}  {text}" for side, text in zip(("ja", "en"), shown, strict=True)]


def main(argv: list[str] | None = None) -> int:
    def body() -> None:
        description = "Says what became of a row of the sources, why, and what would have kept it."
        parser = command.Parser("corpora.inspect", description)
        parser.add_argument("recipe", help="a YAML file such as configs/toyworld.yaml")
        parser.add_argument("words", nargs="*", metavar="ID | section.key=value", help="rows, as SOURCE:NUMBER; settings to try out")
        parser.add_argument("--reason", help="rows that were dropped for this reason, as the funnel of corpora.prepare names it")
        parser.add_argument("--limit", type=int, default=10, metavar="ROWS", help="at most so many of them (default %(default)s)")
        parser.add_argument("--ja", metavar="TEXT", help="a Japanese text to judge, with --en")
        parser.add_argument("--en", metavar="TEXT", help="its English side")
        arguments = parser.parse_intermixed_args(argv)
        ids = [word for word in arguments.words if not OVERRIDE.match(word)]
        if (arguments.ja is None) != (arguments.en is None):
            parser.error("--ja and --en go together")
        if arguments.limit < 1:
            parser.error("--limit is at least 1")
        if not ids and arguments.reason is None and arguments.ja is None:
            parser.error("give the id of a row, --reason, or --ja and --en")
        recipe = schema.load(arguments.recipe, [word for word in arguments.words if OVERRIDE.match(word)])
        if ids or arguments.reason is not None:
            inspect(recipe, ids, arguments.reason, arguments.limit)
        if arguments.ja is not None:
            inspect_texts(recipe, arguments.ja, arguments.en)

    return command.guard("corpora.inspect", body)


if __name__ == "__main__":
    raise SystemExit(main())
