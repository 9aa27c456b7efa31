"""How a user names a model, and how a library's error becomes a part of one line.

In and out: strings; nothing is read and no library is imported.
"""

from pathlib import Path


def looks_like_hub_name(name: str | Path) -> bool:
    """`organisation/model`: one slash, neither a path that starts at a root nor a relative one."""
    text = str(name)
    return text.count("/") == 1 and not text.startswith((".", "/", "~")) and not Path(text).parent.exists()


def first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
