"""What the base of a recipe decides: the family of its text encoders, and the settings that follow.

In:  `distill.base`: a folder, `toyworld:NAME` or a hub name, of which `model_index.json` is read
     (fetched where it is not in the hub's cache).
Out: a `Family`; the recipe with what it leaves open settled.
"""

from functools import cache
from pathlib import Path

from huggingface_hub import try_to_load_from_cache

from configs.errors import RecipeError
from configs.references import ModelName
from configs.schema.recipe import Recipe
from distill.encoders.family import FAMILIES, Family
from distill.sdxl.repository import INDEX, family_in, fetch


def settled(recipe: Recipe) -> tuple[Recipe, Family]:
    """The recipe as it is for its base, and the base's family.

    Where the family has no pooled state, the weight of `pooled` is 0 unless the recipe sets it.
    Raises RecipeError for settings that the family has no use for, DataError for a base that is
    missing or of no family.
    """
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
    """Of a folder, `toyworld:NAME` or a hub name. Raises DataError."""
    published = (family for family in FAMILIES if reference in family.published)
    folder = Path(ModelName(reference).path)
    return family_in(folder) if folder.is_dir() else next(published, None) or _on_hub(reference)


@cache
def _on_hub(reference: str) -> Family:
    found = try_to_load_from_cache(reference, INDEX) if reference.count("/") == 1 else None
    return family_in(Path(found).parent if isinstance(found, str) else fetch(reference, [INDEX]))
