"""Is this repository what was trained, and does it work on this machine? For exporters, and for users after a download.

In:  a folder or hub name: an exported pipeline, or encoders alone.
Out: a table on the terminal; exit code 3 at the first thing that is wrong, in one line. With `--json FILE` the same as JSON.

Compared: every file with the SHA-256 in `verification.json`; token ids, EOS, vocabulary and key names by themselves; and for a fixed list of
prompts what the installed diffusers and transformers give with the trainer's own forward over the same files.

    python -m distill.verify runs/toyworld/export/base
"""

import math
from typing import TYPE_CHECKING, Any

from configs import artefact, command
from configs.errors import DataError
from configs.files import whole, write_json
from distill.verification_record import VERIFICATION, Prompt, Verification

if TYPE_CHECKING:
    from distill.repository import Repository
    from distill.verification import Reading

DESCRIPTION = "Checks an exported repository: files, tokenizers, and what the installed stack's pipeline gives against the trainer's forward."
STORED_TOLERANCE = 1e-3  # of a state's norm: another machine's sums, against the few numbers that verification.json keeps


def verify(reference: str, variant: str | None = None) -> dict[str, Any]:
    """What was found; `largest_relative_difference` over all prompts is at most `verification.TOLERANCE`. Raises DataError otherwise."""
    from distill import repository, verification

    folder = repository.fetch(reference)
    opened = repository.open_folder(folder)
    path, way_out = folder / VERIFICATION, "fetch the repository again"
    stored = Verification.read(path, way_out) if path.is_file() else None
    if stored:
        artefact.check_files(folder, stored.files, way_out, path.name)
    for encoder in opened.encoders:
        verification.check_portable(encoder)
    stock, trained = verification.stock_reading(opened, variant=variant), verification.trainers_reading(opened, variant=variant)
    difference = stock.difference(trained)
    for prompt, found in zip(verification.PROMPTS, difference, strict=True):
        if not found <= verification.TOLERANCE:
            raise DataError(f"{reference}: the pipeline gives other states than were trained for {prompt!r} (by {found:.1e}); export it anew")
    if stored and variant is None:
        check_stored(opened, stock, stored.prompts)
    return {
        "repository": reference,
        "pipeline": opened.pipeline,
        "stack": verification.versions(),
        "files_with_right_digest": len(stored.files) if stored else 0,
        "tolerance": verification.TOLERANCE,
        "largest_relative_difference": max(difference),
        "prompts": [{"prompt": prompt, "relative_difference": found} for prompt, found in zip(verification.PROMPTS, difference, strict=True)],
        "made_from": stored.made_from if stored else None,
    }


def check_stored(repository: "Repository", reading: "Reading", stored: list[Prompt]) -> None:
    """Compares with what the exporter's machine gave. Raises DataError."""
    from distill import verification

    found = {row.prompt: row for row in verification.rows(repository, reading)}
    if not any(kept.prompt in found for kept in stored):
        raise DataError(f"{repository.folder}: {VERIFICATION} holds none of this version's prompts; export it anew")
    for kept in stored:
        if (here := found.get(kept.prompt)) is None:
            continue
        if here.input_ids != kept.input_ids:
            raise DataError(f"{repository.folder}: {kept.prompt!r} gets other token ids here than where it was exported; reinstall tokenizers")
        for name in ("norm_of_each_position", "pooled"):
            mine, theirs = getattr(here, name) or [], getattr(kept, name) or []
            if len(mine) != len(theirs) or not all(map(_is_close, mine, theirs)):
                raise DataError(f"{repository.folder}: {kept.prompt!r} gets another {name} here than where it was exported; please report this")


def _is_close(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=STORED_TOLERANCE, abs_tol=STORED_TOLERANCE)


def show(found: dict[str, Any]) -> None:
    print(f"{found['repository']}: {found['pipeline']}, " + ", ".join(f"{name} {version}" for name, version in found["stack"].items()))
    checked = f"{found['files_with_right_digest']} files have their digest" if found["files_with_right_digest"] else "no verification.json"
    print(f"  {checked}")
    for row in found["prompts"]:
        print(f"  {row['relative_difference']:.1e}  {row['prompt'][:40]!r}")
    print(f"verified: largest relative difference {found['largest_relative_difference']:.1e}, {found['tolerance']:.0e} allowed")


def main(argv: list[str] | None = None) -> int:
    def body() -> None:
        parser = command.Parser("distill.verify", DESCRIPTION)
        parser.add_argument("repository", help="a folder or a hub name")
        parser.add_argument("--variant", choices=("fp16", "bf16"), help="the half-precision weights instead of the fp32 ones")
        parser.add_argument("--json", type=command.output_file, metavar="FILE", help="write the result there too")
        arguments = parser.parse_args(argv)
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
