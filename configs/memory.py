"""The memory of a process: what it holds for itself, and giving back what it has freed."""

import ctypes
import gc
import re
import sys
from pathlib import Path


def held(pid: int | str = "self") -> int:
    """Anonymous memory in bytes: mapped files, which the system may drop at any time, left aside.

    0 where it cannot be read: outside Linux, or of a process that is gone.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return 0
    found = re.search(r"RssAnon:\s+(\d+) kB", status)
    return int(found[1]) * 1024 if found else 0


def give_back() -> None:
    """Gives freed memory back to the system.

    glibc keeps what was freed below 32 MB for later: after large models were loaded and dropped,
    gigabytes (malloc_trim(3)).
    """
    gc.collect()
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
