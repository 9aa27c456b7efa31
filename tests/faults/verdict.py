"""Classifies what a command printed: a clear refusal, a traceback, or a new message."""

import re
import unicodedata

from tests.faults.client import Ended

LONGEST = 2500  # characters of a message
REFUSALS = (2, 3, 4)
BAR = re.compile(r"\d+%\||it/s\]|\?it/s|s/it|step/s|/s[,\]]")


def problem(ended: Ended, codes: tuple[int, ...] = REFUSALS) -> str:
    """Why an exit is no clear refusal with one of `codes`; empty where it is one."""
    if ended.timed_out:
        return "hung"
    if "Traceback (most recent call last)" in ended.text:
        return "traceback"
    if ended.code not in codes:
        return f"exit {ended.code}"
    return unclear(last_line(ended.text))


def unclear(line: str) -> str:
    if len(line) > LONGEST:
        return f"a message of {len(line):,} characters"
    if any(
        unicodedata.category(character) in ("Cc", "Cs") and character != "\t" for character in line
    ):
        return "control characters"
    return "" if line.strip() else "no message"


def last_line(text: str) -> str:
    lines = [line for line in text.replace("\r", "\n").split("\n") if line.strip()]
    return lines[-1] if lines else ""


def said(text: str) -> set[str]:
    """The lines of an output without bars, numbers as #: to tell a new message from what is always
    said.
    """
    lines = {line.strip() for line in text.replace("\r", "\n").split("\n")}
    return {
        re.sub(r"[0-9a-f]{8,}|\d+(\.\d+)?(e-?\d+)?", "#", line)
        for line in lines
        if line and not BAR.search(line)
    }
