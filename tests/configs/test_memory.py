import subprocess
import sys

import pytest

PROGRAM = """
import torch
from configs import memory

before = memory.held()
tensors = [torch.ones(1 << 16, dtype=torch.half) for _ in range(2000)]  # 128 kB each
assert memory.held() - before > 200e6
last = tensors[-1]
tensors.clear()
memory.give_back()
assert memory.held() - before < 60e6 and last.sum() == 1 << 16
assert memory.held(2**31 - 1) == 0, "a process that is gone"
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and asks glibc")
def test_freed_memory_goes_back_to_the_system() -> None:
    """Many tensors of a size that the allocator keeps, one of which stays behind the others. In a
    process of its own: what other tests have freed would be used first.
    """
    ended = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
