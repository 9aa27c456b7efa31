"""Is this repository what was trained, and does it work on this machine?

For exporters, and for users after a download.
"""

import math
from typing import Any

from configs import artefact
from configs.errors import DataError
from configs.languages import LANGUAGES
from distill.sdxl import repository
from distill.sdxl.repository import Repository
from distill.verify import readings
from distill.verify.readings import PromptStates
from distill.verify.record import VERIFICATION, Prompt, Verification

# of a state's norm: another machine's sums, against the few numbers that verification.json keeps
STORED_TOLERANCE = 1e-3


def verify(reference: str, variant: str | None = None) -> dict[str, Any]:
    """What was found; `largest_relative_difference` over all prompts is at most
    `verification.TOLERANCE`. Raises DataError otherwise.
    """
    folder = repository.fetch(reference)
    opened = repository.open_folder(folder)
    path, way_out = folder / VERIFICATION, "fetch the repository again"
    stored = Verification.read(path, way_out) if path.is_file() else None
    if stored:
        artefact.check_files(folder, stored.files, way_out, path.name)
    prompts = _prompts(stored)
    for encoder in opened.encoders:
        readings.check_portable(encoder)
    stock, trained = (
        readings.stock_reading(opened, prompts, variant),
        readings.trainers_reading(opened, prompts, variant),
    )
    difference = stock.difference(trained)
    for prompt, found in zip(prompts, difference, strict=True):
        if not found <= readings.TOLERANCE:
            raise DataError(
                f"{reference}: the pipeline gives other states than were trained for {prompt!r} "
                f"(by {found:.1e}); export it again"
            )
    if stored and variant is None:
        check_stored(opened, stock, prompts, stored.prompts)
    return {
        "repository": reference,
        "pipeline": opened.pipeline,
        "stack": readings.versions(),
        "files_with_right_digest": len(stored.files) if stored else 0,
        "tolerance": readings.TOLERANCE,
        "largest_relative_difference": max(difference),
        "prompts": [
            {"prompt": prompt, "relative_difference": found}
            for prompt, found in zip(prompts, difference, strict=True)
        ],
        "made_from": stored.made_from if stored else None,
    }


def _prompts(stored: Verification | None) -> tuple[str, ...]:
    """Those of the language that the exporter verified, Japanese where none is on record."""
    kept = {row.prompt for row in stored.prompts} - {""} if stored else set()
    found = (one.verification_prompts for one in LANGUAGES.values())
    return next((prompts for prompts in found if kept & set(prompts)), readings.PROMPTS)


def check_stored(
    repository: Repository, reading: PromptStates, prompts: tuple[str, ...], stored: list[Prompt]
) -> None:
    """Compares with what the exporter's machine gave. Raises DataError."""
    found = {row.prompt: row for row in readings.rows(repository, reading, prompts)}
    if not any(kept.prompt in found for kept in stored):
        raise DataError(
            f"{repository.folder}: {VERIFICATION} holds none of this version's prompts; export it "
            "again"
        )
    for kept in stored:
        if (here := found.get(kept.prompt)) is None:
            continue
        if here.input_ids != kept.input_ids:
            raise DataError(
                f"{repository.folder}: {kept.prompt!r} gets other token ids here than where it was "
                "exported; reinstall tokenizers"
            )
        for name in ("norm_of_each_position", "pooled"):
            mine, theirs = getattr(here, name) or [], getattr(kept, name) or []
            if len(mine) != len(theirs) or not all(map(_is_close, mine, theirs)):
                raise DataError(
                    f"{repository.folder}: {kept.prompt!r} gets another {name} here than where it "
                    "was exported; please report this"
                )


def _is_close(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=STORED_TOLERANCE, abs_tol=STORED_TOLERANCE)


def show(found: dict[str, Any]) -> None:
    print(
        f"{found['repository']}: {found['pipeline']}, "
        + ", ".join(f"{name} {version}" for name, version in found["stack"].items())
    )
    checked = (
        f"{found['files_with_right_digest']} files have their digest"
        if found["files_with_right_digest"]
        else "no verification.json"
    )
    print(f"  {checked}")
    for row in found["prompts"]:
        print(f"  {row['relative_difference']:.1e}  {row['prompt'][:40]!r}")
    print(
        f"verified: largest relative difference {found['largest_relative_difference']:.1e}, "
        f"{found['tolerance']:.0e} allowed"
    )
