"""WMT's test sets in XML: for every `doc`, the segments of `src` and of the first `ref` in the
other language, joined by id.
"""

from collections import Counter
from collections.abc import Iterator

from configs.schema.sources import WmtTestSource
from corpora.sources import segments
from corpora.sources.part import Row

Key = tuple[str, int]  # segment id within its document, and how many had that id before


def read(source: WmtTestSource, path: str) -> Iterator[Row]:
    """Every segment of one file, in order; one document at a time is in memory.

    Raises DataError for malformed XML.
    """
    return segments.read(path, None, _Documents(source.text_language.code))


class _Documents:
    def __init__(self, code: str) -> None:
        self.code = code
        self.rows: list[Row] = []
        self.languages = Counter[str]()
        self.sides: dict[str, dict[Key, segments.Text]] = {}
        self.side: dict[Key, segments.Text] | None = None
        self.times = Counter[str]()
        self.segment: segments.Text | None = None

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        if tag == "doc":
            self.sides = {}
        elif tag in ("src", "ref"):
            language = segments.language(attributes)
            self.languages[language] += 1
            if language in (self.code, "en") and language not in self.sides:
                self.side, self.times = self.sides.setdefault(language, {}), Counter()
        elif tag == "seg" and self.side is not None:
            id = attributes.get("id", "")
            self.segment = self.side[id, self.times[id]] = segments.Text()
            self.times[id] += 1

    def text(self, text: str) -> None:
        if self.segment is not None:
            self.segment.add(text)

    def end(self, tag: str) -> None:
        if tag == "seg":
            self.segment = None
        elif tag in ("src", "ref"):
            self.side = None
        elif tag == "doc":
            text, en = (self.sides.get(language, {}) for language in (self.code, "en"))
            self.rows += [
                segments.row(text.get(key), en.get(key)) for key in dict.fromkeys([*text, *en])
            ]
