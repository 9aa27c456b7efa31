"""Which pictures are never trained on: those whose digests, mixed once more, are the smallest.

Once chosen they stay: other pictures may be added without one of them changing sides.
"""

import hashlib
from collections.abc import Iterable

from configs.errors import RecipeError


def choose(pictures: Iterable[str], count: int, held_out: set[str], trained: set[str]) -> set[str]:
    """`count` of the pictures (SHA-256 each).

    `held_out`, `trained`: what an earlier choice, if any, made of them. Those held out come first,
    then new ones; one that was trained on is taken only where there are too few others. Raises
    RecipeError as `check`.
    """
    found = set(pictures)
    check(len(found), count)
    order = sorted(found, key=lambda one: (one not in held_out, one in trained, _mixed(one)))
    return set(order[:count])


def check(pictures: int, count: int) -> None:
    """Raises RecipeError where no picture would be left to train on."""
    if count >= pictures:
        raise RecipeError(
            f"pictures.held_out is {count}, and there are {pictures} pictures; hold out fewer, or "
            "add pictures"
        )


def _mixed(picture: str) -> str:
    return hashlib.sha256(f"held out {picture}".encode()).hexdigest()
