"""A checkpoint in one file: which tensors it holds, before any of them is read.

In:  safetensors, or a torch file (`.ckpt`) that holds nothing but tensors, plain values and
     containers of them. What the bytes are decides, not the file's ending.
Out: `CheckpointFile`: type and shape by the file's own names; tensors mapped from disk on demand.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from configs import model_folder
from configs.errors import DataError, explained, first_line

GGUF, ZIP, PICKLE = b"GGUF", b"PK\x03\x04", b"\x80"  # the first bytes of each
SAFETENSORS_TYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64"}


class StoredTensor(NamedTuple):
    """`dtype` as safetensors calls it: "F32", "F16", "BF16", ..."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class CheckpointFile:
    path: Path
    entries: dict[str, StoredTensor]
    _loaded: dict[str, Any] = field(default_factory=dict, repr=False)  # of a torch file

    def tensors(self, names: Iterable[str]) -> dict[str, Any]:
        """These tensors, mapped from disk. Raises DataError."""
        if self._loaded:
            return {name: self._loaded[name] for name in names}
        from safetensors import safe_open

        with (
            explained(f"{self.path}: cannot be read", "fetch it again"),
            safe_open(self.path, "pt") as file,
        ):
            return {name: file.get_tensor(name) for name in names}


def open_checkpoint(path: Path) -> CheckpointFile:
    """Raises DataError for what is missing, truncated, or no file of tensors."""
    try:
        with open(path, "rb") as file:
            start = file.read(4)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    if start == GGUF:
        raise DataError(
            f"{path}: a GGUF file, whose weights are quantised; give the checkpoint it was made "
            "from, in fp16, bf16 or fp32"
        )
    if start == ZIP or start[:1] == PICKLE:
        return _torch_file(path)
    return CheckpointFile(
        path,
        {
            name: StoredTensor(dtype, tuple(shape))
            for name, (dtype, shape) in model_folder.typed_header(path, whole=True).items()
        },
    )


def _torch_file(path: Path) -> CheckpointFile:
    """Never unpickled: `weights_only` refuses what is no tensor, number, text or container."""
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        state = content.get("state_dict", content)  # CompVis' training wraps the weights
        tensors = {name: one for name, one in state.items() if isinstance(one, torch.Tensor)}
    except (
        Exception
    ) as error:  # many kinds: damaged, an old format, a class that is none of torch's
        raise DataError(
            f"{path}: a pickle that is damaged or holds more than tensors, which could run any code"
            f" ({first_line(error)}); give its safetensors, or convert it where you trust it"
        ) from None
    entries = {}
    for name, tensor in tensors.items():
        kind = str(tensor.dtype).removeprefix("torch.")
        entries[name] = StoredTensor(SAFETENSORS_TYPES.get(kind, kind.upper()), tuple(tensor.shape))
    return CheckpointFile(path, entries, tensors)
