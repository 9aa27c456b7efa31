"""Is this repository what was trained, and does it work on this machine? For exporters, and for
users after a download.

In:  a folder or hub name: an exported pipeline, or encoders alone.
Out: a table on the terminal; exit code 3 at the first thing that is wrong, in one line. With
     `--json FILE` the same as JSON.

Compared: every file with the SHA-256 in `verification.json`; token ids, EOS, vocabulary and key
names by themselves; and for a fixed list of prompts what the installed diffusers and transformers
give with the trainer's own forward over the same files.

    python -m distill.verify runs/toyworld/export/base
"""

from configs import command
from configs.files import whole, write_json

DESCRIPTION = (
    "Checks an exported repository: files, tokenizers, and what the installed stack's "
    "pipeline gives against the trainer's forward."
)


def main(argv: list[str] | None = None) -> int:
    def body() -> None:
        parser = command.Parser("distill.verify", DESCRIPTION)
        parser.add_argument("repository", help="a folder or a hub name")
        parser.add_argument(
            "--variant",
            choices=("fp16", "bf16"),
            help="the half-precision weights instead of the fp32 ones",
        )
        parser.add_argument(
            "--json", type=command.output_file, metavar="FILE", help="write the result there too"
        )
        arguments = parser.parse_args(argv)
        from distill.verify.checks import show, verify

        if arguments.json and not arguments.json.parent.is_dir():
            parser.error(f"--json {arguments.json}: there is no such folder; make it first")
        found = verify(arguments.repository, arguments.variant)
        if arguments.json:
            with whole(arguments.json) as temporary:
                write_json(temporary, found)
        show(found)

    return command.guard("distill.verify", body)


if __name__ == "__main__":
    raise SystemExit(main())
