"""Members of zip and tar archives, found by name or pattern.

In:  an open archive, and the member as written in the recipe.
Out: the member's name and its byte stream. A literal name wins over the same text as a pattern;
     files that macOS adds to an archive (`._*`, `__MACOSX/`, .DS_Store) are ignored.

A zip made on Japanese Windows has names in undeclared code page 932; they are decoded as such.
"""

import tarfile
import unicodedata
import zipfile
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any

from configs.errors import DataError

TAR_BLOCK = 512
UTF8_FLAG = 0x800  # flag bit of a zip's member: its name is UTF-8
ENCODINGS = ("utf-8", "cp932")  # tried in this order on names without a declared encoding


def is_zip(head: bytes) -> bool:
    return head.startswith((b"PK\x03\x04", b"PK\x05\x06"))


def is_tar(head: bytes) -> bool:
    """Checks the checksum of the first header, which every kind of tar has."""
    try:
        tarfile.TarInfo.frombuf(head[:TAR_BLOCK], "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def added_by_macos(name: str) -> bool:
    """`._c.ja` holds a file's attributes, .DS_Store a folder's display settings: no texts."""
    parts = name.split("/")
    return "__MACOSX" in parts or parts[-1].startswith("._") or parts[-1] == ".DS_Store"


def zip_member(archive: zipfile.ZipFile, path: str, member: str) -> tuple[str, Any]:
    """Raises DataError unless exactly one file matches."""
    members = {_zip_name(one): one for one in archive.infolist() if not one.is_dir()}
    if "[Content_Types].xml" in members:
        raise DataError(
            f"{path}: is an Office document; save it as text (UTF-8, fields separated by tabs)"
        )
    members = {name: one for name, one in members.items() if not added_by_macos(name)}
    matching = _matching(list(members), member)
    if len(matching) != 1:
        raise DataError(
            f"{path}: {len(matching)} of its files match {member!r}, not one; "
            f"it holds {_shown(list(members))}; say which with `member`"
        )
    return matching[0], archive.open(members[matching[0]])


def tar_member(opened: Callable[[], tarfile.TarFile], path: str, member: str) -> tuple[str, Any]:
    """The first matching file. To know that it is the only one, the whole archive would have to be
    read.

    `opened` opens the archive at its start. Raises DataError if nothing matches.
    """
    literal = False
    # `[` may be literal, and the literal name may come after one that matches the pattern
    if "[" in member:
        literal = _plain(member) in map(_tar_name, filter(tarfile.TarInfo.isfile, opened()))
    names, tar = [], opened()
    for one in tar:
        name = _tar_name(one)
        if not one.isfile() or added_by_macos(name):
            continue
        if name == _plain(member) or (not literal and _matching([name], member)):
            return name, tar.extractfile(one)
        names.append(name)
    raise DataError(
        f"{path}: none of its files matches {member!r}; "
        f"it holds {_shown(names)}; correct the member in the recipe"
    )


def _matching(names: list[str], member: str) -> list[str]:
    if _plain(member) in names:
        return [_plain(member)]
    return [name for name in names if fnmatchcase(name, _plain(member))]


def _plain(name: str) -> str:
    """In NFC (macOS writes が as か and a mark), without the `./` of `tar c .`."""
    return unicodedata.normalize("NFC", name.removeprefix("./"))


def _zip_name(info: zipfile.ZipInfo) -> str:
    if info.flag_bits & UTF8_FLAG or info.filename.isascii():
        return _plain(info.filename)
    try:
        return _plain(_decoded(info.orig_filename.encode("cp437"), info.filename))
    except UnicodeEncodeError:  # zipfile took the name from a Unicode extra field
        return _plain(info.filename)


def _tar_name(info: tarfile.TarInfo) -> str:
    return _plain(_decoded(info.name.encode("utf-8", "surrogateescape"), ascii(info.name)))


def _decoded(name: bytes, otherwise: str) -> str:
    for encoding in ENCODINGS:
        try:
            return name.decode(encoding)
        except UnicodeDecodeError:
            continue
    return otherwise


def _shown(names: list[str]) -> str:
    return ", ".join(names)[:200] or "nothing"
