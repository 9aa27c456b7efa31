"""Which repositories paint: a base of any family, and SDXL's refiner.

In:  a folder or a hub name, fetched where it is not there.
Out: the repository, checked before anything in it is loaded.
"""

from pathlib import Path

from configs.errors import DataError
from distill.encoders.family import SDXL
from distill.sdxl import repository
from distill.sdxl.repository import INDEX, Repository

# of a hub repository: the folders' weights, not the same again in one file for other programs
FILES = ["*.json", "*/*.safetensors", "*.txt"]


def base(reference: str) -> Repository:
    """What paints from text. Raises DataError for one of another kind."""
    found = _opened(reference)
    family = found.family
    # an image-to-image pipeline is a refiner where there are refiners, else the same models
    usable = family.pipelines[: 1 if "refiner" in family.readers else 2]
    if found.pipeline not in usable:
        raise DataError(
            f"{found.folder / INDEX}: a {found.pipeline}, where a {usable[0]} is needed; give an "
            "SDXL base, and its refiner with --refiner"
        )
    return found


def refiner(reference: str) -> Path:
    """The folder of what paints an SDXL's last steps. Raises DataError likewise."""
    found, wanted = _opened(reference), SDXL.pipelines[1]
    if found.pipeline != wanted:
        raise DataError(
            f"{found.folder / INDEX}: a {found.pipeline}, where a {wanted} is needed; give an SDXL "
            "refiner with --refiner"
        )
    return found.folder


def _opened(reference: str) -> Repository:
    found = repository.open_folder(repository.fetch(reference, FILES, repository.SECOND_COPIES))
    if not found.index:
        name = found.family.name
        raise DataError(
            f"{found.folder}: holds text encoders alone; put them into an {name} with: python -m "
            f"distill.export RECIPE --assemble ORG/{name}"
        )
    return found
