"""How a user names a model, and how a library's error becomes a part of one line.

In and out: strings; of a model in one file the SHA-256 is read, since it names its unpacked folder.
"""

from pathlib import Path
from typing import Any

from pydantic_core import CoreSchema, core_schema

from configs.errors import first_line
from configs.files import known_sha256

SINGLE_FILES = (".safetensors", ".ckpt")
CORPORA = Path(__file__).resolve().parent.parent / "corpora"
TOYWORLD_MODELS = CORPORA / "toyworld" / "models"
EMOJIWORLD_MODELS = CORPORA / "emojiworld" / "models"


def looks_like_hub_name(name: str | Path) -> bool:
    """`organisation/model`: one slash, neither a path that starts at a root nor a relative one.

    What is there under the whole name is a path; a folder called like the organisation is none.
    """
    text = str(name)
    one_slash = text.count("/") == 1 and all(text.split("/")) and not text.endswith(SINGLE_FILES)
    return one_slash and not text.startswith((".", "~")) and not Path(text).exists()


def is_single_file(name: str | Path) -> bool:
    """A checkpoint of a whole model in one file, as kohya's scripts, ComfyUI and the web UIs write
    it."""
    return str(name).endswith(SINGLE_FILES) and Path(name).is_file()


def unpacked_folder(file: Path) -> Path:
    """Where a single file lies in diffusers layout once distill/unpack has unpacked it: beside the
    hub's cache, named by its SHA-256. Raises DataError when the file cannot be read.
    """
    from huggingface_hub import constants

    # A number of its own for every layout: what an older version unpacked is not read as this one.
    return Path(constants.HF_HOME) / "sdxl-mother-tongue" / "unpacked-1" / known_sha256(file)


def not_given(name: str, error: BaseException) -> str:
    """The beginning of a line about a hub name that the hub did not give: it may be a path with a
    mistake in it."""
    why = first_line(error)
    return f"{name}: there is no such folder, and it cannot be fetched from the hub ({why})"


class ModelName(str):
    """A model as a recipe or a command names it: a path of a folder or of a single file, a hub
    name, `toyworld:NAME` or `emojiworld:NAME`.

    As a string it is what was written, so that files and digests name no machine's folders.
    """

    @property
    def path(self) -> str:
        """Where libraries find it: the folder of a model of ours or of an unpacked single file
        (which distill.sdxl.repository.fetch makes), else the name itself.
        """
        for world, models in (("toyworld:", TOYWORLD_MODELS), ("emojiworld:", EMOJIWORLD_MODELS)):
            if self.startswith(world):
                return str(models / self.removeprefix(world))
        if is_single_file(self):
            return str(unpacked_folder(Path(self)))
        return str(self)

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: Any) -> CoreSchema:
        return core_schema.no_info_after_validator_function(
            cls,
            core_schema.str_schema(),
            serialization=core_schema.plain_serializer_function_ser_schema(str),
        )
