"""The door to files: local paths, globs and URLs, compressed or not, alone or inside an archive, as one stream of bytes.

In:  a path as the recipe writes it: local, a glob, or a URL that fsspec opens (s3://, hf://, https://, simplecache::s3://...).
Out: the files it names, their digests, and a buffered stream of what a file holds, decompressed. Compression is told by the first bytes, not by
     the name. Whatever goes wrong while reading is one line that names the file.

A stream that is `seekable()` can be entered anywhere; one that is compressed or comes out of an archive can only be read from its start. A remote
file is fetched anew by every part: put `simplecache::` before the URL of a compressed one, and it is fetched once a process.
"""

import bz2
import glob
import gzip
import hashlib
import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
from fsspec.core import url_to_fs

from configs.errors import DataError, SetupError
from configs.files import file_sha256
from configs.secrets import masked

BUFFER_BYTES = 1 << 18
# EOFError: a gzip, bz2 or xz file that ends too soon. RuntimeError: a zip that wants a password.
DAMAGE = (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, tarfile.TarError, pa.ArrowException, RuntimeError)


def is_url(path: str) -> bool:
    return "://" in path


def found(path: str) -> list[str]:
    """The files there are now: the path itself, or what it matches as a glob, in alphabetical order. Raises DataError and SetupError."""
    if not is_url(path):
        matched = [path] if Path(path).is_file() else sorted(glob.glob(path, recursive=True))
        return [one for one in matched if Path(one).is_file()]
    with reported(path):
        system, inside = url_to_fs(path)
        # a web address may hold a question mark, and a chain of file systems leads to one file
        if "::" in path or path.startswith("http") or not any(sign in inside for sign in "*?["):
            return [path] if system.exists(inside) else []
        return [str(system.unstrip_protocol(one)) for one in sorted(system.glob(inside)) if system.isfile(one)]


def size(path: str) -> int:
    """Bytes. Raises DataError and SetupError."""
    with reported(path):
        if not is_url(path):
            return Path(path).stat().st_size
        system, inside = url_to_fs(path)
        return int(system.size(inside) or 0)


def digest(path: str) -> str:
    """The SHA-256 of a file's bytes; a remote file is fetched whole for it. Raises DataError and SetupError."""
    if not is_url(path):
        return file_sha256(Path(path))
    with opened_raw(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]  # a BufferedReader is what it wants


@contextmanager
def opened_raw(path: str) -> Iterator[io.BufferedReader]:
    """The file as it is, seekable where its place allows. Raises DataError and SetupError, while reading too."""
    with ExitStack() as stack:
        with reported(path):
            file: Any = stack.enter_context(fsspec.open(path, "rb") if is_url(path) else open(path, "rb"))  # noqa: SIM115
        # fsspec calls even an answer of a web server that knows no ranges seekable; it gives such a file no blocks
        seekable = file.seekable() and getattr(file, "blocksize", None) != 0
        yield stack.enter_context(_buffered(file, path, seekable))


@contextmanager
def opened(path: str, member: str | None = None) -> Iterator[io.BufferedReader]:
    """What the file holds, decompressed; of a zip or tar archive what its file called `member` (or matching it) holds.

    Raises DataError and SetupError, while reading too.
    """
    with ExitStack() as stack:
        file = stack.enter_context(opened_raw(path))
        magic = file.peek(10)[:10]
        with reported(path):
            if magic.startswith(b"PK\x03\x04"):
                stream = _zip_member(stack.enter_context(zipfile.ZipFile(file)), path, member or "*")
            else:
                stream = _decompressed(file, magic)
                if member is not None:
                    # "|": from front to back, nothing is sought
                    tar = stack.enter_context(tarfile.open(fileobj=stream, mode="r|", bufsize=BUFFER_BYTES))
                    stream = _tar_member(tar, path, member)
                elif path.endswith((".tgz", ".tar")) or ".tar." in path:
                    raise DataError(f"{path}: is an archive; say with `member` which of its files to read")
        yield file if stream is file else stack.enter_context(_buffered(stream, path, seekable=False))


@contextmanager
def reported(path: str, form: str = "") -> Iterator[None]:
    """Turns whatever reading the file may raise into one line. `form` is what it was read as: " as parquet"."""
    try:
        yield
    except (DataError, SetupError):
        raise
    except ImportError as error:
        raise SetupError(f"{path}: {one_line(error)}") from None  # fsspec says which package to install
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file; fetch it, or correct the path in the recipe") from None
    except DAMAGE as error:
        raise _damaged(path, form, error) from None
    except Exception as error:
        if not is_url(path):
            raise
        raise _damaged(path, form, error) from None  # every remote file system has errors of its own


def one_line(error: BaseException) -> str:
    return masked(" ".join(str(error)[:2000].split()))[:200] or type(error).__name__


def _damaged(path: str, form: str, error: Exception) -> DataError:
    return DataError(f"{path}: cannot be read{form} ({one_line(error)}); check the file, or fetch it again")


def _decompressed(file: io.BufferedReader, magic: bytes) -> Any:
    if magic.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=file)
    if magic.startswith(b"\x28\xb5\x2f\xfd"):
        return pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd")
    if magic.startswith(b"\xfd7zXZ\x00"):
        return lzma.LZMAFile(file)
    if magic.startswith(b"BZh") and magic[4:] in (b"1AY&SY", b"\x17rE8P\x90"):  # a first block, or none
        return bz2.BZ2File(file)
    return file


def _zip_member(archive: zipfile.ZipFile, path: str, member: str) -> Any:
    names = [one.filename for one in archive.infolist() if not one.is_dir()]
    matching = [name for name in names if fnmatchcase(name, member)]
    if len(matching) != 1:
        raise DataError(f"{path}: {len(matching)} of its files match {member!r}, not one; it holds {_shown(names)}; say which with `member`")
    return archive.open(matching[0])


def _tar_member(tar: tarfile.TarFile, path: str, member: str) -> Any:
    """The first that matches: to know that it is the only one, the whole archive would have to be read."""
    names = []
    for one in tar:
        if one.isfile() and fnmatchcase(one.name, member):
            return tar.extractfile(one)
        names.append(one.name)
    raise DataError(f"{path}: none of its files matches {member!r}; it holds {_shown(names)}; correct the member in the recipe")


def _shown(names: list[str]) -> str:
    return ", ".join(names)[:200] or "nothing"


class _Reported(io.RawIOBase):
    """A stream whose failures are told in one line."""

    def __init__(self, stream: Any, path: str, seekable: bool) -> None:
        self.stream, self.path, self.can_seek = stream, path, seekable

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self.can_seek

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        with reported(self.path):
            self.stream.seek(offset, whence)
            return int(self.stream.tell())

    def tell(self) -> int:
        return int(self.stream.tell())

    def readinto(self, buffer: Any) -> int:
        with reported(self.path):
            content = self.stream.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)


def _buffered(stream: Any, path: str, seekable: bool) -> io.BufferedReader:
    return io.BufferedReader(_Reported(stream, path, seekable), BUFFER_BYTES)
