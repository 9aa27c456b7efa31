"""How workers that run torch share a machine: one GPU or one core each."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from corpora.executor import pieces


def device() -> torch.device:
    """This worker's GPU, or the CPU. If there are more workers than GPUs, they share them."""
    count = torch.cuda.device_count()
    return torch.device("cuda", pieces.worker_number % count) if count else torch.device("cpu")


@contextmanager
def one_thread() -> Iterator[None]:
    """Limits torch, and CTranslate2 models loaded meanwhile, to one thread: the number of threads
    changes the last bits of a result.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
