"""Is this repository what was trained, and does it work on this machine? For exporters, and for users after a download.

In:  a folder or hub name: an exported pipeline, or encoders alone.
Out: a table on the terminal; exit code 3 at the first thing that is wrong, in one line. With `--json FILE` the same as JSON.

Compared: every file with the SHA-256 in `verification.json`; token ids, EOS, vocabulary and key names by themselves; and for a fixed list of
prompts what the installed diffusers and transformers give with the trainer's own forward over the same files.

    python -m distill.verify runs/toyworld/export/base
"""

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs import command
from configs.errors import DataError
from configs.files import file_sha256, inside, read_json, whole, write_json

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
    stored = read_json(folder / verification.VERIFICATION) if (folder / verification.VERIFICATION).is_file() else None
    files = check_files(folder, stored["files"]) if stored else 0
    for encoder in opened.encoders:
        verification.check_portable(encoder)
    stock, trained = verification.stock_reading(opened, variant=variant), verification.trainers_reading(opened, variant=variant)
    difference = stock.difference(trained)
    for prompt, found in zip(verification.PROMPTS, difference, strict=True):
        if not found <= verification.TOLERANCE:
            raise DataError(f"{reference}: the pipeline gives other states than were trained for {prompt!r} (by {found:.1e}); export it anew")
    if stored and variant is None:
        check_stored(opened, stock, stored["prompts"])
    return {
        "repository": reference,
        "pipeline": opened.pipeline,
        "stack": verification.versions(),
        "files_with_right_digest": files,
        "tolerance": verification.TOLERANCE,
        "largest_relative_difference": max(difference),
        "prompts": [{"prompt": prompt, "relative_difference": found} for prompt, found in zip(verification.PROMPTS, difference, strict=True)],
        "made_from": stored["made_from"] if stored else None,
    }


def check_files(folder: Path, digests: dict[str, str]) -> int:
    """How many files were compared. Raises DataError naming the first that is missing or differs."""
    for name, digest in digests.items():
        if not inside(folder, name).is_file():
            raise DataError(f"{folder / name}: missing, though verification.json lists it; fetch the repository again")
        if file_sha256(folder / name) != digest:
            raise DataError(f"{folder / name}: its SHA-256 is not that of verification.json: damaged or changed; fetch the repository again")
    return len(digests)


def check_stored(repository: "Repository", reading: "Reading", stored: list[dict[str, Any]]) -> None:
    """Compares with what the exporter's machine gave. Raises DataError."""
    from distill import verification

    for found, kept in zip(verification.rows(repository, reading), stored, strict=True):
        if found["input_ids"] != kept["input_ids"]:
            raise DataError(f"{repository.folder}: {kept['prompt']!r} gets other token ids here than where it was exported; reinstall tokenizers")
        for name in ("norm_of_each_position", "pooled"):
            pairs = zip(found[name] or [], kept[name] or [], strict=True)
            if not all(math.isclose(a, b, rel_tol=STORED_TOLERANCE, abs_tol=STORED_TOLERANCE) for a, b in pairs):
                raise DataError(f"{repository.folder}: {kept['prompt']!r} gets another {name} here than where it was exported; please report this")


def show(found: dict[str, Any]) -> None:
    print(f"{found['repository']}: {found['pipeline']}, " + ", ".join(f"{name} {version}" for name, version in found["stack"].items()))
    checked = f"{found['files_with_right_digest']} files have their digest" if found["files_with_right_digest"] else "no verification.json"
    print(f"  {checked}")
    for row in found["prompts"]:
        print(f"  {row['relative_difference']:.1e}  {row['prompt'][:40]!r}")
    print(f"verified: largest relative difference {found['largest_relative_difference']:.1e}, {found['tolerance']:.0e} allowed")


def main(argv: list[str] | None = None) -> int:
    def body() -> None:
        parser = argparse.ArgumentParser(prog="python -m distill.verify", description=DESCRIPTION, allow_abbrev=False)
        parser.add_argument("repository", help="a folder or a hub name")
        parser.add_argument("--variant", choices=("fp16", "bf16"), help="the half-precision weights instead of the fp32 ones")
        parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there too")
        arguments = parser.parse_args(argv)
        found = verify(arguments.repository, arguments.variant)
        if arguments.json:
            with whole(arguments.json) as temporary:
                write_json(temporary, found)
        show(found)

    return command.guard("distill.verify", body)


if __name__ == "__main__":
    raise SystemExit(main())
