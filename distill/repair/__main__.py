"""Mends a Japanese SDXL or SD 1.x repository that was saved in the old way, with T5Tokenizer: newer
libraries load it and read nonsense.

In:  a diffusers folder or hub name: `spiece.model` tokenizers, CLIP text encoders, everything else.
     It is never changed.
Out: what is wrong with it, one line each, on the terminal; `--out`, a copy that gives on
     transformers 4 and 5 what the original gave on transformers 4.57: portable tokenizers with the
     same ids, safe configs, the same weights (hard links where they can be made),
     `verification.json`, and a section of `README.md` with what was repaired. The folder appears
     whole or not at all.

    python -m distill.repair cl-tohoku/stable-diffusion-xl-jp-base-1.0 --out sdxl-jp-base-repaired
"""

from configs import command

DESCRIPTION = (
    "Reports what is wrong with a repository that was saved with T5Tokenizer, and writes a "
    "copy that works with old and new libraries."
)


def main(argv: list[str] | None = None) -> int:
    def body() -> None:
        from distill.repair.safe_copy import repair

        parser = command.Parser("distill.repair", DESCRIPTION)
        parser.add_argument("repository", help="a folder or a hub name")
        parser.add_argument(
            "--out",
            type=command.output_folder,
            metavar="FOLDER",
            help="the repaired copy; default: the repository's name and -repaired",
        )
        swap = (
            "also swap </s> with the last row, so that pooled is read at </s>: a change of "
            "behaviour, the encoder was trained otherwise"
        )
        parser.add_argument("--pool-at-eos", action="store_true", help=swap)
        arguments = parser.parse_args(argv)
        repair(arguments.repository, arguments.out, arguments.pool_at_eos)

    return command.guard("distill.repair", body)


if __name__ == "__main__":
    raise SystemExit(main())
