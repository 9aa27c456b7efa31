"""Which method finds the right translations, and what the student computes from each start.

    python -m vocab_init.compare configs/toyworld.yaml
    python -m vocab_init.compare configs/toyworld.yaml --methods nearest alignment

In:  a recipe whose pairs are prepared; what `python -m vocab_init` reads.
Out: a table in the terminal; `<run>/vocab_init/`: `compare.json` (all numbers), `compare.md` (the
     table) and `neighbors.html`, what words start from by each method, for a person to judge.
"""

from configs import command
from configs.schema.load import load_recipe


def main(argv: list[str] | None = None) -> int:
    def body() -> None:
        parser = command.parser(
            "vocab_init.compare", "Compares the methods of vocab_init before any training."
        )
        parser.add_argument(
            "--methods", nargs="+", metavar="METHOD", help="values of vocab_init.method; all"
        )
        arguments = parser.parse_intermixed_args(argv)
        recipe = load_recipe(arguments.recipe, arguments.overrides)
        from vocab_init.compare.comparison import compare  # loads torch, which --help need not

        with command.at_work(recipe.run_dir, "vocab_init.compare", "vocab_init"):
            compare(recipe, arguments.methods)

    return command.guard("vocab_init.compare", body)


if __name__ == "__main__":
    raise SystemExit(main())
