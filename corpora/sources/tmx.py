"""TMX, Translation Memory eXchange: every `tu` is a row, whatever the languages of its `tuv`s."""

from collections import Counter
from collections.abc import Iterator

from configs.schema.sources import TmxSource
from corpora.sources import segments
from corpora.sources.part import Row

# Elements that hold another format's markup, no text (TMX 1.4b, 3.3); <hi> holds text.
CODE = {"bpt", "ept", "ph", "it", "ut"}


def read(source: TmxSource, path: str) -> Iterator[Row]:
    """Every unit of one file, in order. Raises DataError for malformed XML."""
    return segments.read(path, source.member, _Units(source.text_language.code))


class _Units:
    def __init__(self, code: str) -> None:
        self.code = code
        self.rows: list[Row] = []
        self.languages = Counter[str]()
        self.texts: dict[str, segments.Text] = {}
        self.language = ""
        self.segment: segments.Text | None = None
        self.code_depth = 0

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        if tag == "tu":
            self.texts = {}
        elif tag == "tuv":
            self.language = segments.language(attributes)
        elif tag == "seg":
            self.segment = segments.Text()
            self.languages[self.language] += 1
        elif tag in CODE:
            self.code_depth += 1

    def text(self, text: str) -> None:
        if self.segment is not None and not self.code_depth:
            self.segment.add(text)

    def end(self, tag: str) -> None:
        if tag == "seg" and self.segment is not None:
            if self.language in (self.code, "en"):
                self.texts.setdefault(self.language, self.segment)
            self.segment = None
        elif tag in CODE:
            self.code_depth -= 1
        elif tag == "tu":
            self.rows.append(segments.row(self.texts.get(self.code), self.texts.get("en")))
