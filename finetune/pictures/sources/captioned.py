"""What every source of pictures gives, and what their readers share: files below a folder, and
captions out of tables.
"""

import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from configs.errors import RecipeError
from configs.files import inside
from corpora.captions.images import MAX_BYTES

MISSING, OUTSIDE, TOO_MANY_BYTES = "missing", "outside_the_folder", "too_many_bytes"
UNREADABLE = "unreadable"


class NotThere(Exception):
    """A picture that cannot be had; its text is the reason."""


@dataclass
class CaptionedPicture:
    """One picture of a source with all captions that stand beside it there.

    `file`: its name in the source. `load` gives its bytes, or raises NotThere; it may be called
    until the next picture is asked for.
    """

    file: str
    load: Callable[[], bytes]
    texts: list[str] = field(default_factory=list)
    en: list[str] = field(default_factory=list)


@dataclass
class Said:
    """The captions of a picture, in the student's language and in English."""

    texts: list[str] = field(default_factory=list)
    en: list[str] = field(default_factory=list)

    def add(self, texts: Any, en: Any = None) -> None:
        """Values of a table's columns: a text, a list of texts, or nothing."""
        self.texts += texts_of(texts)
        self.en += texts_of(en)


def texts_of(value: Any) -> list[str]:
    """The texts of a column's value, without those that are empty."""
    values = value if isinstance(value, list) else [value]
    return [" ".join(one.split()) for one in values if isinstance(one, str) and one.strip()]


def nothing(reason: str) -> Callable[[], bytes]:
    """The `load` of a picture that is known not to be there."""

    def load() -> bytes:
        raise NotThere(reason)

    return load


def of_file(root: Path, name: str) -> CaptionedPicture:
    """A picture below a folder. Raises DataError for a name that leads out of it."""
    inside(root, name)
    return CaptionedPicture(name, lambda: _content(root, name))


def located(root: Path, name: str) -> Path:
    """Where the file is; macOS and archives write が as one character or as two."""
    forms = (name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD")))
    paths = [inside(root, form) for form in forms]
    return next((path for path in paths if path.exists()), paths[0])


def _content(root: Path, name: str) -> bytes:
    try:
        path = located(root, name).resolve(strict=True)
    except (OSError, RuntimeError):  # RuntimeError: a circle of links
        raise NotThere(MISSING) from None
    if not path.is_relative_to(root.resolve()):
        raise NotThere(OUTSIDE)  # through a link
    if not path.is_file():
        raise NotThere(MISSING)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise NotThere(TOO_MANY_BYTES)
        return path.read_bytes()
    except OSError:
        raise NotThere(UNREADABLE) from None


def check_column(wanted: str, columns: Iterable[str], where: Path | str) -> None:
    """Raises RecipeError for a column that is not there."""
    names = list(columns)
    if wanted not in names:
        raise RecipeError(
            f"{where}: there is no column {wanted!r} among {', '.join(names)[:200]!r}; correct the "
            "source in the recipe"
        )
