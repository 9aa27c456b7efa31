"""What the base of a recipe decides: the family of its text encoders, and the settings that follow.

In:  `distill.base`: a folder, `toyworld:NAME` or a hub name, of which `model_index.json` is read
     (fetched where it is not in the hub's cache); or a single file, of which the header is read.
Out: a `Family`; the recipe with what it leaves open settled, and its single files unpacked.
"""

from collections.abc import Iterable
from functools import cache
from pathlib import Path

from huggingface_hub import try_to_load_from_cache

from configs.errors import RecipeError
from configs.references import ModelName, is_single_file
from configs.schema.recipe import Recipe
from distill.encoders.family import FAMILIES, Family
from distill.sdxl.repository import INDEX, family_in, fetch
from distill.unpack import door


def settled(recipe: Recipe, unpack: bool = True) -> tuple[Recipe, Family]:
    """The recipe as it is for its base, and the base's family.

    `unpack`: single files among the pipelines of `distill` are unpacked where they are not yet, so
    that `ModelName.path` leads to a folder; a plan, which reads shapes alone, leaves them.

    Where the family has no pooled state, the weight of `pooled` is 0 unless the recipe sets it.
    Raises RecipeError for settings that the family has no use for, DataError for a base that is
    missing or of no family.
    """
    recipe, family = _settled(recipe)
    if unpack:
        unpack_files(recipe.distill.unets.values())
    return recipe, family


def unpack_files(references: Iterable[ModelName]) -> None:
    """Unpacks the single files among them, so that `path` of each leads to a folder.

    Raises DataError.
    """
    for reference in references:
        if is_single_file(reference):
            fetch(reference)


def _settled(recipe: Recipe) -> tuple[Recipe, Family]:
    settings, family = recipe.distill, family_of(recipe.distill.base)
    what = f"{settings.base} is an {family.name}"
    if settings.refiner is not None and "refiner" not in family.readers:
        raise RecipeError(f"distill.refiner: {what}, which has no refiner; leave it out")
    if family.pooled:
        return recipe, family
    objective = settings.objective
    if "pooled" not in objective.model_fields_set:
        objective = objective.model_copy(update={"pooled": 0.0})
    if objective.uses("pooled"):
        raise RecipeError(
            f"distill.objective.pooled: {what}, whose UNet reads no pooled state; leave it out"
        )
    if not any(objective.uses(name) for name in type(objective).model_fields):
        raise RecipeError("distill.objective: every weight is 0, so nothing would be learnt")
    settings = settings.model_copy(update={"objective": objective})
    return recipe.model_copy(update={"distill": settings}), family


def family_of(reference: str) -> Family:
    """Of a folder, `toyworld:NAME`, a single file or a hub name. Raises DataError."""
    if Path(reference).is_file():
        return door.family_of_file(Path(reference))
    published = (family for family in FAMILIES if reference in family.published)
    folder = Path(ModelName(reference).path)
    return family_in(folder) if folder.is_dir() else next(published, None) or _on_hub(reference)


@cache
def _on_hub(reference: str) -> Family:
    found = try_to_load_from_cache(reference, INDEX) if reference.count("/") == 1 else None
    return family_in(Path(found).parent if isinstance(found, str) else fetch(reference, [INDEX]))
