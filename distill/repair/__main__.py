"""Repairs a Japanese SDXL or SD 1.x repository that was saved with T5Tokenizer: newer libraries
load it without an error and give wrong token ids.

In:  a diffusers folder or hub name: `spiece.model` tokenizers, CLIP text encoders, everything else;
     weights in safetensors or, of tensors alone, in `.bin`. It is never changed.
Out: on the terminal one line for each problem found; in `--out` (default: the name and -repaired) a
     copy that gives on transformers 4 and 5 what the original gave on transformers 4.57: portable
     tokenizers with the same ids,
     configs that every version reads alike, the same weights (hard links where possible), a
     pipeline class of diffusers (in place of rinna's JapaneseStableDiffusionPipeline),
     `verification.json`, and a section of `README.md` that lists the problems. The folder appears
     whole or not at all.

    python -m distill.repair cl-tohoku/stable-diffusion-xl-jp-base-1.0 --out sdxl-jp-base-repaired
"""

import argparse

from configs import command

DESCRIPTION = (
    "Reports what is wrong with a repository that was saved with T5Tokenizer, and writes a "
    "copy that works with old and new libraries."
)


def main(argv: list[str] | None = None) -> int:
    def body() -> None:
        parser = command.Parser("distill.repair", DESCRIPTION)
        parser.add_argument("repository", help="a folder or a hub name")
        parser.add_argument(
            "--out",
            type=command.output_folder,
            metavar="FOLDER",
            help="the repaired copy; default: the repository's name and -repaired",
        )
        swap = (
            "also swap the rows of </s> and of the last id, so that the pooled state is read at "
            "</s>; this changes what the encoder gives, since it was trained without"
        )
        parser.add_argument("--pool-at-eos", action="store_true", help=swap)
        parser.add_argument(
            "--lower-case",
            action=argparse.BooleanOptionalAction,
            help="the tokenizers read prompts in lower case, as after tokenizer.do_lower_case = "
            "True; default: only for a JapaneseStableDiffusionPipeline, whose code sets it",
        )
        arguments = parser.parse_args(argv)
        from distill.repair.safe_copy import repair  # loads torch, which --help need not

        repair(arguments.repository, arguments.out, arguments.pool_at_eos, arguments.lower_case)

    return command.guard("distill.repair", body)


if __name__ == "__main__":
    raise SystemExit(main())
