"""What a training run was begun with, and whether what lies in its folder is still made from that.

In/out: `<run>/distill/config.yaml`: the recipe as it was last given; `<run>/distill/run.json`: the
        version of the code, and digests of the settings and of every input the run began with
        (pairs, initial student, teacher, UNets).

Settings that are `harmless` change no number and no byte of the result: they may change when a run
is resumed, and `config.yaml` then holds the new values. Any other change is refused.
"""

import sys
from collections.abc import Mapping
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any, NamedTuple

from configs import artefact
from configs.artefact import CODE_VERSION
from configs.errors import DataError, RecipeError, one_line
from configs.files import value_sha256, whole
from configs.records import SealedRecord
from configs.schema.load import dump_recipe, load_recipe
from configs.schema.recipe import Recipe
from configs.secrets import masked_tree

CONFIG, RECORD = "config.yaml", "run.json"
PACE = (
    "keep_checkpoints",
    "save_every_steps",
    "log_every_steps",
    "eval_every_steps",
    "hung_after_seconds",
)


class Scope(NamedTuple):
    """Which sections of a recipe a training depends on (export and eval may change under a finished
    one), and which of their settings change no number of it.
    """

    sections: tuple[str, ...]
    harmless: tuple[str, ...]


# Not `compile` or `tokens_per_micro_batch`: they change the order in which numbers are added up.
DISTILLING = Scope(
    ("corpora", "vocab_init", "distill"),
    ("corpora.workers", "corpora.executor", *(f"distill.{name}" for name in PACE)),
)


class Run(SealedRecord):
    """`inputs`: a digest by the name of each input, as a user would call it."""

    code_version: str
    settings_sha256: str
    inputs: dict[str, str]


def claim_run(recipe: Recipe, run: Path, scope: Scope = DISTILLING) -> None:
    """Writes `config.yaml`; raises DataError when `run` (`<run>/distill`) holds another recipe's
    run.
    """
    path, record = run / CONFIG, _record(run)
    same = record is not None and record.settings_sha256 == _settings_sha256(recipe, scope)
    problem = _config_problem(path, recipe, scope)
    # A version that knows more settings has another digest of the same ones: then `config.yaml`
    # decides.
    if problem is None and not same and record is not None and record.code_version == CODE_VERSION:
        problem = "its settings are not those this run began with"
    if problem is not None and not same and (path.exists() or has_checkpoints(run)):
        if record is not None and record.code_version != CODE_VERSION:
            problem += f"; it was written by version {record.code_version}, this is {CODE_VERSION}"
        raise DataError(
            f"{run}: holds another recipe's run ({problem}); give run=ANOTHER_FOLDER or the old "
            "value"
        )
    if problem is not None and same:
        _say(f"{path}: {problem}; written again, for {RECORD} says the settings are this recipe's")
    text = dump_recipe(recipe)
    if problem is not None or path.read_text(encoding="utf-8") != text:
        run.mkdir(parents=True, exist_ok=True)
        with whole(path) as temporary:
            temporary.write_text(text, encoding="utf-8")


def read_config(run: Path) -> Recipe:
    """The recipe that was trained. Raises DataError."""
    path, record = run / CONFIG, _record(run)
    try:
        recipe = load_recipe(path)
    except RecipeError as error:
        problem = one_line(str(error).removeprefix(f"{path}: "), 300)
    else:
        if (
            record is None
            or record.code_version != CODE_VERSION
            or record.settings_sha256 == _settings_sha256(recipe, DISTILLING)
        ):
            return recipe
        problem = "its settings are not those this run began with"
    by = (
        f", written by version {record.code_version}, this is {CODE_VERSION}"
        if record is not None
        else ""
    )
    raise DataError(
        f"{path}: {problem}{by}; run python -m distill.train with the run's recipe, which writes "
        "it again"
    )


