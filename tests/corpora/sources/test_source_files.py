"""The door to files: compression, archives, URLs and memory.

What lies in them comes out as from a plain file, or one line says why not.
"""

import bz2
import gzip
import json
import lzma
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_source_formats import HOSTILE, PAIRS, ROOT, lines, packed, source, texts, tmx
from test_sources import corpora, read_all, tsv, write

from configs.errors import DataError, SetupError
from corpora import sources
from corpora.sources import part


def zstd(content: bytes) -> bytes:
    return pa.compress(content, codec="zstd", asbytes=True)


COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "zst": zstd,
    "xz": lzma.compress,
    "bz2": bz2.compress,
}


@pytest.mark.parametrize("suffix", COMPRESSIONS)
def test_compressed_rows_are_the_plain_rows_and_truncation_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    content = (
        b"\xef\xbb\xbfja\ten\n"
        + "".join(f"{ja}\t{en}\n" for ja, en in HOSTILE + PAIRS).encode()
        + b"\xff\tbad\nragged\nlast\tline"
    )
    compress = COMPRESSIONS[suffix]
    plain = read_all(corpora(tsv(write(tmp_path / "a.tsv", content))))
    path = write(
        tmp_path / "misnamed.target.tsv", compress(content[:700]) + compress(content[700:])
    )  # told by content; of two members or frames
    monkeypatch.setattr(part, "STREAM_PART_ROWS", 40)
    chosen = corpora(tsv(path))
    assert len(sources.plan(chosen)) == 3 and read_all(chosen) == plain
    assert [len(plain[0]), plain[1]] == [len(HOSTILE + PAIRS) + 1, {"invalid_utf8": 1, "ragged": 1}]
    (inputs,) = sources.inputs(chosen)
    for cut in (1, 5, 60):
        write(path, compress(os.urandom(3000).hex().encode())[:-cut])
        with pytest.raises(
            DataError, match=r"misnamed\.target\.tsv: cannot be read \(.*fetch it again"
        ) as caught:
            sources.plan(corpora(tsv(path, header=False, text=0, en=0)))
        assert "\n" not in str(caught.value)
    assert inputs.bytes > 0


