"""Which file of one language belongs to which of the other: by their names, never by their order.

In:  two globs and the files they match; or the two members an archive gave.
Out: couples of files whose names are equal once what the globs say themselves and the language is
     taken out (`news.ja-en.ja` and `news.ja-en.en`); DataError naming the files that have no
     partner.
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
    """The files of both languages, in the order of the student's language.

    Two files given literally are a couple whatever their names are. Raises DataError.
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
    """Raises DataError where an archive's members, found by patterns, are of two corpora."""
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
    """What stands in the path from the first wildcard of the pattern to the last, without the
    language; "" where it has none.
    """
    wildcards = [one.start() for one in WILDCARD.finditer(pattern)]
    if not wildcards:
        return ""
    folder = pattern[: pattern.rfind("/", 0, wildcards[0]) + 1]
    if not path.startswith(
        folder
    ):  # a remote file system may write the beginning of a path in another way
        folder = folder.split("://")[-1]
    name = path[path.find(folder) + len(folder) :].lower()
    start = wildcards[0] - (pattern.rfind("/", 0, wildcards[0]) + 1)
    stop = len(name) - (len(pattern) - 1 - max(pattern.rfind(sign) for sign in "*?]"))
    for language in LANGUAGE.finditer(
        name
    ):  # a wildcard may begin or end within the language's code: train.j*
        if language.start() < start < language.end():
            start = language.start()
        if language.start() < stop < language.end():
            stop = language.end()
    return LANGUAGE.sub("", name[start:stop])
