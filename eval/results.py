"""Result files: written whole, made once for the same inputs, never over another recipe's.

In and out: JSON files below `<run>/eval/`, each with the `recipe` that made it and the `fingerprint` of what it was made from.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from configs.errors import DataError
from configs.files import whole


def fingerprint(settings: dict[str, Any], sources: Iterable[str | Path]) -> str:
    """Changes with the settings and with any file below the source folders (its name, size or time of change), but for a model card and its
    pictures: those are written from the results.

    Sizes and times, not contents: an encoder of SDXL holds gigabytes. A hub name stands for itself.
    """
    files: list[Any] = []
    for source in map(Path, sources):
        found = sorted(path for path in source.rglob("*") if path.is_file()) if source.is_dir() else []
        loaded = [path for path in found if path.name != "README.md" and path.parent.name != "images"]
        files += [[str(path.relative_to(source)), path.stat().st_size, path.stat().st_mtime_ns] for path in loaded] or [str(source)]
    return hashlib.sha256(json.dumps([settings, files], sort_keys=True).encode()).hexdigest()


def read(path: Path, made_by: str) -> dict[str, Any]:
    """A finished result. Raises DataError naming the command that makes it."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: not there yet; make it with: {made_by}") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}); delete it and run: {made_by}") from None
    if not isinstance(result, dict):
        raise DataError(f"{path}: holds {type(result).__name__}, not a mapping; delete it and run: {made_by}")
    return result


def finished(path: Path, recipe_name: str, digest: str, made_by: str) -> bool:
    """Whether `path` holds the result of these very inputs. Raises DataError when another recipe made it."""
    if not path.exists():
        return False
    result = read(path, made_by)
    if result.get("recipe") != recipe_name:
        other = result.get("recipe")
        raise DataError(f"{path}: made by the recipe {other!r}, this one is {recipe_name!r}; give this recipe a `run` folder of its own")
    return result.get("fingerprint") == digest


def write(path: Path, result: dict[str, Any]) -> None:
    write_bytes(path, (json.dumps(result, ensure_ascii=False, indent=1, allow_nan=False) + "\n").encode())


def write_bytes(path: Path, content: bytes) -> None:
    """The file appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as temporary:
        temporary.write_bytes(content)
