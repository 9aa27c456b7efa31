"""The rate of plain matrix products in the towers' shapes: an upper bound for any training loop on
this machine.
"""

import time

import torch

from benchmarks.workload import Profile
from distill.parallel.engine import weights_dtype


def matrix_rate(profile: Profile, device: torch.device, seconds: float = 0.3) -> float:
    """FLOP/s of the larger encoder's widest product over one batch's positions in the profile's
    precision: the fastest within `seconds`.
    """
    width, dtype = profile.clip_bigg.width, weights_dtype(profile.precision)
    a, b = (
        torch.randn(shape, device=device, dtype=dtype)
        for shape in ((profile.batch_size * 77, width), (width, 4 * width))
    )
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return 2 * a.shape[0] * width * 4 * width / best
