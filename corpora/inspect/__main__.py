"""Entry: what became of a row, and why.

In:  a recipe, and ids of rows (SOURCE:NUMBER), a drop reason, or two texts.
Out: prints the row as read and as cleaned, what each filter and the language identifier measured
     and required, the row it duplicates, its split, and the override that would have kept it.
     Overrides given here are tried out, not saved.

    python -m corpora.inspect configs/toyworld.yaml toyworld:train:12
    python -m corpora.inspect configs/toyworld.yaml --reason exact_duplicate --limit 3
    python -m corpora.inspect configs/toyworld.yaml --text 赤い丸 --en "a red circle" \
        corpora.filters.min_characters=4
"""

import re

from configs import command
from configs.schema.load import load_recipe

OVERRIDE = re.compile(r"[\w.]+=")


def main(argv: list[str] | None = None) -> int:
    def body() -> None:
        description = "Says what became of a row of the sources, why, and what would have kept it."
        parser = command.Parser("corpora.inspect", description)
        parser.add_argument("recipe", help="a YAML file such as configs/toyworld.yaml")
        parser.add_argument(
            "words",
            nargs="*",
            metavar="ID | section.key=value",
            help="rows, as SOURCE:NUMBER; settings to try out",
        )
        parser.add_argument(
            "--reason",
            help="rows that were dropped for this reason, as the funnel of corpora.prepare names "
            "it",
        )
        parser.add_argument(
            "--limit",
            type=int,
            default=10,
            metavar="ROWS",
            help="at most so many of them (default %(default)s)",
        )
        parser.add_argument(
            "--text", metavar="TEXT", help="a text in the student's language to judge, with --en"
        )
        parser.add_argument("--en", metavar="TEXT", help="its English side")
        arguments = parser.parse_intermixed_args(argv)
        ids = [word for word in arguments.words if not OVERRIDE.match(word)]
        if (arguments.text is None) != (arguments.en is None):
            parser.error("--text and --en go together")
        if arguments.limit < 1:
            parser.error("--limit is at least 1")
        if not ids and arguments.reason is None and arguments.text is None:
            parser.error("give the id of a row, --reason, or --text and --en")
        recipe = load_recipe(
            arguments.recipe, [word for word in arguments.words if OVERRIDE.match(word)]
        )
        from corpora.inspect.answers import inspect, inspect_texts

        if ids or arguments.reason is not None:
            inspect(recipe, ids, arguments.reason, arguments.limit)
        if arguments.text is not None:
            inspect_texts(recipe, arguments.text, arguments.en)

    return command.guard("corpora.inspect", body)


if __name__ == "__main__":
    raise SystemExit(main())
