"""How a user names a model, and how a library's error becomes a part of one line.

In and out: strings; nothing is read and no library is imported.
"""

from pathlib import Path


def looks_like_hub_name(name: str | Path) -> bool:
    """`organisation/model`: one slash, neither a path that starts at a root nor a relative one."""
    text = str(name)
    return text.count("/") == 1 and not text.startswith((".", "/", "~")) and not Path(text).parent.exists()
