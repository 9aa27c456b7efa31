"""How a user names a model, and how a library's error becomes a part of one line.

In and out: strings; nothing is read.
"""

from pathlib import Path
from typing import Any

from pydantic_core import CoreSchema, core_schema

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


class ModelName(str):
    """A model as a recipe or a command names it: a path, a hub name, or `toyworld:NAME`.

    As a string it is what was written, so that files and digests name no machine's folders.
    """

    @property
    def path(self) -> str:
        """Where libraries find it: the folder of a toyworld model, else the name itself."""
        if self.startswith("toyworld:"):
            return str(TOYWORLD_MODELS / self.removeprefix("toyworld:"))
        return str(self)

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: Any) -> CoreSchema:
        return core_schema.no_info_after_validator_function(
            cls,
            core_schema.str_schema(),
            serialization=core_schema.plain_serializer_function_ser_schema(str),
        )