def test_members_of_archives_and_damaged_ones(tmp_path: Path) -> None:
    content = b"head\tja\ten\n" + "".join(f"0\t{ja}\t{en}\n" for ja, en in PAIRS).encode()
    for name in ("a.zip", "a.tar", "a.tar.gz"):
        path = packed(tmp_path / name, {"README": b"x", "en-ja/en-ja.bicleaner05.txt": content})
        assert texts(corpora(tsv(path, member="*/en-ja.bicleaner05.txt"))) == PAIRS
        with pytest.raises(DataError, match="with `member`"):
            sources.plan(corpora(tsv(path)))
        whole = path.read_bytes()
        for length in (len(whole) - 30, len(whole) // 2) if name != "a.tar" else (1700,):
            write(path, whole[:length])
            with pytest.raises(DataError, match=rf"{name}: cannot be read") as caught:
                read_all(corpora(tsv(path, member="*.txt")))
            assert "\n" not in str(caught.value)
    sole = packed(tmp_path / "sole.zip", {"a.tsv": content})
    assert texts(corpora(tsv(sole))) == PAIRS
    broken = bytearray(sole.read_bytes())
    broken[60:80] = b"\xff" * 20
    with pytest.raises(DataError, match=r"sole\.zip: cannot be read"):
        sources.plan(corpora(tsv(write(sole, bytes(broken)))))


def test_any_file_system_of_fsspec(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    content = "".join(f"{ja}\t{en}\n" for ja, en in PAIRS).encode()
    memory.pipe(
        {"/corpus/1.tsv": content, "/corpus/2.tsv.gz": gzip.compress(content), "/corpus/b.zip": b""}
    )
    pq.write_table(pa.table({"ja": ["a"], "en": ["b"]}), tmp_path / "a.parquet")
    memory.pipe("/corpus/a.parquet", (tmp_path / "a.parquet").read_bytes())
    memory.pipe(
        "/corpus/b.zip",
        packed(tmp_path / "b.zip", {"x.ja": lines(0), "x.en": lines(1)}).read_bytes(),
    )
    both = corpora(tsv("memory://corpus/*.tsv*", header=False, text=0, en=1))
    assert texts(both) == PAIRS * 2
    assert next((one.path, one.bytes) for one in sources.inputs(both)) == (
        "memory:///corpus/1.tsv",
        len(content),
    )
    assert texts(corpora(source("parquet", path="memory://corpus/a.parquet"))) == [("a", "b")]
    assert texts(corpora(source("moses", path="memory://corpus/b.zip"))) == HOSTILE
    with pytest.raises(
        DataError, match=r"memory://corpus/none\.tsv: there is no such file \(source 't'\)"
    ):
        sources.plan(corpora(tsv("memory://corpus/none.tsv")))
    with pytest.raises(DataError, match="nosuch://a: cannot be read"):
        sources.plan(corpora(tsv("nosuch://a")))
    memory.rm("/corpus", recursive=True)


def test_a_file_system_that_is_not_installed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(SetupError, match=r"s3://bucket/a\.tsv: .*s3fs"):
        sources.plan(corpora(tsv("s3://bucket/a.tsv")))


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """A web server that knows no ranges, as python's own."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_a_web_server(tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("aiohttp", reason="fsspec reads http through aiohttp")
    content = "".join(f"{ja}\t{en}\n" for ja, en in PAIRS).encode()
    write(tmp_path / "a.tsv", content)
    write(tmp_path / "a.tsv.gz", gzip.compress(content))
    packed(tmp_path / "b.zip", {"x.ja": lines(0), "x.en": lines(1)})
    monkeypatch.setattr(part, "PART_ROWS", 30)
    monkeypatch.setattr(part, "STREAM_PART_ROWS", 30)
    for name in ("a.tsv", "a.tsv.gz"):
        assert texts(corpora(tsv(f"{address}/{name}", header=False, text=0, en=1))) == PAIRS
    assert texts(corpora(source("moses", path=f"simplecache::{address}/b.zip"))) == HOSTILE
    with pytest.raises(DataError, match="there is no such file"):
        sources.plan(corpora(tsv(f"{address}/none.tsv")))


MEMORY = """
import json, sys
from pathlib import Path
from configs.schema.corpora import Corpora
from corpora import sources
settings = {"sources": [json.loads(sys.argv[1])], "language_id": {"model": "unused"}}
chosen = Corpora.model_validate(settings)
last = sources.plan(chosen)[-1]
rows = sum(batch.rows for batch in sources.read(chosen.sources[0], last))
status = Path("/proc/self/status").read_text().splitlines()
print(rows, next(line.split()[1] for line in status if line.startswith("VmHWM")))
"""


def large_gzip(path: Path, rows: int) -> None:
    with gzip.open(path, "wb", compresslevel=1) as file:
        for start in range(0, rows, 1000):
            file.write(
                "".join(
                    f"日本語の文{n}\tan English sentence of some length, number {n}\n"
                    for n in range(start, start + 1000)
                ).encode()
            )


def large_parquet(path: Path, rows: int) -> None:
    """One row group of texts that do not compress."""
    texts = [random.Random(n).randbytes(200).hex() for n in range(rows // 10)]
    pq.write_table(
        pa.table({"ja": texts, "en": texts[::-1]}), path, row_group_size=rows, compression=None
    )


def large_tmx(path: Path, rows: int) -> None:
    path.write_text(tmx([("長い文" * 1000, "long " * 500)] * (rows // 150)), encoding="utf-8")


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="Linux tells a process its peak memory"
)
@pytest.mark.parametrize(
    ("kind", "make", "more"),
    [
        ("tsv", large_gzip, {"header": False, "text": 0, "en": 1}),
        ("parquet", large_parquet, {}),
        ("tmx", large_tmx, {}),
    ],
)
def test_memory_is_flat_over_a_large_file(
    tmp_path: Path, kind: str, make: Callable[[Path, int], None], more: dict[str, Any]
) -> None:
    """A hundred megabytes each. VmHWM, for ru_maxrss is inherited from the parent."""
    peaks = []
    for rows in (1000, 1_500_000):
        make(tmp_path / "file", rows)
        command = [
            sys.executable,
            "-c",
            MEMORY,
            json.dumps(source(kind, path=tmp_path / "file", **more)),
        ]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        read, peak = map(int, done.stdout.split())
        assert rows // 150 <= read <= part.STREAM_PART_ROWS
        peaks.append(peak)
    assert peaks[1] < peaks[0] + 50_000, f"{peaks} kB"
