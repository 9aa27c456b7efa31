"""The errors a user can meet, their exit codes, and how any text becomes one printable line.

Exit codes: 0 ok, 1 bug, 2 usage or recipe, 3 data or quality gate, 4 environment, 75 preempted, 130
interrupted.
"""

import errno
import os
import re
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager

from configs.secrets import masked

LONGEST_MESSAGE = 2000  # characters; a file can put megabytes into a library's error message


class RecipeError(ValueError):
    """The recipe or the command line is wrong (exit code 2)."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))  # keys and values of the user's may hold line breaks


class DataError(ValueError):
    """What was read is not what it must be (exit code 3)."""

    def __init__(self, message: str) -> None:
        super().__init__(masked(message))  # where an executor logs it, no `one_line` comes between


class SetupError(RuntimeError):
    """This machine lacks something the work needs (exit code 4)."""

    def __init__(self, message: str) -> None:
        super().__init__(masked(message))


class Preempted(BaseException):
    """Stopped by a signal; the same command continues from what is on disk (exit code 75).

    No Exception, like KeyboardInterrupt: it is raised inside libraries, whose `except Exception`
    must not take it.
    """


EXIT_CODES: tuple[tuple[type[BaseException], int], ...] = (
    (RecipeError, 2),
    (DataError, 3),
    (SetupError, 4),
    (Preempted, 75),
)


def outcome(error: BaseException) -> tuple[int, str] | None:
    """The exit code of a known error and its one line; None for a bug, which keeps its
    traceback.
    """
    if isinstance(error, KeyboardInterrupt):
        return 130, one_line(error) if str(error) else "interrupted; run the same command to go on"
    for kind, code in EXIT_CODES:
        if isinstance(error, kind):
            return code, one_line(error)
    if isinstance(error, MemoryError):
        detail = f" ({one_line(error)})" if str(error) else ""
        return 4, f"not enough memory{detail}; free some, or take a larger machine"
    cause = cause_of_system(error) if isinstance(error, Exception) else None
    return None if cause is None else (4, one_line(of_system(cause)))


# What the user can do about an error of the operating system. Others are reported without advice.
WAYS_OUT = {
    errno.ENOSPC: "free some space, or give run=FOLDER on a larger disk, and run the same command "
    "again",
    errno.EDQUOT: "your quota is used up: free some space, or give run=FOLDER elsewhere, and run "
    "the same command again",
    errno.EROFS: "the file system is read-only: give run=FOLDER where you may write",
    errno.EACCES: "check the owner and the permissions, or give run=FOLDER where you may write",
    errno.EPERM: "check the owner and the permissions, or give run=FOLDER where you may write",
    errno.EIO: "the disk or the network file system failed: check it, and run the same command "
    "again",
    errno.ESTALE: "the network file system lost the file: run the same command again",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
}


def one_line(text: object, longest: int = LONGEST_MESSAGE) -> str:
    """`text` as one printable line: secrets are masked, line breaks become spaces, control
    characters are escaped, the middle of a long text is left out.

    Control characters come from files and prompts; printed raw they could move the cursor or
    rewrite the terminal.
    """
    line = " ".join(re.split("[\n\r]", str(text)))
    line = masked(line)
    if len(line) > longest:
        half = (longest - 30) // 2
        line = f"{line[:half]} ... {len(line) - 2 * half:,} characters ... {line[-half:]}"
    return "".join(_printable(character) for character in line)


def _printable(character: str) -> str:
    """Cc: control characters; Cf: invisible ones, those that reverse the direction of text among
    them; Zl, Zp: line separators; Cs: surrogates.
    """
    if character == "\t" or unicodedata.category(character) not in ("Cc", "Cf", "Zl", "Zp", "Cs"):
        return character
    if character == "\u200d":  # joins emoji; shows as nothing
        return character
    return character.encode("unicode_escape").decode("ascii")


def first_line(error: BaseException) -> str:
    """`Kind: its first line that is not empty`, for a library's error inside one of our
    messages.
    """
    lines = [
        line.strip() for line in str(error)[: 10 * LONGEST_MESSAGE].splitlines() if line.strip()
    ]
    return f"{type(error).__name__}: {one_line(lines[0], 500)}" if lines else type(error).__name__


@contextmanager
def explained(what: str, way_out: str) -> Iterator[None]:
    """Reports any error of a library inside the block as one DataError: `what (error); way_out`.

    Each library raises kinds of its own for the same cause, a file that is missing or damaged. This
    project's own errors pass as they are.
    """
    try:
        yield
    except (RecipeError, DataError, SetupError):
        raise
    except Exception as error:
        raise DataError(f"{what} ({first_line(error)}); {way_out}") from error


def of_system(error: OSError) -> str:
    """What the operating system refused, as `file: what; what to do`."""
    names = [str(name) for name in (error.filename, error.filename2) if name is not None]
    where = f"{' -> '.join(names)}: " if names else ""
    what = (error.strerror or type(error).__name__).lower()
    way_out = WAYS_OUT.get(error.errno or 0)
    return f"{where}{what}{f'; {way_out}' if way_out else ''}"


def cause_of_system(error: BaseException) -> OSError | None:
    """The operating system's refusal behind an error; None where there is none.

    Libraries put it into words of their own: safetensors says "(os error 28)", Arrow "[errno 28]",
    numpy "10 requested and 3 written".
    """
    if isinstance(error, OSError) and error.errno in errno.errorcode:
        return error
    text = str(error)[:LONGEST_MESSAGE]
    if found := re.search(r"(?:os error |\[errno )(\d+)", text, re.IGNORECASE):
        number = int(found[1])
    elif isinstance(error, OSError) and re.search(r"\d+ requested and \d+ written", text):
        number = errno.ENOSPC
    else:
        return None
    return OSError(number, os.strerror(number)) if number in errno.errorcode else None
