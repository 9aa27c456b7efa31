"""The captions of pictures: how they are ranked by the picture, which are kept, how the Japanese
ones are said in English.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from configs.references import ModelName
from configs.schema.section import Positive, Section, Share
from configs.schema.sources import LaionSource


class Shards(Section):
    """Pictures as img2dataset stores them: a glob of tar files, `000000001.jpg`, `.txt` and `.json`
    in each.
    """

    kind: Literal["shards"]
    path: str


class Files(Section):
    """Pictures as files below a folder; the metadata's URL column holds their paths."""

    kind: Literal["files"]
    path: str


class SimilarityColumn(Section):
    """No pictures: the metadata's `similarity` ranks the captions, as laion2B-multi's does (its
    model is no Japanese one).
    """

    kind: Literal["similarity_column"]


Images = Annotated[Shards | Files | SimilarityColumn, Field(discriminator="kind")]
IMAGE_KINDS: dict[str, type[Section]] = {
    "shards": Shards,
    "files": Files,
    "similarity_column": SimilarityColumn,
}


class Ranker(Section):
    model: ModelName = Field(
        description="rinna's CLOOB, or a CLIP or SigLIP of transformers: a folder, hub name, or "
        "toyworld:NAME"
    )
    tokenizer: ModelName | None = Field(
        None,
        description="a CLOOB's SentencePiece model, where its folder has none: "
        "rinna/japanese-roberta-base's",
    )
    batch_size: Positive = 64


class TranslationGuards(Section):
    """What a translation must be to be kept."""

    min_probability: Share = Field(0.5, description="of English, by the language identifier")
    max_length_ratio: float = Field(
        6.0, gt=1.0, description="longer side over shorter, in UTF-8 bytes"
    )
    max_repetitions: Positive = Field(
        3, description="of one run of words on end, and of characters four times as many"
    )


class Translator(Section):
    model: ModelName = Field(
        description="a Marian, NLLB, M2M100 or MADLAD of transformers: a folder, hub name, or "
        "toyworld:NAME"
    )
    engine: Literal["ctranslate2", "transformers"] = Field(
        "ctranslate2", description="the first is the faster, the second the plain way"
    )
    precision: Literal["int8", "float16", "bfloat16", "float32"] = Field(
        "float32", description="of ctranslate2; transformers computes in float32"
    )
    beams: Positive = Field(1, description="1 is greedy search")
    tokens_per_batch: Positive = Field(8192, description="of the source, pads included")
    max_new_tokens: Positive = Field(128, description="a translation is cut here; SDXL reads 77")
    guards: TranslationGuards = Field(default_factory=TranslationGuards)


class BackTranslation(Section):
    """Translations are said in Japanese again; those that come back too unlike their caption are
    dropped.
    """

    translator: Translator = Field(
        description="English to Japanese: its own model, or the same one where it knows both "
        "directions"
    )
    min_chrf: float = Field(
        20.0,
        ge=0.0,
        le=100.0,
        description="chrF of the Japanese that came back, against the caption",
    )


class Captions(Section):
    """Metadata of captions to pairs.

    Language identification, lengths and `workers` are those of `corpora`.
    """

    source: LaionSource
    images: Images
    ranker: Ranker | None = Field(None, description="none where a column ranks")
    keep: Positive | None = Field(
        None,
        description="how many captions, those that fit their pictures best; null: all that have "
        "one",
    )
    unsafe: list[str] = Field(
        ["NSFW", "UNSURE"],
        description="rows the metadata labels so (NSFW, UNSAFE columns) are dropped; none: all are "
        "kept",
    )
    max_unsafe_probability: Share = Field(
        0.1, description="rows with more than this in a PUNSAFE column are dropped"
    )
    translator: Translator
    back_translation: BackTranslation | None = None
    shard_rows: Positive = 100_000

    @model_validator(mode="after")
    def _pictures_are_ranked_by_a_model(self) -> Self:
        if (self.ranker is None) != (self.images.kind == "similarity_column"):
            have = "no captions.ranker" if self.ranker is None else "a captions.ranker too"
            raise ValueError(
                f"captions.images is of kind {self.images.kind!r}, and there is {have}; pictures "
                "want a ranker, a column wants none"
            )
        return self
