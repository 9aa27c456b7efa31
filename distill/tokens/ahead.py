"""Makes what the next step reads in a thread, while the device computes this one."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class Ahead(Generic[T]):
    """`make`: what a step reads, a pure function of its number."""

    def __init__(self, make: Callable[[int], T]) -> None:
        self._make, self._thread = make, ThreadPoolExecutor(1, "ahead")
        self._coming: dict[int, Future[T]] = {}

    def __call__(self, step: int) -> T:
        """Raises what `make` raises of this step."""
        now = self._coming.pop(step, None) or self._thread.submit(self._make, step)
        self._coming = {step + 1: self._thread.submit(self._make, step + 1)}
        return now.result()
