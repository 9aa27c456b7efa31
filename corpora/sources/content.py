"""Detects what a file really is by its first bytes: names and downloads are unreliable.

In:  the decompressed head of a file, and its path.
Out: the name of its root element; or a one-line DataError for a file that is certainly no corpus (a
     Git LFS pointer, a web page, macOS attributes) or not UTF-8.

Only certain cases are refused here. A few broken rows are counted as `invalid_utf8` when read.
"""

import re

from configs.errors import DataError

HEAD_BYTES = 1 << 16
ENCODINGS = {
    "utf-16-le": "UTF-16LE",
    "utf-16-be": "UTF-16BE",
    "cp932": "Shift-JIS (CP932)",
    "euc_jp": "EUC-JP",
}
FEWEST_LETTERS = 8  # readable letters needed to accept an encoding
# root elements of WMT's and IWSLT's test sets, one language per file
SGML = ("srcset", "refset", "tstset", "mteval")
# a declaration, comments and a DOCTYPE, then the first element
ROOT = re.compile(
    rb"(?s)\s*(<\?xml.*?\?>)?(?:\s|<!--.*?-->|<!DOCTYPE\s[^>\[]*(?:\[.*?\])?\s*>)*"
    rb"<([A-Za-z][\w.:-]*)",
    re.I,
)
HTML_INSIDE = re.compile(rb"<!doctype\s+html|<(head|title|body|meta)\b", re.I)
KANA = re.compile("[\u3041-\u309f\u30a1-\u30ff]")
EXPECTED = re.compile("[\t\n\r -~\u3000-\u30ff\u4e00-\u9fff\uff00-\uffef]")  # Japanese and English
BINARY = {
    b"\x00\x05\x16\x07": "holds the attributes macOS keeps of a file, not its text; take the file "
    "without `._`",
    b"PAR1": "is parquet; give the source the kind parquet, or a list of tags that `format`",
    b"%PDF-": "is a PDF document; save its text as UTF-8",
    b"SQLite format 3\x00": "is a database; export the texts as UTF-8, fields separated by tabs",
}


def root(head: bytes) -> str:
    """The name of the first element of XML, SGML or HTML, in lower case; "" for other files."""
    found = ROOT.match(head.removeprefix(b"\xef\xbb\xbf"))
    name = found[2].decode("ascii", "replace").lower() if found else ""
    known = name in (*SGML, "tmx", "dataset", "html")
    return name if found and (found[1] or known) else ""


def refuse_other_files(head: bytes, path: str) -> None:
    """Raises DataError for a file that is no corpus at all: it was fetched or packed wrongly."""
    if head.startswith(b"version https://git-lfs.github.com/spec/"):
        raise DataError(
            f"{path}: is a Git LFS pointer, not the file itself; fetch it with: git lfs pull"
        )
    name, text = root(head), head.lstrip().lower()
    if name == "html" and HTML_INSIDE.search(head):
        raise DataError(
            f"{path}: is a web page, not data; open it in a browser to see why, and fetch the file "
            "again"
        )
    if name == "error" or text.startswith((b'{"error"', b'{"message"', b'{"detail"')):
        raise DataError(
            f"{path}: is a server's error message, not data ({_start(head)}); fetch the file again"
        )
    for magic, what in BINARY.items():
        if head.startswith(magic):
            raise DataError(f"{path}: {what}")


def refuse_markup(head: bytes, path: str, source: str) -> None:
    """Raises DataError for XML or SGML given as lines of text."""
    name = root(head)
    if name == "html":
        return  # refuse_other_files refuses web pages; strings of programs may start with <html>
    kinds = {"tmx": "kind tmx reads it", "dataset": "kind wmt_test reads it, given as `path`"}
    kinds |= dict.fromkeys(SGML, "kind wmt_test reads it, given as `text_path` and `en_path`")
    if name:
        way_out = kinds.get(name, "extract the texts first")
        raise DataError(
            f"{path}: is XML with the root <{name}>, not lines of text (source {source!r}); "
            f"{way_out}"
        )


def refuse_encoding(head: bytes, path: str) -> None:
    """Raises DataError for text that is certainly not UTF-8."""
    found = _encoding(head)
    if found:
        raise DataError(
            f"{path}: is {found}, not UTF-8; convert it: iconv -f {found.split()[-1].strip('()')} "
            "-t UTF-8"
        )


def _encoding(head: bytes) -> str | None:
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "UTF-16"
    lines = head.split(b"\n")
    escaped = sum(b"\x1b$B" in line or b"\x1b$@" in line for line in lines)
    if escaped > len(lines) // 2:
        return "ISO-2022-JP"
    # The last line may be cut off. UTF-16, full of zeros, cannot be split at b"\n".
    non_ascii = [line for line in lines[:-1] or lines if not line.isascii()]
    has_zeros = head.count(b"\0") > len(head) // 50
    if not has_zeros and (not non_ascii or any(_decodes(line, "utf-8") for line in non_ascii)):
        return None
    for encoding, name in ENCODINGS.items():
        if encoding.startswith("utf-16"):
            text = head[: len(head) // 2 * 2].decode(encoding, "replace") if has_zeros else ""
            letters = len(re.findall("[A-Za-z]", text)) + len(KANA.findall(text))
        else:
            text = "" if has_zeros else "\n".join(_decodes(line, encoding) for line in non_ascii)
            letters = len(KANA.findall(text))
        if letters >= FEWEST_LETTERS and len(EXPECTED.findall(text)) >= 0.95 * len(text):
            return name
    return None


def _decodes(line: bytes, encoding: str) -> str:
    """The text, or "" where the line is not in this encoding."""
    try:
        return line.decode(encoding)
    except UnicodeDecodeError:
        return ""


def _start(head: bytes) -> str:
    return " ".join(head[:100].decode("utf-8", "replace").split())
