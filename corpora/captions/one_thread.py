"""How the stages that compute with torch share a machine: a worker a core, one thread a worker."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread of torch's, and of CTranslate2's models loaded meanwhile: the last bits of a result change with their number."""
    import torch  # seconds, which the processes that only clean do without

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
