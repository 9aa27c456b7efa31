"""Captioned pictures to fine-tune with: where they come from, and how they are cut to size.

No network is needed but by `hub`. A column is named as the source names it; an English caption is
read where `en` says where it stands.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from configs.schema.section import Positive, Section

Path = Annotated[str, Field(min_length=1)]


class PictureSource(Section):
    """What every source of pictures may say of itself."""

    licence: str | None = Field(None, description="of the pictures and captions; for the card")


class FolderPictures(PictureSource):
    """A folder with `metadata.jsonl` or `metadata.csv` (the imagefolder of `datasets`), or with
    `NAME.txt` beside each picture, a caption a line.
    """

    kind: Literal["folder"]
    path: Path
    image: str = Field("file_name", description="the column of paths below the folder")
    caption: str = Field("text", description="a text, or in JSON a list of texts")
    en: str | None = None


class CsvPictures(PictureSource):
    """A table of picture and caption; a picture may stand in several rows."""

    kind: Literal["csv"]
    path: Path = Field(description="the file, or a folder that holds captions.csv")
    images: Path | None = Field(
        None, description="the pictures' folder; null: `images` beside the file, else its own"
    )
    header: bool = True
    image: str | int = Field(0, description="a column's name, or its number from 0")
    caption: str | int = 1
    en: str | int | None = None

    @model_validator(mode="after")
    def _names_need_a_header(self) -> Self:
        named = [one for one in (self.image, self.caption, self.en) if isinstance(one, str)]
        if named and not self.header:
            raise ValueError(
                f"a csv without a header has no column {named[0]!r}: write its number from 0, or "
                "header: true"
            )
        return self


class ShardPictures(PictureSource):
    """Tar files of img2dataset or webdataset: `NAME.jpg` with `NAME.json`, `NAME.txt` or both."""

    kind: Literal["shards"]
    path: Path = Field(description="a glob of tar files, or a range: {00000..00099}.tar")
    caption: str = Field("caption", description="a key of NAME.json, else NAME.txt")
    en: str | None = Field(None, description="a key of NAME.json, or the ending of a file")


class HubPictures(PictureSource):
    """A data set that `datasets` can stream: ORG/NAME on the Hugging Face Hub, or a folder."""

    kind: Literal["hub"]
    name: str
    config: str | None = None
    split: str = "train"
    revision: str | None = None
    image: str = "image"
    caption: str = Field(description="a column of texts or of lists of texts")
    en: str | None = None

    @property
    def dataset(self) -> str:
        return self.name


class CocoPictures(PictureSource):
    """COCO's caption format: a JSON file with `images` and `annotations`; STAIR, YJ Captions."""

    kind: Literal["coco"]
    captions: Path
    images: Path = Field(description="the folder of the pictures, such as train2014")
    en: Path | None = Field(None, description="a file of English captions for the same image ids")


class ToyworldPictures(PictureSource):
    """Scenes of toyworld that anyone may be trained on, painted by its renderer and said in both
    languages; those with kamon in Japanese alone.
    """

    kind: Literal["toyworld"]
    world: Literal["toyworld", "kamon"] = Field(
        "toyworld", description="kamon: scenes with a shape that has a Japanese name only"
    )
    scenes: Positive
    style: Literal["plain", "shaded", "soft", "wavy"] = "plain"
    seed: int = 0


PICTURE_KINDS: dict[str, type[Section]] = {
    "folder": FolderPictures,
    "csv": CsvPictures,
    "shards": ShardPictures,
    "hub": HubPictures,
    "coco": CocoPictures,
    "toyworld": ToyworldPictures,
}
AnyPictures = Annotated[
    FolderPictures | CsvPictures | ShardPictures | HubPictures | CocoPictures | ToyworldPictures,
    Field(discriminator="kind"),
]


class Buckets(Section):
    """Sizes that pictures are cut to, in pixels."""

    step: Positive = Field(64, description="every side is a multiple of it")
    min_side: Positive = 512
    max_side: Positive = 2048

    @model_validator(mode="after")
    def _sides_are_steps(self) -> Self:
        for name in ("min_side", "max_side"):
            if getattr(self, name) % self.step:
                raise ValueError(
                    f"pictures.buckets.{name} ({getattr(self, name)}) must be a multiple of "
                    f"pictures.buckets.step ({self.step})"
                )
        if self.min_side > self.max_side:
            raise ValueError(
                f"pictures.buckets.min_side ({self.min_side}) must not be above "
                f"pictures.buckets.max_side ({self.max_side})"
            )
        return self


class PictureData(Section):
    """Sources of captioned pictures to buckets and latents."""

    resolution: Positive = Field(
        1024, description="a bucket has at most the area of the square of this side, in pixels"
    )
    buckets: Buckets | None = Field(
        default_factory=Buckets, description="null: one square for all pictures"
    )
    crop: Literal["center", "random"] = "center"
    crops: Positive = Field(1, description="with crop: random, how many of a picture are cached")
    flip: bool = Field(
        False, description="caches every crop mirrored too; wrong where captions say left or right"
    )
    max_aspect: float = Field(
        4.0, ge=1.0, le=20.0, description="longer over shorter side; a wider picture is dropped"
    )
    max_enlargement: float = Field(
        2.0,
        ge=1.0,
        description="a picture that would have to be enlarged more to fill its bucket is dropped",
    )
    held_out: int = Field(0, ge=0, description="pictures that are never trained on")
    sources: list[AnyPictures] = Field(min_length=1)

    @model_validator(mode="after")
    def _sizes_agree(self) -> Self:
        if self.buckets is not None:
            least = self.buckets.min_side
            if not least <= self.resolution <= self.buckets.max_side:
                raise ValueError(
                    f"pictures.resolution ({self.resolution}) must lie between "
                    f"pictures.buckets.min_side ({least}) and max_side ({self.buckets.max_side})"
                )
        if self.crops > 1 and self.crop == "center":
            raise ValueError(
                f"pictures.crops is {self.crops} and pictures.crop is center, which gives one; "
                "several want crop: random"
            )
        return self