def check_inputs(run: Path, inputs: Mapping[str, str]) -> bool:
    """Whether the inputs are on record as those the run began with, or it has no checkpoint yet.

    False: it has checkpoints and its record is missing or damaged. Raises DataError naming an input
    that has changed.
    """
    if not has_checkpoints(run):
        return True
    record = _record(run)
    if record is None:
        return False
    for name, digest in inputs.items():
        if record.inputs.get(name) != digest:
            raise _changed(run, name)
    return True


def record_inputs(
    recipe: Recipe, run: Path, inputs: Mapping[str, str], scope: Scope = DISTILLING
) -> None:
    """Writes `run.json` unless it says the same.

    Call it once all that is made from the inputs has been checked or made.
    """
    record = Run.seal(
        code_version=CODE_VERSION,
        settings_sha256=_settings_sha256(recipe, scope),
        inputs=dict(inputs),
    )
    found = _record(run)
    if found is None and has_checkpoints(run):
        _say(f"{run / RECORD}: missing or damaged; written again, of the inputs that are there now")
    if found != record:
        record.write(run / RECORD)


def read_inputs(run: Path) -> dict[str, str]:
    """The digests of what the run began with. Raises DataError."""
    way_out = (
        "run python -m distill.train with this recipe, which checks the inputs and writes it again"
    )
    return Run.read(run / RECORD, way_out).inputs


def recorded_inputs(run: Path) -> dict[str, str]:
    """As `read_inputs`; empty where nothing is on record."""
    record = _record(run)
    return record.inputs if record is not None else {}


def must_be_made(folder: Path, made_from: Mapping[str, str], run: Path) -> bool:
    """Whether an artefact must be made, or made again: it is missing, damaged, or made from other
    inputs. Prints why.

    Raises DataError for an input that is not the one the run of `<run>/distill` began with.
    """
    known = check_inputs(run, made_from)
    if not folder.is_dir():
        if has_checkpoints(run):
            _say(f"{folder}: missing; it is made again")
        return True
    try:
        manifest = artefact.read(folder, "it is made again")
    except DataError as error:
        _say(str(error))
        return True
    name = artefact.changed(manifest, made_from)
    if name is not None and not known:
        raise _changed(run, name)
    if name is not None:
        _say(f"{folder}: {name} has changed since it was made; it is made again")
    return name is not None


def has_checkpoints(run: Path) -> bool:
    return any((run / "checkpoints").glob(f"step_*/{artefact.MANIFEST}"))


def _changed(run: Path, name: str) -> DataError:
    return DataError(
        f"{run}: {name} has changed since this run began; give run=ANOTHER_FOLDER, or put the old "
        "one back"
    )


def _record(run: Path) -> Run | None:
    """None where it is missing or damaged."""
    try:
        return Run.read(run / RECORD, "")
    except DataError:
        return None


def _config_problem(path: Path, recipe: Recipe, scope: Scope) -> str | None:
    """How a stored recipe differs from this one, or why it cannot be read; None where it says the
    same.
    """
    if not path.is_file():
        return f"{CONFIG} is missing"
    try:
        old, new = (_flat(_counted(one, scope)) for one in (load_recipe(path), recipe))
    except RecipeError as error:
        return f"{CONFIG} cannot be read: {one_line(str(error).removeprefix(f'{path}: '), 300)}"
    key = next((key for key in sorted(old | new) if old.get(key) != new.get(key)), None)
    return f"{key} was {old.get(key)!r}, is {new.get(key)!r}" if key is not None else None


def _settings_sha256(recipe: Recipe, scope: Scope) -> str:
    return value_sha256(_counted(recipe, scope))


def _counted(recipe: Recipe, scope: Scope) -> dict[str, Any]:
    """The settings that a run's numbers depend on."""
    tree = recipe.model_dump(mode="json", include=set(scope.sections))
    for name in scope.harmless:
        *sections, key = name.split(".")
        del reduce(getitem, sections, tree)[key]
    return dict(masked_tree(tree))  # `config.yaml` holds no secrets, so they cannot be compared


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {
        key: value
        for name, child in tree.items()
        for key, value in _flat(child, f"{prefix}.{name}" if prefix else name).items()
    }


def _say(text: str) -> None:
    print(one_line(text), file=sys.stderr)
