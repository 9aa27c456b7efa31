"""How the stages that compute with torch share a machine: a GPU a worker, or a core a worker."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from corpora.executor import pieces


def device() -> torch.device:
    """This worker's GPU, or the CPU. More workers than GPUs share them."""
    import torch  # seconds, which the processes that only clean do without

    count = torch.cuda.device_count()
    return torch.device("cuda", pieces.worker_number % count) if count else torch.device("cpu")


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread of torch's, and of CTranslate2's models loaded meanwhile: the last bits of a
    result change with their number.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
