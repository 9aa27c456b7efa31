"""Pairs the files of two languages by their names, never by their order.

In:  two globs and the files they match; or the two members found in an archive.
Out: couples of files whose names are equal without the fixed text of the globs and the language
     (`news.ja-en.ja` and `news.ja-en.en`); a DataError names files without a partner.
"""

import re

from configs.errors import DataError
from configs.languages import ENGLISH_NAMES, LANGUAGES

_NAMES = "|".join([*(name for one in LANGUAGES.values() for name in one.names), *ENGLISH_NAMES])
LANGUAGE = re.compile(rf"(?<![^\W_])(?:{_NAMES})(?:[-_](?:jp|kr|us|gb))?(?![^\W_])")
WILDCARD = re.compile(r"[*?\[]")


def couples(
    globs: tuple[str, str], found: tuple[list[str], list[str]], source: str, language: str
) -> list[tuple[str, ...]]:
    """The couples of files, in the order of the student's language.

    Two files given literally are a couple, whatever their names. Raises DataError.
    """
    text, en = found
    if len(text) == len(en) == 1 and (text[0] == globs[0] or en[0] == globs[1]):
        return [(text[0], en[0])]
    text_names, en_names = (_by_name(*one, source) for one in zip(globs, found, strict=True))
    alone = [
        one
        for names, other in ((text_names, en_names), (en_names, text_names))
        for one in _without(names, other)
    ]
    if alone:
        counts = (
            f"{len(text)} {language} files, but {len(en)} English ones; "
            if len(text) != len(en)
            else ""
        )
        raise DataError(
            f"source {source!r}: {counts}no file of the other language is called as "
            f"{', '.join(alone[:4])}; "
            "fetch what is missing, or correct the globs"
        )
    return [(path, en_names[name]) for name, path in text_names.items()]


def check_members(path: str, members: tuple[str, str], names: list[str]) -> None:
    """Raises DataError if two members found by patterns are from different corpora."""
    if any(name == member.removeprefix("./") for name, member in zip(names, members, strict=True)):
        return  # named literally
    keys = set()
    for member, name in zip(members, names, strict=True):
        folder, _, file = name.rpartition("/")
        keys.add((LANGUAGE.sub("", folder.lower()), _key(member.rpartition("/")[2], file)))
    if len(keys) > 1:
        raise DataError(
            f"{path}: {names[0]} and {names[1]} are not one corpus by their names; "
            "say with `text_member` and `en_member` which two files to read"
        )


def _by_name(pattern: str, found: list[str], source: str) -> dict[str, str]:
    names: dict[str, str] = {}
    for path in found:
        other = names.setdefault(_key(pattern, path), path)
        if other != path:
            raise DataError(
                f"source {source!r}: {other} and {path} have one name but for the language; "
                f"make {pattern!r} match one of them"
            )
    return names


def _without(names: dict[str, str], other: dict[str, str]) -> list[str]:
    return [path for name, path in names.items() if name not in other]


def _key(pattern: str, path: str) -> str:
    """The path from the pattern's first wildcard to its last, without the language; "" if the
    pattern has no wildcard.
    """
    wildcards = [one.start() for one in WILDCARD.finditer(pattern)]
    if not wildcards:
        return ""
    folder = pattern[: pattern.rfind("/", 0, wildcards[0]) + 1]
    # a remote file system may write the start of a path differently
    if not path.startswith(folder):
        folder = folder.split("://")[-1]
    name = path[path.find(folder) + len(folder) :].lower()
    start = wildcards[0] - (pattern.rfind("/", 0, wildcards[0]) + 1)
    stop = len(name) - (len(pattern) - 1 - max(pattern.rfind(sign) for sign in "*?]"))
    # a wildcard may start or end inside the language's code: train.j*
    for language in LANGUAGE.finditer(name):
        if language.start() < start < language.end():
            start = language.start()
        if language.start() < stop < language.end():
            stop = language.end()
    return LANGUAGE.sub("", name[start:stop])
