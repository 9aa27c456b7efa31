"""The weights of one part of a model's folder: in which files they lie, and under which variant.

In:  a folder in the layout of transformers or diffusers: one `STEM.safetensors`, shards with their
     index, or, where a repository was published in half precision alone, the same with a variant
     in the names (`STEM.fp16.safetensors`).
Out: a `StoredWeights`, or one `DataError` line that names what lies there instead.

Which precision a file holds is not told by its name: community models keep fp16 under the plain
one. So no reader relies on it; each asks for the precision it computes in.
"""

from dataclasses import dataclass
from pathlib import Path

from configs import model_folder
from configs.errors import DataError
from configs.files import inside
from configs.model_folder import weight_map

ENCODER_STEM, DIFFUSERS_STEM = "model", "diffusion_pytorch_model"
# Looked for in this order where there is no plain file: the most exact first.
VARIANTS = ("fp32", "fp16", "bf16")


@dataclass(frozen=True)
class StoredWeights:
    """`variant`: as `from_pretrained` takes it, None for plain names. `index`: the shards' list,
    None where the weights are one file.
    """

    folder: Path
    stem: str
    variant: str | None
    index: Path | None
    files: tuple[Path, ...]

    @property
    def plain_names(self) -> dict[str, Path]:
        """The files by names that a reader without a `variant` looks for; an index gives the names
        of its shards itself.
        """
        if self.index is None:
            return {f"{self.stem}.safetensors": self.files[0]}
        shards = {path.name: path for path in self.files}
        return {f"{self.stem}.safetensors.index.json": self.index, **shards}

    @property
    def read(self) -> list[Path]:
        """All that a loader reads: the config, the weights, the shards' index."""
        index = [self.index] if self.index else []
        return sorted({self.folder / "config.json", *self.files, *index})

    def holder(self, *names: str) -> Path:
        """The file that holds a tensor, by the index; the only one where there is no index.

        `names`: what it may be called. Raises DataError for a tensor that the index does not list.
        """
        if self.index is None:
            return self.files[0]
        shards = weight_map(self.index)
        for name in names:
            if name in shards:
                return inside(self.folder, shards[name])
        raise DataError(f"{self.index}: lists no {names[0]}; fetch the folder again")


def find(folder: Path, stem: str = ENCODER_STEM, wanted: str | None = None) -> StoredWeights:
    """The weights that a loader is to read of `folder`; `wanted`: those of this variant, no other.

    Raises DataError where there are none.
    """
    for variant in (wanted,) if wanted else (None, *VARIANTS):
        if (found := _of_variant(folder, stem, variant)) is not None:
            return found
    pickles = sorted(found for pattern in model_folder.PICKLES for found in folder.glob(pattern))
    if pickles:
        raise DataError(
            f"{pickles[0]}: pickle weights can run code when loaded; convert them to "
            f"{stem}.safetensors where you trust them"
        )
    name = f"{stem}.{wanted}" if wanted else stem
    raise DataError(f"{folder / name}.safetensors: missing; fetch the folder again")


def variant_of(folder: str | Path, stem: str = ENCODER_STEM) -> str | None:
    """The `variant` that `from_pretrained` must be given to find any weights there; None for plain
    ones, and where there is nothing to look at (a hub name, a folder whose weights the library is
    to miss in its own words).
    """
    try:
        return find(Path(folder), stem).variant
    except DataError:
        return None


def file_names(stem: str, variant: str | None) -> tuple[str, str]:
    """Of the weights in one file, and of the shards' index."""
    dotted = f".{variant}" if variant else ""
    return f"{stem}{dotted}.safetensors", f"{stem}.safetensors.index{dotted}.json"


def _of_variant(folder: Path, stem: str, variant: str | None) -> StoredWeights | None:
    single, index = (folder / name for name in file_names(stem, variant))
    # Where both lie there, diffusers reads the index and transformers the single file.
    if index.is_file() and (stem == DIFFUSERS_STEM or not single.is_file()):
        shards = sorted({inside(folder, name) for name in weight_map(index).values()})
        return StoredWeights(folder, stem, variant, index, tuple(shards))
    if single.is_file():
        return StoredWeights(folder, stem, variant, None, (single,))
    return None
