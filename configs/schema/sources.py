"""Where a recipe's texts come from: one section a kind of source.

A path is a local file, a glob, or any URL fsspec opens (s3://, hf://, https://...); compression
(gzip, zstd, xz, bz2) is told by content, inside archives too. A file, folder or member of exactly
that name wins over the name as a pattern. Of two globs, files are paired by their names. Every
source but a world has a name, which its rows' ids begin with, and the licence its rows carry on.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from configs.schema.filters import TagFilters
from configs.schema.section import Positive, Section, Share

Path = Annotated[str, Field(min_length=1)]
MOST_CONCEPTS = 910  # those of emojiworld that scenes may have


class WorldSource(Section):
    """Scenes said in both languages by a grammar of our own; the held-out ones lie apart by
    construction.
    """

    kind: Literal["toyworld", "emojiworld"]
    pairs: Positive
    held_out_pairs: Positive
    seed: int = 0


class ToyworldSource(WorldSource):
    """Colored shapes: `corpora/toyworld`."""

    kind: Literal["toyworld"]


class EmojiworldSource(WorldSource):
    """A vocabulary from life, some words frequent and most of them rare: `corpora/emojiworld`."""

    kind: Literal["emojiworld"]
    concepts: Annotated[int, Field(ge=2, le=MOST_CONCEPTS)] = Field(
        description="the most frequent ones; all of a smaller vocabulary are in a larger one"
    )


class FileSource(Section):
    """What every source but a world says of itself."""

    name: str
    licence: str


class TsvSource(FileSource):
    """UTF-8, one row a line feed, fields separated by tabs, nothing quoted."""

    kind: Literal["tsv"]
    path: Path
    member: Path | None = Field(
        None, description="the file inside a zip or tar archive, or a pattern that only it matches"
    )
    text: str | int | None = Field(
        None,
        description="column name (or, without a header line, its number from 0); null: the code "
        "of the student's language",
    )
    en: str | int = "en"
    header: bool = True

    @property
    def columns(self) -> tuple[str | int, str | int]:
        return self.text_language.code if self.text is None else self.text, self.en


class ParquetSource(FileSource):
    kind: Literal["parquet"]
    path: Path
    text: str | int | None = Field(
        None,
        description="a column of texts, its number from 0, or COLUMN.FIELD of a struct: "
        "translation.ja; null: the code of the student's language",
    )
    en: str | int = "en"

    @property
    def columns(self) -> tuple[str | int, str | int]:
        return self.text_language.code if self.text is None else self.text, self.en


class _Aligned(FileSource):
    """One archive or one file (`path`), or two files (`text_path`, `en_path`) whose lines say the
    same.
    """

    path: Path | None = None
    text_path: Path | None = None
    en_path: Path | None = None

    @model_validator(mode="after")
    def _one_way_to_name_the_files(self) -> Self:
        named = [key for key in ("path", "text_path", "en_path") if getattr(self, key) is not None]
        if named not in (["path"], ["text_path", "en_path"]):
            raise ValueError(
                f"source {self.name!r} takes either path or both text_path and en_path, not "
                f"{' and '.join(named) or 'none of them'}"
            )
        return self


class MosesSource(_Aligned):
    """OPUS's Moses format: two text files, line by line; `path` names a zip or tar archive that
    holds both.
    """

    kind: Literal["moses"]
    text_member: Path | None = Field(
        None,
        description="the student's language inside the archive: a file, or a pattern that only it "
        "matches; null: *.CODE",
    )
    en_member: Path = "*.en"

    @property
    def members(self) -> tuple[str, str]:
        return self.text_member or f"*.{self.text_language.code}", self.en_member


class WmtTestSource(_Aligned):
    """A test set of WMT: `path` is its XML (dataset, doc, src, ref, seg), or two files: SGML
    (srcset, refset), or text line by line.
    """

    kind: Literal["wmt_test"]


class TmxSource(FileSource):
    """Translation Memory eXchange, XML; of several texts of one language in a unit the first
    counts.
    """

    kind: Literal["tmx"]
    path: Path
    member: Path | None = Field(
        None, description="the file inside a zip or tar archive, or a pattern that only it matches"
    )


class HubSource(FileSource):
    """Any data set `datasets` can stream: ORG/NAME on the Hugging Face Hub, or a folder of one."""

    kind: Literal["hub"]
    dataset: str
    config: str | None = None
    split: str = "train"
    revision: str | None = Field(
        None,
        description="a commit of the data set: without it, what its author changes is noticed, not "
        "prevented",
    )
    text: str | None = Field(
        None, description="a column of texts, or COLUMN.FIELD; null: translation.CODE"
    )
    en: str = "translation.en"

    @property
    def columns(self) -> tuple[str, str]:
        return self.text or f"translation.{self.text_language.code}", self.en


class TagsSource(FileSource):
    """Names of what pictures show, as `1girl` and `long_hair` in prompts, beside their names in the
    student's language. Judged by filters of its own, made for texts of one word.
    """

    kind: Literal["tags"]
    path: Path
    member: Path | None = Field(
        None, description="the file inside a zip or tar archive, or a pattern that only it matches"
    )
    format: Literal["csv", "tsv", "yaml", "parquet"] | None = Field(
        None, description="null: what the file's name ends with"
    )
    text: str | int | None = Field(
        None,
        description="column of the names, texts or lists of them; null: other_names in parquet, "
        "else column 1. YAML has no columns: its keys `tags` hold TAG: NAME",
    )
    en: str | int | None = Field(
        None, description="column of the tags; null: title in parquet, else column 0"
    )
    header: bool = Field(False, description="csv and tsv: the first line names the columns")
    separator: str = Field(
        "|", min_length=1, description="between several names in one text; no list is cut by it"
    )
    most_names: Positive = Field(
        2, description="of one tag; where a list has more, the further ones are the worse"
    )
    min_probability: Share = Field(
        0.01,
        description="of the names, in place of corpora.language_id.min_probability: 星空 and 王冠 "
        "are Chinese to it",
    )
    en_min_probability: Share = Field(
        0.0, description="of the tags; 0: all, as `kimono`, `ahoge` and names are no English to it"
    )
    filters: TagFilters = Field(
        default_factory=TagFilters, description="in place of corpora.filters"
    )


class LaionSource(FileSource):
    """Metadata of laion2B-multi or Re-LAION, parquet: captions of one language, their pictures'
    addresses, no English.
    """

    kind: Literal["laion"]
    path: Path
    language: str | None = Field(
        None, description="as the metadata calls it; null: the code of the student's language"
    )


PairSource = (
    TsvSource | ParquetSource | MosesSource | TmxSource | WmtTestSource | HubSource | TagsSource
)
Source = Annotated[ToyworldSource | EmojiworldSource | PairSource, Field(discriminator="kind")]
KINDS: dict[str, type[Section]] = {
    model.model_fields["kind"].annotation.__args__[0]: model  # type: ignore[union-attr]
    for model in (
        ToyworldSource,
        EmojiworldSource,
        TsvSource,
        ParquetSource,
        MosesSource,
        TmxSource,
        WmtTestSource,
        HubSource,
        TagsSource,
    )
}
