"""Opens files as one stream of bytes: local paths, globs and URLs, compressed or not, alone or in
an archive. The door to fsspec.

In:  a path as written in the recipe: local, a glob, or a URL that fsspec opens (s3://, hf://,
     https://, simplecache::s3://...).
Out: the matching files, their digests, and a buffered stream of a file's decompressed content.
     Compression is detected by the first bytes, not by the name. Every reading error becomes one
     line that names the file.

A `seekable()` stream can be read from any offset, a compressed or archived one only from its start.
Every part fetches a remote file again; with `simplecache::` before its URL, a compressed one is
fetched once per process.
"""

import bz2
import glob
import gzip
import hashlib
import io
import lzma
import os
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
from fsspec.core import url_to_fs

from configs.errors import DataError, SetupError
from configs.files import file_sha256
from configs.secrets import masked
from corpora.sources import archives, content

BUFFER_BYTES = 1 << 18
# EOFError: a truncated gzip, bz2 or xz file. RuntimeError: a zip that wants a password.
DAMAGE = (
    OSError,
    EOFError,
    zlib.error,
    lzma.LZMAError,
    zipfile.BadZipFile,
    tarfile.TarError,
    pa.ArrowException,
    RuntimeError,
)


def is_url(path: str) -> bool:
    return "://" in path


def found(path: str) -> list[str]:
    """The files that exist now: the path itself, or a glob's matches in alphabetical order.

    Raises DataError and SetupError.
    """
    if not is_url(path):
        return local_files(path)
    with reported(path):
        system, inside = url_to_fs(path)
        # `?` is no wildcard in a web address, and a chained URL names one file
        if "::" in path or path.startswith("http") or not any(sign in inside for sign in "*?["):
            return [path] if system.exists(inside) else []
        matches = [
            match for match in sorted(system.glob(inside)) if not archives.added_by_macos(match)
        ]
        return [str(system.unstrip_protocol(match)) for match in matches if system.isfile(match)]


def local_files(path: str) -> list[str]:
    """The file of that name, or a glob's matches in alphabetical order, without files added by
    macOS.

    An existing folder or file of exactly that name wins over the pattern: `[v1] shards/*.tar`.
    """
    if Path(path).is_file():
        return [path]
    pattern, literal = "", ""
    for piece in re.split("(/)", path):
        literal += piece
        pattern += glob.escape(piece) if os.path.lexists(literal) else piece
    matched = sorted(glob.glob(pattern, recursive=True))
    return [one for one in matched if Path(one).is_file() and not archives.added_by_macos(one)]


def size(path: str) -> int:
    """Bytes. Raises DataError and SetupError."""
    with reported(path):
        if not is_url(path):
            return Path(path).stat().st_size
        system, inside = url_to_fs(path)
        return int(system.size(inside) or 0)


def digest(path: str) -> str:
    """The file's SHA-256 in hex; a remote file is fetched whole. Raises DataError and
    SetupError.
    """
    if not is_url(path):
        return file_sha256(Path(path))
    with opened_raw(path) as file:
        # typed for BufferedReader, works with any binary file
        return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


@contextmanager
def opened_raw(path: str) -> Iterator[io.BufferedReader]:
    """The file's bytes, seekable if its storage allows.

    Raises DataError and SetupError, also while reading.
    """
    with ExitStack() as stack:
        with reported(path):
            opened = fsspec.open(path, "rb") if is_url(path) else open(path, "rb")  # noqa: SIM115
            file: Any = stack.enter_context(opened)
        # fsspec calls even files of web servers without range requests seekable; their blocksize
        # is 0
        seekable = file.seekable() and getattr(file, "blocksize", None) != 0
        yield stack.enter_context(_buffered(file, path, seekable))


