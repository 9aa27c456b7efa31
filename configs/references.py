"""How a user names a model, and how a library's error becomes a part of one line.

In and out: strings; nothing is read and no library is imported.
"""

from pathlib import Path

from configs.errors import first_line

TOYWORLD_MODELS = Path(__file__).resolve().parent.parent / "corpora" / "toyworld" / "models"


def looks_like_hub_name(name: str | Path) -> bool:
    """`organisation/model`: one slash, neither a path that starts at a root nor a relative one.

    What is there under the whole name is a path; a folder called like the organisation is none.
    """
    text = str(name)
    one_slash = text.count("/") == 1 and all(text.split("/"))
    return one_slash and not text.startswith((".", "~")) and not Path(text).exists()


def not_given(name: str, error: BaseException) -> str:
    """The beginning of a line about a hub name that the hub did not give: it may be a path with a
    mistake in it."""
    why = first_line(error)
    return f"{name}: there is no such folder, and it cannot be fetched from the hub ({why})"


def resolve_model(reference: str) -> str:
    """`toyworld:NAME` becomes the path of a model that ships with the project; anything else is
    returned as it is.
    """
    if reference.startswith("toyworld:"):
        return str(TOYWORLD_MODELS / reference.removeprefix("toyworld:"))
    return reference
