"""A safetensors file written tensor by tensor: the library's own writer wants all of them in memory
at once.

The format: 8 bytes with the header's length, the header as JSON (dtype, shape and place of every
tensor), then the tensors' bytes.

Out: one file of fp32 tensors that safetensors reads, on disk when `close` returns, and its SHA-256.
"""

import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

WORD = 4  # bytes of an fp32 number


class TensorFile:
    """Takes the tensors in the order of `shapes`.

    One is written and digested while the next is fetched: two are in memory.

    What the operating system refuses is raised by `close` alone: until then the process goes on as
    the others do, which gather the tensors together with it.
    """

    def __init__(self, path: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._left = list(shapes.items())
        self._digest = hashlib.sha256()
        self._threads = ThreadPoolExecutor(2)
        self._pending: list[Future[object]] = []
        self._error: OSError | None = None
        try:
            self._file = open(path, "wb")  # noqa: SIM115 (closed by close)
        except OSError as error:
            self._error = error
        self._put(_header(shapes))

    def write(self, name: str, tensor: torch.Tensor) -> None:
        """`tensor`: fp32, on the CPU, contiguous; it must not change until the next call."""
        expected = self._left.pop(0)
        assert (name, tuple(tensor.shape)) == expected and tensor.dtype == torch.float32, (
            f"{name} instead of {expected}"
        )
        self._put(tensor.detach().reshape(-1).view(torch.uint8).numpy())

    def close(self) -> str:
        """The file's SHA-256, when all its bytes are on disk. Raises OSError."""
        self._wait()
        self._threads.shutdown()
        if self._error is None:
            assert not self._left, f"not written: {self._left[:3]}"
            self._try(self._file.flush)
            self._try(lambda: os.fsync(self._file.fileno()))
        if hasattr(self, "_file"):
            with suppress(OSError):  # the first error is the one to tell
                self._file.close()
        if self._error is not None:
            raise self._error
        return self._digest.hexdigest()

    def _put(self, data: object) -> None:
        self._wait()
        if self._error is None:
            tasks: list[Callable[[Any], object]] = [self._file.write, self._digest.update]
            self._pending = [self._threads.submit(task, data) for task in tasks]

    def _wait(self) -> None:
        for task in self._pending:
            self._try(task.result)
        self._pending = []

    def _try(self, action: Callable[[], object]) -> None:
        try:
            action()
        except OSError as error:
            self._error = self._error or error


def _header(shapes: Mapping[str, tuple[int, ...]]) -> bytes:
    header: dict[str, object] = {
        "__metadata__": {"format": "pt"}
    }  # transformers reads no file without it
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + WORD * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the tensors begin at a multiple of 8
    return len(text).to_bytes(8, "little") + text
