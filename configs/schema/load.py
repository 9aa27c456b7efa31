"""Reads a recipe: one YAML file and dotted overrides (`distill.learning_rate=3e-4`).

A recipe with the key `like: FILE` holds only what differs from that other recipe, whose path is
relative to its own.

Anything unknown, misspelt, missing or of the wrong type raises one `RecipeError` line that names
the field, the value and the way out.
"""

import difflib
import os
import reprlib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from configs.errors import RecipeError
from configs.schema import captions, corpora, executors, pictures, sources, yaml12
from configs.schema.recipe import Recipe
from configs.schema.section import Section
from configs.secrets import masked_tree

LIKE = "like"
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60
_SHORT.maxdict = _SHORT.maxlist = 6
_SHORT.maxlevel = 3


def load_recipe(path: str | Path, overrides: list[str] | None = None) -> Recipe:
    """Reads a recipe and applies `section.key=value` overrides. Raises RecipeError."""
    path = Path(os.path.expanduser(path))
    tree = _read(path)
    for override in overrides or []:
        _apply(tree, override)
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise RecipeError(f"{path}: {_one_line(error)}") from None


def _read(path: Path, before: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The file's tree over that of the recipe it is `like`. Raises RecipeError."""
    where = f"{before[-1]}: like" if before else str(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(
            f"{where}: the recipe cannot be read ({error}); give the path of a YAML file such as "
            "configs/toyworld.yaml"
        ) from None
    tree = _parse(text, str(path))
    if not isinstance(tree, dict):
        raise RecipeError(
            f"{path}: a recipe is a mapping of sections, this file holds {type(tree).__name__}; "
            "start from configs/toyworld.yaml"
        )
    if LIKE not in tree:
        return tree
    like = tree.pop(LIKE)
    if not isinstance(like, str):
        raise RecipeError(f"{path}: like: {_short(like)} is no file; name another recipe")
    other = path.parent / like
    if other.resolve() in {one.resolve() for one in (*before, path)}:
        raise RecipeError(f"{path}: like: {like} is like this one itself; name another recipe")
    found: dict[str, Any] = _over(tree, _read(other, (*before, path)))
    return found


def _over(own: Any, other: Any) -> Any:
    """Sections are joined key by key; lists and values are replaced."""
    if not isinstance(own, dict) or not isinstance(other, dict):
        return own
    return other | {key: _over(value, other.get(key)) for key, value in own.items()}


def dump_recipe(recipe: Recipe) -> str:
    """The resolved recipe as YAML, for a file: `load_recipe` of it gives an equal recipe but for
    secrets, which are masked.
    """
    return yaml12.write(masked_tree(recipe.model_dump(mode="json")))


def _parse(text: str, where: str) -> Any:
    try:
        return yaml12.read(text)
    except ValueError as error:
        raise RecipeError(f"{where}: not valid YAML{error}; correct that line") from None


def _apply(tree: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise RecipeError(
            f"override {override!r}: write it as section.key=value, for example distill.steps=100"
        )
    *parents, last = key.split(".")
    node: Any = tree
    for name in parents:
        node = _child(node, name, key)
        if node is None:
            raise RecipeError(
                f"override {override!r}: the recipe has nothing at {name!r}; write the whole "
                "section in the recipe first"
            )
    parsed = _parse(value, f"override {override!r}")
    if isinstance(node, list):
        node[_index(node, last, key)] = parsed
    elif isinstance(node, dict):
        node[last] = parsed
    else:
        above = ".".join(parents)
        raise RecipeError(
            f"override {override!r}: {above} holds a single value, it has no key {last!r}; "
            f"override {above} itself"
        )


def _child(node: Any, name: str, key: str) -> Any:
    if isinstance(node, list):
        return node[_index(node, name, key)]
    if isinstance(node, dict):
        return node.setdefault(name, {})
    raise RecipeError(
        f"override {key!r}: {name!r} lies below a single value; see the recipe for the keys there "
        "are"
    )


def _index(node: list[Any], name: str, key: str) -> int:
    if name not in map(str, range(len(node))):
        raise RecipeError(
            f"override {key!r}: {name!r} is not one of the {len(node)} entries there; count them "
            "from 0"
        )
    return int(name)


def _one_line(error: ValidationError) -> str:
    """The first of pydantic's complaints as `field: what, value; way out`."""
    first = error.errors()[0]
    # a union puts the kind it tried in the path (sources.0.tsv.path, sources.0.tsv.text.str): the
    # user wrote no such key
    location = [_cut(str(part)) for part in first["loc"]]
    kinds = _kinds(first["loc"])
    if location[:2] in (["corpora", "sources"], ["pictures", "sources"]):
        # but for the section that a source of tags has
        location = location[:3] + location[4 : 6 if location[4:5] == ["filters"] else 5]
    if location[:2] in (
        ["corpora", "executor"],
        ["corpora", "semantic"],
        ["captions", "images"],
    ):
        location = location[:2] + location[3:5]
    if location[:2] == ["distill", "objective"]:  # a number or a ramp: likewise
        location = location[:3]
    field = ".".join(location) or "recipe"
    value = _short(first.get("input"))
    more = f" ({error.error_count() - 1} more after this one)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        return (
            f"{field}: there is no such key (its value is {value}); {_nearest(first['loc'])}{more}"
        )
    if first["type"].startswith("union_tag"):
        kind = first["ctx"].get("tag")
        close = difflib.get_close_matches(str(kind), kinds, n=1)
        way_out = f"did you mean {close[0]!r}?" if close else f"the kinds are {', '.join(kinds)}"
        return (
            f"{field}.kind: "
            f"{'missing' if kind is None else f'there is no kind {_short(kind)}'}; "
            f"{way_out}{more}"
        )
    if first["type"] == "missing":
        return f"{field}: missing, and it has no default; add it{more}"
    if first["type"] == "value_error":
        return f"{first['msg'].removeprefix('Value error, ')}; change one of them{more}"
    return f"{field}: {first['msg']}, not {value}; correct the value{more}"


def _kinds(location: tuple[int | str, ...]) -> dict[str, type[Section]]:
    """The sections that `kind` chooses from at this place of a recipe."""
    kinds = {
        "corpora.sources": sources.KINDS,
        "corpora.executor": executors.KINDS,
        "corpora.semantic": corpora.SEMANTIC_KINDS,
        "captions.images": captions.IMAGE_KINDS,
        "pictures.sources": pictures.PICTURE_KINDS,
    }
    return kinds.get(".".join(map(str, location[:2])), {})


def _short(value: Any) -> str:
    """At most 60 characters; of long texts and large values only the beginning is looked at."""
    return _cut(_SHORT.repr(value))


def _cut(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


def _nearest(location: tuple[int | str, ...]) -> str:
    """What the user may have meant by an unknown key: the closest name among the keys of that
    section.
    """
    model: type[BaseModel] = Recipe
    for part in location[:-1]:
        if part in _kinds(location):
            model = _kinds(location)[str(part)]
        elif isinstance(part, str) and part in model.model_fields:
            annotation = model.model_fields[part].annotation
            options = [annotation, *getattr(annotation, "__args__", ())]
            found = [
                option
                for option in options
                if isinstance(option, type) and issubclass(option, BaseModel)
            ]
            model = found[0] if found else model
    names = list(model.model_fields)
    if (name := str(location[-1])).startswith("ja") and (renamed := f"text{name[2:]}") in names:
        return f"the student's language is called by its role: write {renamed!r}"
    close = difflib.get_close_matches(str(location[-1]), names, n=1)
    return f"did you mean {close[0]!r}?" if close else f"the keys are {', '.join(names)}"