@contextmanager
def opened(path: str, member: str | None = None) -> Iterator[io.BufferedReader]:
    """The decompressed content of a file; of a zip or tar archive, that of the file whose name is
    or matches `member`.

    Raises DataError and SetupError, also while reading; DataError for a file that is certainly no
    corpus.
    """
    with ExitStack() as stack:
        file = stack.enter_context(opened_raw(path))
        with reported(path):
            stream, name = _plain(stack, file, path), None
            if archives.is_zip(stream.peek(4)):
                archive = stack.enter_context(zipfile.ZipFile(file))
                name, inner = archives.zip_member(archive, path, member or "*")
            elif member is not None:
                name, inner = archives.tar_member(lambda: _tar(stack, path), path, member)
            elif archives.is_tar(stream.peek(archives.TAR_BLOCK)):
                raise DataError(
                    f"{path}: is an archive; say with `member` which of its files to read"
                )
            if name is not None:
                within = stack.enter_context(_buffered(inner, path, seekable=False, name=name))
                stream = _plain(stack, within, path, name)
                head = stream.peek(archives.TAR_BLOCK)
                if archives.is_zip(head) or archives.is_tar(head):
                    raise DataError(
                        f"{path}: {name} is an archive inside the archive; unpack the outer one"
                    )
            content.refuse_other_files(head_of(stream), f"{path}: {name}" if name else path)
        yield stream


def head_of(stream: io.BufferedReader) -> bytes:
    """The first bytes, without consuming them."""
    return stream.peek(content.HEAD_BYTES)[: content.HEAD_BYTES]


def member_name(stream: io.BufferedReader) -> str | None:
    """The name inside the archive of a stream from `opened`; None if it is from no archive."""
    assert isinstance(stream.raw, _Reported)
    return stream.raw.name


@contextmanager
def reported(path: str, form: str = "") -> Iterator[None]:
    """Turns every error of reading the file into one line.

    `form`: what it is read as, for the message: " as parquet".
    """
    try:
        yield
    except (DataError, SetupError):
        raise
    except ImportError as error:
        # fsspec says which package to install
        raise SetupError(f"{path}: {one_line(error)}") from None
    except FileNotFoundError:
        raise DataError(
            f"{path}: there is no such file; fetch it, or correct the path in the recipe"
        ) from None
    except DAMAGE as error:
        raise _damaged(path, form, error) from None
    except Exception as error:
        # every remote file system has error types of its own
        if not is_url(path):
            raise
        raise _damaged(path, form, error) from None


def one_line(error: BaseException) -> str:
    return masked(" ".join(str(error)[:2000].split()))[:200] or type(error).__name__


def _damaged(path: str, form: str, error: Exception) -> DataError:
    return DataError(
        f"{path}: cannot be read{form} ({one_line(error)}); check the file, or fetch it again"
    )


def _plain(
    stack: ExitStack, stream: io.BufferedReader, path: str, name: str | None = None
) -> io.BufferedReader:
    """The stream, decompressed if it is compressed."""
    inner = _decompressed(stream, stream.peek(10)[:10])
    return (
        stream
        if inner is stream
        else stack.enter_context(_buffered(inner, path, seekable=False, name=name))
    )


def _tar(stack: ExitStack, path: str) -> tarfile.TarFile:
    """Opened as a stream ("|"), which never seeks."""
    stream = _plain(stack, stack.enter_context(opened_raw(path)), path)
    return stack.enter_context(tarfile.open(fileobj=stream, mode="r|", bufsize=BUFFER_BYTES))


def _decompressed(file: io.BufferedReader, magic: bytes) -> Any:
    if magic.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=file)
    if magic.startswith(b"\x28\xb5\x2f\xfd"):
        return pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd")
    if magic.startswith(b"\xfd7zXZ\x00"):
        return lzma.LZMAFile(file)
    # followed by the first block, or by the end mark of an empty file
    if magic.startswith(b"BZh") and magic[4:] in (b"1AY&SY", b"\x17rE8P\x90"):
        return bz2.BZ2File(file)
    return file


class _Reported(io.RawIOBase):
    """A stream whose reading errors become one line."""

    def __init__(self, stream: Any, path: str, seekable: bool, name: str | None) -> None:
        self.stream, self.path, self.can_seek, self.name = stream, path, seekable, name

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


def _buffered(stream: Any, path: str, seekable: bool, name: str | None = None) -> io.BufferedReader:
    return io.BufferedReader(_Reported(stream, path, seekable, name), BUFFER_BYTES)
