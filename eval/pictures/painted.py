"""Which pictures of a folder were painted, from what, and whether they are still as they were
painted.

In/out: `<folder>/inputs.json`: the recipe and the fingerprint of what the pictures are made from,
and the SHA-256 of each picture.
"""

from pathlib import Path
from typing import Any

from configs.errors import DataError
from configs.files import file_sha256, inside
from eval import results

INPUTS = "inputs.json"
COMMAND = "python -m eval.generate RECIPE"


def is_of(folder: Path, inputs: dict[str, Any]) -> bool:
    """Whether the pictures there are made from these inputs.

    Raises DataError when they are another recipe's.
    """
    return results.finished(folder / INPUTS, inputs["recipe"], inputs["fingerprint"], COMMAND)


def digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of every painted picture, by its name; empty before the first.

    Raises DataError for a damaged record.
    """
    if not (folder / INPUTS).exists():
        return {}
    found = results.read(folder / INPUTS, COMMAND).get("pictures", {})
    if not isinstance(found, dict):
        raise DataError(
            f'{folder / INPUTS}: has no digests under "pictures"; delete it and run: {COMMAND}'
        )
    return {str(name): str(digest) for name, digest in found.items()}


def record(folder: Path, inputs: dict[str, Any], pictures: dict[str, str]) -> None:
    results.write(folder / INPUTS, {**inputs, "pictures": pictures})


def is_whole(path: Path, pictures: dict[str, str]) -> bool:
    """Whether a picture is there as it was painted."""
    return path.name in pictures and path.is_file() and file_sha256(path) == pictures[path.name]


def all_whole(rows: Path) -> bool:
    """Whether all pictures of all folders in `rows` are there as they were painted.

    Raises DataError for a damaged record.
    """
    for folder in sorted(path.parent for path in rows.glob(f"*/{INPUTS}")):
        known = digests(folder)
        if not all(is_whole(inside(folder, name), known) for name in known):
            return False
    return True


def check(path: Path) -> None:
    """Raises DataError for a picture that is missing, or not as it was painted."""
    known = digests(path.parent)
    if not path.is_file() or (path.name in known and file_sha256(path) != known[path.name]):
        raise DataError(f"{path}: missing, or changed since it was painted; run: {COMMAND}")
